#!/usr/bin/env python3
"""Two small towers trained on the bundled digits, in PyTorch and in float64.

What it is: the same training as wgloss's, written a second time from its
description (random numbers, split, initial weights, batches, loss, optimiser)
with numpy and torch only. A test compares wgloss's first losses with the ones
recorded here in tests/golden/train_digits.json.

The model: the upper half of each 8 x 8 image (32 pixels) is the query, the
lower half its key. Each has its own tower, linear -> tanh -> linear -> unit
length, and the loss is the symmetric InfoNCE over the batch with a learnable
log-scale. torch.optim.SGD with momentum.

"loss" holds the losses of batches 0, 1, 2, ..., each taken before the step that
uses it. The held-out pairs are scored before the first step and after the last.

How to run it, from the root of the repository, with numpy and torch installed:

    python tests/peers/train_digits.py            # prints, writes nothing
    python tests/peers/train_digits.py --out tests/golden/train_digits.json

The known answers of the random number generator are checked on every run.
"""

import argparse
import csv
import json
import math
import pathlib

import numpy as np
import torch

FORMAT = "wgloss-train-digits-1"
DATA = pathlib.Path(__file__).resolve().parents[2] / "data" / "digits.csv"

HELD_OUT = 0.2
TEMPERATURE = 0.07
SCALE_MAX = 100.0
NORM_EPS = 1e-12
LOG_SCALE_RATE = 0.01  # the log-scale's rate is the weights' rate times this

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
MASK = 0xFFFFFFFF


def philox4x32_10(key, counter):
    """One block of four 32-bit words (Salmon et al. 2011)."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return c0, c1, c2, c3


def check_philox():
    """The known answers published with the generator."""
    cases = [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((MASK,) * 2, (MASK,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for key, counter, want in cases:
        got = philox4x32_10(key, counter)
        if got != want:
            raise SystemExit(f"philox4x32-10: key {key}, counter {counter}: {got}, not {want}")


class Random:
    """The words of one stream: blocks 0, 1, 2, ... of four words each."""

    def __init__(self, seed, stream):
        self.key = (seed & MASK, (seed >> 32) & MASK)
        self.stream = stream
        self.block = 0
        self.words = []

    def word(self):
        if not self.words:
            counter = (self.block & MASK, self.block >> 32, 0, self.stream)
            self.words = list(philox4x32_10(self.key, counter))
            self.block += 1
        return self.words.pop(0)

    def uniform(self):
        """In [0, 1), a multiple of 2^-24: exact in float32."""
        return (self.word() >> 8) * 2.0**-24

    def below(self, n):
        return (self.word() * n) >> 32

    def permutation(self, n):
        order = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return order


def read_pairs(path):
    """Queries and keys [n, 32]: the upper and the lower half of each image, 0 to 1."""
    with open(path, newline="") as lines:
        rows = [row for row in csv.reader(lines) if row]
    if not rows[0][0].strip().isdigit():
        rows = rows[1:]  # a header
    if any(len(row) != 65 for row in rows):
        raise SystemExit(f"{path}: each row must have 64 pixels and a label")
    pixels = np.array(rows, dtype=np.float64)[:, :64] / 16.0
    return torch.from_numpy(pixels[:, :32].copy()), torch.from_numpy(pixels[:, 32:].copy())


def split(n, seed):
    """Indices to train on, and those held out."""
    order = Random(seed, 0).permutation(n)
    held = math.floor(HELD_OUT * n + 0.5)
    return order[held:], order[:held]


def initial_towers(seed, widths):
    """Two towers, each a list of weight, bias, weight, bias; float32 values in float64."""
    random = Random(seed, 1)

    def values(shape, bound):
        count = int(np.prod(shape))
        unit = np.array([2.0 * random.uniform() - 1.0 for _ in range(count)], dtype=np.float32)
        rounded = (unit * bound).astype(np.float32).astype(np.float64)
        return torch.from_numpy(rounded.reshape(shape)).requires_grad_()

    towers = []
    for _ in range(2):
        tower = []
        for inputs, outputs in zip(widths, widths[1:]):
            bound = np.float32(1.0 / math.sqrt(inputs))
            tower += [values((outputs, inputs), bound), values((outputs,), bound)]
        towers.append(tower)
    return towers


def embed(tower, x):
    for at in range(0, len(tower), 2):
        x = x @ tower[at].T + tower[at + 1]
        if at + 2 < len(tower):
            x = torch.tanh(x)
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(NORM_EPS)


def info_nce(q, k, log_scale):
    scores = torch.clamp(torch.exp(log_scale), max=SCALE_MAX) * (q @ k.T)
    own = torch.arange(len(q))
    rows = torch.nn.functional.cross_entropy(scores, own)
    columns = torch.nn.functional.cross_entropy(scores.T, own)
    return 0.5 * (rows + columns)


def ranks(q, k):
    """Rank (from 0) of each query's own key; of equal scores the smaller index is first."""
    scores = (q @ k.T).numpy()
    own = np.diag(scores)[:, None]
    index = np.arange(len(scores))
    earlier = index[None, :] < index[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(axis=1)


def retrieval(towers, queries, keys):
    with torch.no_grad():
        rank = ranks(embed(towers[0], queries), embed(towers[1], keys))
    return {
        "recall_at_1": float((rank < 1).mean()),
        "recall_at_10": float((rank < 10).mean()),
        "mrr": float((1.0 / (rank + 1)).mean()),
    }


def batches(n, batch, seed):
    """Lists of positions in the training list, without end; an incomplete last batch is dropped."""
    epoch = 0
    while True:
        order = Random(seed, 2 + epoch).permutation(n)
        for start in range(0, n - batch + 1, batch):
            yield order[start : start + batch]
        epoch += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--out", type=pathlib.Path, help="where to write the JSON")
    args = parser.parse_args()

    check_philox()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)

    queries, keys = read_pairs(DATA)
    train, held = split(len(queries), args.seed)
    if not 1 <= args.batch <= len(train):
        raise SystemExit(f"--batch must be 1 to {len(train)}")
    train_q, train_k = queries[train], keys[train]
    held_q, held_k = queries[held], keys[held]

    towers = initial_towers(args.seed, [queries.shape[1], args.hidden, args.dim])
    start = float(np.float32(math.log(1.0 / TEMPERATURE)))
    log_scale = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD(
        [
            {"params": towers[0] + towers[1]},
            {"params": [log_scale], "lr": args.lr * LOG_SCALE_RATE},
        ],
        lr=args.lr,
        momentum=args.momentum,
    )

    before = retrieval(towers, held_q, held_k)
    losses = []
    for step, rows in zip(range(args.steps), batches(len(train), args.batch, args.seed)):
        optimiser.zero_grad()
        loss = info_nce(embed(towers[0], train_q[rows]), embed(towers[1], train_k[rows]), log_scale)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if step % 10 == 0 or step == args.steps - 1:
            print(f"step {step:5d}  loss {losses[-1]:.6f}")
    after = retrieval(towers, held_q, held_k)

    record = {
        "format": FORMAT,
        "torch": torch.__version__.split("+")[0],
        "dtype": "float64",
        "data": "data/digits.csv",
        "seed": args.seed,
        "steps": args.steps,
        "batch": args.batch,
        "inputs": queries.shape[1],
        "hidden": args.hidden,
        "dim": args.dim,
        "lr": args.lr,
        "log_scale_lr": args.lr * LOG_SCALE_RATE,
        "momentum": args.momentum,
        "scale_max": SCALE_MAX,
        "held_out_fraction": HELD_OUT,
        "n_train": len(train),
        "n_held_out": len(held),
        "log_scale_before": start,
        "log_scale_after": log_scale.item(),
    }
    for name in before:
        record[f"{name}_before"] = before[name]
        record[f"{name}_after"] = after[name]
    record["loss"] = losses

    for name in before:
        print(f"{name:12s}  before {before[name]:.4f}  after {after[name]:.4f}")
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
