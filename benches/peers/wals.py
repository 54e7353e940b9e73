"""Weighted alternating least squares beside the library implicit's (PyPI, CPU): the same data, weights and start, exactly and by conjugate gradients.

    pip install implicit scipy
    cargo build --release
    python benches/peers/wals.py ratings.csv --generate 20000 5000 1030000 --dim 64 --out wals.json

`ratings.csv` is user,item,rating,timestamp, with a header and a pair at most once; `--generate` writes one. Ours fits one sweep; from its factors both go on for four more. CPU seconds
a sweep are those of our process with five sweeps less those with one, by four, and implicit's process time by four; ours and implicit in turn, the order
changing, medians. The objectives are computed here, in f64.
"""

import argparse
import csv
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"
import implicit
import implicit.cpu.als as als
import numpy as np
import scipy.sparse as sparse


def factors(folder):
    with open(os.path.join(folder, "embeddings.safetensors"), "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = file.read()
    about = json.loads(header["__metadata__"]["wgloss"])
    read = lambda name: np.frombuffer(data[slice(*header[name]["data_offsets"])], "<f4").reshape(header[name]["shape"])
    return about, read("users").copy(), read("items").copy()


def generate(path, users, items, count):
    """About `count` interactions: the activity of users lognormal, the popularity of items a power of their rank, values from 1 to 5."""
    random = np.random.default_rng(3)
    activity = np.maximum(4.0, random.lognormal(3.5, 0.95, users))
    activity = np.clip((activity * (count / activity.sum())).astype(int), 4, items // 2)
    popularity = -0.8 * np.log(np.arange(items) + 20.0)
    with open(path, "w") as file:
        file.write("user,item,rating,timestamp\n")
        for user, taken in enumerate(activity):
            found = np.argpartition(-(popularity + random.gumbel(size=items)), taken)[:taken]
            for stamp, (item, value) in enumerate(zip(found, random.integers(1, 6, taken))):
                file.write(f"{user},{item},{value},{stamp}\n")


def matrix(path, ids):
    """What ours trained on: all but the last of each user that has three."""
    users, items = ({name: at for at, name in enumerate(ids[side])} for side in ("users", "items"))
    rows = [[] for _ in users]
    with open(path, newline="") as file:
        for user, item, value, stamp in list(csv.reader(file))[1:]:
            rows[users[user]].append((float(stamp), items[item], float(value)))
    entries = []
    for user, row in enumerate(rows):
        row.sort(key=lambda entry: entry[0])
        entries += [(user, item, value) for _, item, value in (row[:-1] if len(row) >= 3 else row)]
    user, item, value = zip(*entries)
    return sparse.csr_matrix((np.float32(value), (user, item)), shape=(len(users), len(items)))


def objective(data, ridge, users, items):
    """sum w (1 - s)^2 over what was observed, w the value, and s^2 over all others; ridge (|users|^2 + |items|^2)."""
    users, items = users.astype(np.float64), items.astype(np.float64)
    rows = np.repeat(np.arange(data.shape[0]), np.diff(data.indptr))
    sum = np.tensordot(users.T @ users, items.T @ items)
    for at in range(0, data.nnz, 1 << 16):
        part = slice(at, at + (1 << 16))
        s = np.einsum("ij,ij->i", users[rows[part]], items[data.indices[part]])
        sum += np.sum(data.data[part] * (1 - s) ** 2 - s * s)
    return float(sum + ridge * (np.sum(users**2) + np.sum(items**2)))


def ours(args, steps, sweeps, folder):
    command = [args.wgloss, "wals", "--interactions", args.ratings, "--preset", "implicit", "--dim", str(args.dim)]
    command += ["--steps", str(steps), "--sweeps", str(sweeps), "--out", folder, "--overwrite"]
    command += ["--held-out-users", str(2**32 - 1)]  # all, as `matrix` has it
    spent = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = spent()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return spent() - before


def theirs(args, data, start, ridge, by_steps):
    model = als.AlternatingLeastSquares(
        factors=args.dim, regularization=ridge, alpha=1.0, num_threads=args.threads, use_cg=by_steps, iterations=4
    )
    model.user_factors, model.item_factors = start[0].copy(), start[1].copy()
    before = time.process_time()
    model.fit(data, show_progress=False)
    return (time.process_time() - before) / 4, model.user_factors, model.item_factors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ratings")
    parser.add_argument("--generate", type=int, nargs=3, metavar=("USERS", "ITEMS", "INTERACTIONS"), help="write the file first")
    parser.add_argument("--wgloss", default="target/release/wgloss")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 1, 2], help="of ours; 0: exactly, beside implicit's Cholesky")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.generate:
        generate(args.ratings, *args.generate)
    report = {"implicit": implicit.__version__, "threads": args.threads, "dim": args.dim}
    with tempfile.TemporaryDirectory() as folder:
        one, five = (os.path.join(folder, name) for name in ("one", "five"))
        for steps in args.steps:
            ours(args, steps, 1, one)  # compiles the kernels
            about, *start = factors(one)
            data = matrix(args.ratings, json.load(open(os.path.join(one, "ids.json"))))
            ridge = about["regularization"]
            seconds = {"ours": [], "implicit": []}
            found = {}

            def run_ours():
                first = ours(args, steps, 1, one)
                seconds["ours"].append((ours(args, steps, 5, five) - first) / 4)
                found["ours"] = factors(five)[1:]

            def run_theirs():
                spent, *found["implicit"] = theirs(args, data, start, ridge, steps > 0)
                seconds["implicit"].append(spent)

            for round in range(args.rounds):
                for run in [run_ours, run_theirs][:: 1 if round % 2 == 0 else -1]:
                    run()
            some = data[:2000].toarray() > 0
            best = lambda u, i: np.argsort(np.where(some, np.inf, -(u[:2000] @ i.T)), axis=1, kind="stable")[:, :10]
            pairs = zip(best(*found["ours"]), best(*found["implicit"]))
            medians = {who: statistics.median(all) for who, all in seconds.items()}
            report.update(users=data.shape[0], items=data.shape[1], interactions=int(data.nnz), adapter=about["adapter"])
            report["exact" if steps == 0 else f"steps_{steps}"] = {
                "cpu_s": seconds,
                "median_cpu_s": medians,
                "implicit_over_ours": medians["implicit"] / medians["ours"],
                "objective": {who: objective(data, ridge, *tables) for who, tables in found.items()},
                "largest_difference": max(
                    float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found["ours"], found["implicit"])
                ),
                "recommendations_shared": float(np.mean([len(set(a) & set(b)) / 10 for a, b in pairs])),
            }
    text = json.dumps(report, indent=1)
    print(text)
    if args.out:
        with open(args.out, "w") as file:
            file.write(text + "\n")


main()
