#!/usr/bin/env python3
"""The ops of `wgloss bench` in PyTorch, on the CPU or with CUDA, eager or compiled, as a result of the same format.

`--like FILE` takes the cases of a result of `wgloss bench`; `wgloss report` then shows both side by side.

What is counted is what a user runs: the call of torch's own function and, where there is a gradient, `backward()` through
autograd. softmax writes into an output that is kept; autograd allows no such thing, so the gradients are dropped before each
call, as optimizers do by default, and allocated anew. A sample is the mean of as many calls as take a while, and ends when the
device is done. CPU seconds are those of the process, user and system, all threads.
"""

import argparse
import json
import os
import platform
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("This comparison needs PyTorch: `python3 -m pip install torch`, or set PYTHON to an interpreter that has it.")

SCHEMA = "wgloss-bench/1"
WARM_UPS, SAMPLES, MOST_CALLS = 2, 7, 256
SAMPLE_S = 0.02  # a sample takes at least so long
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Make:
    """Inputs: normal with deviation 2, as in cli/src/bench/cases/numbers.rs."""

    def __init__(self, device, dtype, compiled):
        self.device, self.dtype, self.compiled = device, dtype, compiled

    def normal(self, shape, grad=True):
        return (2 * torch.randn(shape, device=self.device)).to(self.dtype).requires_grad_(grad)

    def uniform(self, shape):
        return torch.rand(shape, device=self.device).to(self.dtype)

    def unit(self, shape):
        return F.normalize(torch.randn(shape, device=self.device)).to(self.dtype).requires_grad_()


def with_gradients(function, *inputs):
    """A call of the loss and its gradients; `function` is the part that --compile compiles."""

    def call():
        for x in inputs:
            x.grad = None
        function(*inputs).backward()

    return call


# Each op: shape -> what to call.


def linear(shape, make):
    x, w = make.normal(shape, False), make.normal(shape, False)
    y = torch.empty(shape[0], shape[0], device=make.device, dtype=make.dtype)
    return lambda: torch.matmul(x, w.T, out=y)


def sigmoid(shape, make):
    x, y = make.normal(shape, False), torch.empty(shape, device=make.device, dtype=make.dtype)
    return make.compiled(lambda: torch.sigmoid(x, out=y))


def tanh(shape, make):
    x, y = make.normal(shape, False), torch.empty(shape, device=make.device, dtype=make.dtype)
    return make.compiled(lambda: torch.tanh(x, out=y))


def normalize(shape, make):
    x = make.normal(shape, False)
    function = make.compiled(lambda x: F.normalize(x))
    return lambda: function(x)


def softmax(shape, make):
    x, y = make.normal(shape, False), torch.empty(shape, device=make.device, dtype=make.dtype)
    return make.compiled(lambda: torch.softmax(x, 1, out=y))


def cross_entropy(shape, make):
    x, ids = make.normal(shape), torch.randint(shape[1], shape[:1], device=make.device)
    return with_gradients(make.compiled(lambda x: F.cross_entropy(x, ids)), x)


def linear_cross_entropy(shape, make):
    x, w = make.unit(shape), make.normal((8 * shape[0], shape[1]))
    ids = torch.arange(shape[0], device=make.device)
    return with_gradients(make.compiled(lambda x, w: F.cross_entropy(F.linear(x, w).float(), ids)), x, w)


def kl(shape, make):
    x, t = make.normal(shape), make.normal(shape)

    def loss(x, t):
        return F.kl_div(F.log_softmax(x, 1), F.log_softmax(t, 1), log_target=True, reduction="batchmean")

    return with_gradients(make.compiled(loss), x, t)


def linear_kl(shape, make):
    classes = (8 * shape[0], shape[1])
    x, w = make.unit(shape), make.normal(classes)
    teacher_x, teacher_w = make.unit(shape).detach(), make.normal(classes, False)

    def loss(x, w):
        with torch.no_grad():
            t = F.log_softmax(F.linear(teacher_x, teacher_w).float(), 1)
        return F.kl_div(F.log_softmax(F.linear(x, w).float(), 1), t, log_target=True, reduction="batchmean")

    return with_gradients(make.compiled(loss), x, w)


def bce(shape, make):
    x, t = make.normal(shape), make.uniform(shape)
    return with_gradients(make.compiled(lambda x: F.binary_cross_entropy_with_logits(x, t)), x)


def l2(shape, make):
    x, t = make.normal(shape), make.normal(shape, False)
    return with_gradients(make.compiled(lambda x: F.mse_loss(x, t)), x)


def gaussian_kl(shape, make):
    mean, log_variance = make.normal(shape), make.normal(shape)

    def loss(mean, log_variance):
        return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / shape[0]

    return with_gradients(make.compiled(loss), mean, log_variance)


def info_nce(shape, make):
    q, k = make.unit(shape), make.unit(shape)
    own, scale = torch.arange(shape[0], device=make.device), torch.tensor(1 / 0.07, device=make.device, requires_grad=True)

    def loss(q, k, scale):
        s = (scale * (q @ k.T)).float()
        return (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2

    return with_gradients(make.compiled(loss), q, k, scale)


def siglip(shape, make):
    q, k = make.unit(shape), make.unit(shape)
    sign = 2 * torch.eye(shape[0], device=make.device) - 1
    function = make.compiled(lambda q, k: -F.logsigmoid(sign * (10 * (q @ k.T) - 10).float()).sum() / shape[0])
    return with_gradients(function, q, k)


def sgd(shape, make):
    p = make.normal(shape)
    p.grad = make.normal(shape, False)
    optimizer = torch.optim.SGD([p], lr=0.01, fused=True)
    return optimizer.step


def adam(shape, make):
    p = make.normal(shape)
    p.grad = make.normal(shape, False)
    optimizer = torch.optim.Adam([p], fused=True)
    return optimizer.step


def top_k(shape, make):
    q, k = make.normal(shape, False), make.normal(shape, False)
    function = make.compiled(lambda q, k: torch.topk(q @ k.T, 10))
    return lambda: function(q, k)


def cast(shape, make):
    x = make.normal(shape, False).to(torch.float16)
    y = torch.empty(shape, device=make.device, dtype=make.dtype)
    return lambda: y.copy_(x)


def dot(shape, make):
    q, k = make.normal(shape, False), make.normal((shape[0], 16, shape[1]), False)
    function = make.compiled(lambda q, k: torch.einsum("nd,nkd->nk", q, k))
    return lambda: function(q, k)


def folding(shape, make):
    q, k, blocks = make.normal(shape, False), make.normal(shape, False), torch.arange(shape[0], device=make.device) % 61 % 3

    def sums(q, k):
        s, own = q @ k.T, blocks[:, None] == blocks
        return (s - own.to(s.dtype)).clamp(min=0).sum(), s.where(own, 0).sum()

    function = make.compiled(sums)
    return lambda: function(q, k)


def sample(shape, make):
    popular = torch.arange(1, 2**20 + 1, device=make.device) ** -0.75
    q = 0.75 * popular / popular.sum() + 0.25 / popular.numel()
    log_q, draws = q.log(), shape[0] * shape[1]

    def call():
        ids = torch.multinomial(q, draws, replacement=True)
        return ids, log_q[ids]

    return call


def clip(shape, make):
    p = make.normal(shape)
    p.grad = make.normal(shape, False)
    return lambda: torch.nn.utils.clip_grad_norm_([p], 1.0)


def gather(shape, make):
    table, ids = make.normal(shape, False), torch.randperm(shape[0], device=make.device)
    y = torch.empty(shape, device=make.device, dtype=make.dtype)
    return lambda: torch.index_select(table, 0, ids, out=y)


OPS = {
    op.__name__: op
    for op in (
        linear,
        sigmoid,
        tanh,
        normalize,
        softmax,
        cross_entropy,
        linear_cross_entropy,
        bce,
        l2,
        kl,
        linear_kl,
        gaussian_kl,
        info_nce,
        siglip,
        top_k,
        cast,
        dot,
        folding,
        gather,
        sample,
        sgd,
        adam,
        clip,
    )
}


def measure(call, synchronize):
    """Seconds of a call by the clock, sample by sample, CPU seconds of a call, and those of the first call."""

    def sample(calls):
        synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            call()
        synchronize()
        return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls

    first = sample(1)[0]
    calls = max(1, min(MOST_CALLS, int(SAMPLE_S / sample(1)[0])))
    samples = [sample(calls) for _ in range(WARM_UPS + SAMPLES)][WARM_UPS:]
    return [wall for wall, _ in samples], sum(cpu for _, cpu in samples) / SAMPLES, first


class Memory:
    """Bytes that the case adds to what the process has, at its peak; None where the system does not say."""

    def __init__(self, device):
        self.on_gpu = device == "cuda"
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            try:
                with open("/proc/self/clear_refs", "w") as file:  # Linux only: the peak begins anew
                    file.write("5")
            except OSError:
                pass
        self.before = torch.cuda.memory_allocated() if self.on_gpu else self.resident("VmRSS")

    def resident(self, key):
        try:
            with open("/proc/self/status") as lines:
                return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))
        except (OSError, StopIteration):
            return None

    def peak(self):
        peak = torch.cuda.max_memory_allocated() if self.on_gpu else self.resident("VmHWM")
        return None if peak is None or self.before is None else peak - self.before


def cpu_name():
    try:
        with open("/proc/cpuinfo") as lines:  # Linux only
            return next(line.split(": ", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def provenance(arguments):
    on_gpu = arguments.device == "cuda"
    mode = ["compiled"] * arguments.compile + ["TF32"] * arguments.tf32
    return {
        "by": " ".join([f"PyTorch {torch.__version__}", *mode]),
        "adapter": torch.cuda.get_device_name() if on_gpu else cpu_name(),
        "kind": "GPU" if on_gpu else "CPU",
        "driver": f"CUDA {torch.version.cuda}" if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "backend": arguments.device,
        "os": platform.platform(),
        "cpu": cpu_name(),
        "cpu_threads": torch.get_num_threads(),
        "details": {"glibc_tunables": os.environ.get("GLIBC_TUNABLES")},
    }


def case(name):
    """The op and the shape in a name like softmax_4096x4096."""
    op, _, shape = name.rpartition("_")
    sizes = shape.split("x")
    if op not in OPS or len(sizes) != 2 or not all(size.isdigit() for size in sizes):
        raise argparse.ArgumentTypeError(f"{name!r} is not OP_ROWSxCOLS with OP one of {', '.join(OPS)}")
    return {"op": op, "shape": [int(size) for size in sizes], "storage": "f32", "bytes": 0.0, "flop": 0.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", help="a result of `wgloss bench`: the same cases")
    parser.add_argument("--case", type=case, action="append", default=[], metavar="OP_ROWSxCOLS", help="may be repeated")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile instead of eager mode")
    parser.add_argument("--tf32", action="store_true", help="products of float32 matrices in TF32")
    parser.add_argument("--out", help="write the result here instead of printing it")
    arguments = parser.parse_args()
    cases = list(arguments.case)
    if arguments.like:
        with open(arguments.like) as file:
            cases += [case for case in json.load(file)["cases"] if case["op"] in OPS]
    if not cases:
        parser.error("nothing to do: give --like or --case")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: this PyTorch finds no CUDA device.")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
    synchronize = torch.cuda.synchronize if arguments.device == "cuda" else lambda: None
    record = {"schema": SCHEMA, "unix_time": int(time.time()), "provenance": provenance(arguments), "cases": []}
    for number, wish in enumerate(cases, 1):
        name = f"{wish['op']} {wish['shape']} {wish['storage']}"
        print(f"{number}/{len(cases)} {name}", file=sys.stderr)
        memory = Memory(arguments.device)
        make = Make(arguments.device, DTYPES[wish["storage"]], torch.compile if arguments.compile else lambda f: f)
        try:
            wall, cpu, first = measure(OPS[wish["op"]](tuple(wish["shape"]), make), synchronize)
        except torch.OutOfMemoryError:
            print(f"left out, as the device's memory is too small: {name}", file=sys.stderr)
            continue
        facts = {key: wish[key] for key in ("op", "shape", "storage", "bytes", "flop")}
        times = {"clock": "host", "samples_s": wall, "cpu_s": cpu, "first_s": first, "memory_bytes": memory.peak()}
        record["cases"].append(facts | times)
    text = json.dumps(record, indent=1) + "\n"
    if arguments.out:
        with open(arguments.out, "w") as file:
            file.write(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
