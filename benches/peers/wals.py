"""Our weighted alternating least squares beside the library implicit's (PyPI, CPU), on one file and from one start.

    wgloss wals --interactions ratings.csv --preset implicit --sweeps 1 --out one
    wgloss wals --interactions ratings.csv --preset implicit --sweeps 5 --out five
    pip install implicit scipy
    python benches/peers/wals.py ratings.csv one five

implicit goes on from the items of the first for four iterations by Cholesky; what it then has should be the second. It also says how long its
iterations take, in CPU seconds, beside ours. `ratings.csv` is user,item,rating,timestamp, with a header and a pair at most once.
"""

import csv
import json
import os
import struct
import sys
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


def fit(model, data, count, items):
    model.iterations = count
    model.user_factors = np.zeros((data.shape[0], items.shape[1]), np.float32)
    model.item_factors = items.copy()
    start = time.process_time()
    model.fit(data, show_progress=False)
    return (time.process_time() - start) / count


def main():
    path, one, five = sys.argv[1:]
    about, _, start = factors(one)
    _, users, items = factors(five)
    data = matrix(path, json.load(open(os.path.join(one, "ids.json"))))
    if about["preset"] != "Implicit { alpha: 1.0 }":
        sys.exit(f"{one}: expected a run with --preset implicit, found {about['preset']}")
    options = dict(factors=about["dim"], regularization=about["regularization"], alpha=1.0, num_threads=2)
    exact = als.AlternatingLeastSquares(use_cg=False, **options)
    cholesky = fit(exact, data, 4, start)
    off = max(np.abs(ours - theirs).max() / np.abs(theirs).max() for ours, theirs in ((users, exact.user_factors), (items, exact.item_factors)))
    some = slice(0, 2000)
    data_some = data[some]
    best = lambda u, i: np.argsort(-np.where(data_some.toarray() > 0, -np.inf, u[some] @ i.T), axis=1, kind="stable")[:, :10]
    mine, theirs = best(users, items), best(exact.user_factors, exact.item_factors)
    same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(mine, theirs)])
    steps = fit(als.AlternatingLeastSquares(use_cg=True, **options), data, 4, start)
    print(json.dumps({
        "users": data.shape[0], "items": data.shape[1], "interactions": int(data.nnz), "dim": about["dim"], "implicit": implicit.__version__,
        "largest_difference": float(off), "recommendations_shared": float(same),
        "implicit_cholesky_cpu_s": cholesky, "implicit_cg_cpu_s": steps,
    }))


main()
