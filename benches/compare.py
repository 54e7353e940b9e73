#!/usr/bin/env python3
"""Times wgloss and a peer, PyTorch or burn, side by side, case by case, in both orders: see benches/README.md.

The interpreter that has PyTorch is named by the environment variable PYTHON, python3 by default. burn is built by cargo, half an
hour on two cores the first time; CARGO_TARGET_DIR says where.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
OURS = ["cargo", "bench", "--quiet", "--package", "wgloss", "--bench", "losses"]
PEERS = {
    "torch": [os.environ.get("PYTHON", "python3"), str(ROOT / "benches/peers/losses.py")],
    "burn": ["cargo", "run", "--quiet", "--release", "--manifest-path", str(ROOT / "benches/peers/burn/Cargo.toml"), "--"],
}
OF_BURN = ("softmax", "cross_entropy", "info_nce")
SIDES = ("ours", "peer")
CLOCKS = ("wall", "cpu")


def run(command, **options):
    """Its standard output; what it says on standard error is shown."""
    try:
        return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, **options).stdout
    except FileNotFoundError:
        sys.exit(f"{command[0]} is missing.")
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{' '.join(command)}` failed with exit code {error.returncode}.")


def run_side(side, case, arguments):
    """One process of one side: its provenance and its times."""
    common = ["--case", case, "--calls", str(arguments.calls)]
    threads = arguments.threads
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", f"{folder}/lines"]
        if side == "ours":
            limit = {"LP_NUM_THREADS": str(threads)} if threads else {}  # the threads of llvmpipe
            run([*OURS, "--", *common, *out], env=os.environ | limit)
        elif arguments.peer == "burn":
            run([*PEERS["burn"], *common, *out])
        else:
            limit = ["--threads", str(threads)] if threads else []
            compiled = ["--compile"] if arguments.compile else []
            run([*PEERS["torch"], *common, *out, *limit, *compiled, "--device", arguments.device])
        provenance, times = map(json.loads, pathlib.Path(folder, "lines").read_text().splitlines())
    return provenance["provenance"], times


def compare(case, arguments):
    """The record of a case, and the provenance of both sides."""
    rounds, provenance, facts, first, memory = [], {}, {}, {}, {}
    for number in range(arguments.rounds):
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        samples = {}
        for side in order:
            provenance[side], times = run_side(side, case, arguments)
            facts[side] = {key: times[key] for key in ("case", "rows", "cols", "bytes")}
            first.setdefault(side, times.get("first_wall_s"))
            memory[side] = times.get("memory_bytes")
            samples[side] = {clock: times[f"{clock}_samples_s"] for clock in CLOCKS}
        rounds.append({"order": order, **samples})
    if facts["ours"] != facts["peer"]:
        sys.exit(f"{case}: the two sides do not do the same: {facts}")
    record = facts["ours"] | {f"{side}_first_wall_s": first[side] for side in SIDES}
    record |= {f"{side}_memory_bytes": memory[side] for side in SIDES}
    for clock in CLOCKS:
        for side in SIDES:
            record[f"{side}_{clock}_s"] = statistics.median(s for each in rounds for s in each[side][clock])
        record[f"ratio_{clock}"] = record[f"peer_{clock}_s"] / record[f"ours_{clock}_s"]
    medians = [{side: statistics.median(each[side]["wall"]) for side in SIDES} for each in rounds]
    ratios = [median["peer"] / median["ours"] for median in medians]
    return {**record, "ratio_wall_range": [min(ratios), max(ratios)], "rounds": rounds}, provenance


def table(records):
    head = ["case", "ours wall", "cpu", "MiB", "peer wall", "cpu", "MiB", "ratio wall", "rounds", "cpu"]
    rows = [head]
    for record in records:
        sides = []
        for side in SIDES:
            memory = record[f"{side}_memory_bytes"]
            sides += [f"{record[f'{side}_{clock}_s'] * 1e3:.2f}" for clock in CLOCKS]
            sides.append("?" if memory is None else f"{memory / 2**20:.0f}")
        spread = "-".join(f"{ratio:.2f}" for ratio in record["ratio_wall_range"])
        ratios = [f"{record['ratio_wall']:.2f}", spread, f"{record['ratio_cpu']:.2f}"]
        rows.append([f"{record['case']} {record['rows']}x{record['cols']}", *sides, *ratios])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [[row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))] for row in rows]
    return "\n".join("  ".join(line) for line in lines)


def describe(provenance):
    ours, peer = provenance["ours"], provenance["peer"]
    text = f"ours: wgloss {ours['wgloss']}, {ours['adapter']}, {ours['driver']}, {ours['backend']}; {ours['cpu']}\n"
    if "burn" in peer:
        return text + f"peer: burn {peer['burn']}, {peer['device']}"
    mode = "compiled" if peer["compiled"] else "eager"
    return text + f"peer: PyTorch {peer['torch']}, {mode}, {peer['device']}, {peer['threads']} threads"


def record_path(arguments, adapter):
    """Where to write; nowhere for a part of the cases, unless a path is given."""
    if arguments.out or arguments.case:
        return arguments.out
    slug = re.sub("[^a-z0-9]+", "-", adapter.lower()).strip("-")
    beside = "" if arguments.peer == "torch" else f"-{arguments.peer}"
    return ROOT / f"benches/record/{slug}-losses{beside}.json"


def as_text(head, records):
    """JSON with a line per case: the samples of one below each other would bury the rest."""
    lines = ",\n".join(json.dumps(record) for record in records)
    return json.dumps(head, indent=1).removesuffix("\n}") + f',\n "cases": [\n{lines}\n ]\n}}\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, default="torch", help="beside what; default: torch")
    parser.add_argument("--case", help="only this: softmax, or softmax_4096x4096; writes no record without --out")
    parser.add_argument("--rounds", type=int, default=4, help="pairs of processes per case, each in the other order")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch and of llvmpipe; default: all")
    parser.add_argument("--calls", type=int, default=1, help="calls a sample; more where one takes below a millisecond")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where PyTorch runs")
    parser.add_argument("--compile", action="store_true", help="PyTorch with torch.compile")
    parser.add_argument("--out", type=pathlib.Path, help="the record; default: benches/record/<adapter>-losses.json")
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.rounds % 2:
        parser.error("--rounds must be even, so that both orders count alike")

    run([*PEERS[arguments.peer], "--help"])  # fails if PyTorch is missing, before anything is built
    run([*OURS, "--no-run"])
    wish = ["--case", arguments.case] if arguments.case else []
    cases = run([*OURS, "--", "--list", *wish]).split()
    if arguments.peer == "burn":
        cases = [case for case in cases if case.rpartition("_")[0] in OF_BURN]
    head = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": run(["git", "describe", "--always", "--dirty"]).strip(),
        "load_before": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }
    records = []
    for number, case in enumerate(cases, 1):
        print(f"{number}/{len(cases)} {case}", file=sys.stderr)
        record, provenance = compare(case, arguments)
        records.append(record)
    print(f"{describe(provenance)}\nmilliseconds, medians; ratio: peer / ours, above 1 wgloss is faster\n\n{table(records)}")
    if path := record_path(arguments, provenance["ours"]["adapter"]):
        path.parent.mkdir(exist_ok=True)
        path.write_text(as_text({**head, **provenance}, records))
        print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
