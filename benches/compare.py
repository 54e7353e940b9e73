#!/usr/bin/env python3
"""Times wgloss and a peer, PyTorch or burn, side by side, case by case, in both orders: see benches/README.md.

The interpreter that has PyTorch is named by the environment variable PYTHON, python3 by default. burn is built by cargo, half an
hour on two cores the first time; CARGO_TARGET_DIR says where.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
OURS = ["cargo", "run", "--quiet", "--release", "--", "bench"]
PEERS = {
    "torch": [os.environ.get("PYTHON", "python3"), str(ROOT / "benches/peers/losses.py")],
    "burn": ["cargo", "run", "--quiet", "--release", "--manifest-path", str(ROOT / "burn/Cargo.toml"), "--features", "autotune",
             "--example", "bench", "--"],
}
SIDES = ("ours", "peer")
CASES = [f"{op}_{shape}" for op in ("softmax", "cross_entropy", "kl") for shape in ("4096x4096", "32x131072")]
CASES += ["bce_4096x4096", "l2_4096x4096", "info_nce_1024x128", "info_nce_4096x128", "info_nce_8192x256"]
OF_BURN = ("softmax", "cross_entropy", "kl", "info_nce", "siglip")


def run(command, **options):
    """Fails with a sentence; what the command says on standard error is shown."""
    try:
        return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, **options).stdout
    except FileNotFoundError:
        sys.exit(f"{command[0]} is missing.")
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{' '.join(command)}` failed with exit code {error.returncode}.")


def run_side(side, case, arguments):
    """One process of one side: its provenance and its case."""
    op, _, size = case.rpartition("_")
    threads = arguments.threads
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "result.json")
        if side == "ours":
            limit = {"LP_NUM_THREADS": str(threads)} if threads else {}  # the threads of llvmpipe
            wish = ["--adapter", adapter] if (adapter := os.environ.get("WGLOSS_ADAPTER")) else []
            run([*OURS, "--op", op, "--size", size, "--seconds", str(arguments.seconds), *wish, "--out", str(out)], env=os.environ | limit)
        elif arguments.peer == "burn":
            run([*PEERS["burn"], "--case", case, "--out", str(out)])
        else:
            limit = ["--threads", str(threads)] if threads else []
            how = ["--compile"] * arguments.compile + ["--tf32"] * arguments.tf32
            run([*PEERS["torch"], "--case", case, "--out", str(out), *limit, *how, "--device", arguments.device])
        result = json.loads(out.read_text())
    return result["provenance"], result["cases"][0]


def compare(case, arguments):
    """The record of a case, and the provenance of both sides."""
    rounds, provenance, last = [], {}, {}
    for number in range(arguments.rounds):
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        samples = {}
        for side in order:
            provenance[side], last[side] = run_side(side, case, arguments)
            samples[side] = {"samples_s": last[side]["samples_s"], "cpu_s": last[side]["cpu_s"]}
        rounds.append({"order": order, **samples})
    record = {"case": case}
    for side in SIDES:
        record[f"{side}_s"] = statistics.median(s for each in rounds for s in each[side]["samples_s"])
        record[f"{side}_cpu_s"] = statistics.median(each[side]["cpu_s"] for each in rounds)
        record |= {f"{side}_{key}": last[side].get(key) for key in ("first_s", "memory_bytes")}
    medians = [[statistics.median(each[side]["samples_s"]) for side in SIDES] for each in rounds]
    ratios = [peer / ours for ours, peer in medians]
    record |= {"ratio": record["peer_s"] / record["ours_s"], "ratio_cpu": record["peer_cpu_s"] / record["ours_cpu_s"]}
    return {**record, "ratio_range": [min(ratios), max(ratios)], "rounds": rounds}, provenance


def table(records):
    head = ["case", "ours ms", "cpu", "MiB", "peer ms", "cpu", "MiB", "ratio", "rounds", "cpu"]
    rows = [head]
    for record in records:
        sides = []
        for side in SIDES:
            memory = record[f"{side}_memory_bytes"]
            sides += [f"{record[f'{side}{key}'] * 1e3:.2f}" for key in ("_s", "_cpu_s")]
            sides.append("?" if memory is None else f"{memory / 2**20:.0f}")
        spread = "-".join(f"{ratio:.2f}" for ratio in record["ratio_range"])
        rows.append([record["case"], *sides, f"{record['ratio']:.2f}", spread, f"{record['ratio_cpu']:.2f}"])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [[row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))] for row in rows]
    return "\n".join("  ".join(line) for line in lines)


def as_text(head, records):
    """JSON with a line per case: the samples of one below each other would bury the rest."""
    lines = ",\n".join(json.dumps(record) for record in records)
    return json.dumps(head, indent=1).removesuffix("\n}") + f',\n "cases": [\n{lines}\n ]\n}}\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, default="torch", help="beside what; default: torch")
    parser.add_argument("--case", action="append", metavar="OP_ROWSxCOLS", help="only these; writes no record without --out")
    parser.add_argument("--rounds", type=int, default=4, help="pairs of processes per case, each in the other order")
    parser.add_argument("--seconds", type=float, default=1.0, help="for which ours is timed in each process")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch and of llvmpipe; default: all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where PyTorch runs")
    parser.add_argument("--compile", action="store_true", help="PyTorch with torch.compile")
    parser.add_argument("--tf32", action="store_true", help="PyTorch's products of float32 matrices in TF32")
    parser.add_argument("--out", type=pathlib.Path, help="the record; default: benches/record/<adapter>-losses.json")
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.rounds % 2:
        parser.error("--rounds must be even, so that both orders count alike")
    run([*PEERS[arguments.peer], "--help"])  # fails if PyTorch is missing, before anything is built
    run([*OURS, "--help"])
    cases = [case for case in arguments.case or CASES if arguments.peer == "torch" or case.rpartition("_")[0] in OF_BURN]
    head = {
        "unix_time": int(time.time()),
        "commit": run(["git", "describe", "--always", "--dirty"]).strip(),
        "load_before": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }
    records = []
    for number, case in enumerate(cases, 1):
        print(f"{number}/{len(cases)} {case}", file=sys.stderr)
        record, provenance = compare(case, arguments)
        records.append(record)
    for side in SIDES:
        print(f"{side}: {provenance[side]['by']}, {provenance[side]['adapter']}")
    print(f"medians; ratio: peer / ours, above 1 wgloss is faster\n\n{table(records)}")
    path = arguments.out
    if path is None and not arguments.case:
        slug = re.sub("[^a-z0-9]+", "-", provenance["ours"]["adapter"].lower()).strip("-")
        beside = "" if arguments.peer == "torch" else f"-{arguments.peer}"
        path = ROOT / f"benches/record/{slug}-losses{beside}.json"
    if path:
        path.parent.mkdir(exist_ok=True)
        path.write_text(as_text({**head, **provenance}, records))
        print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
