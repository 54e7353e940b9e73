#!/usr/bin/env python3
"""The cases of benches/losses in PyTorch, timed the same way: float32, two warm-ups, the median of five.

What is counted is what a user runs: the call of torch's own function and, where there is a gradient, `backward()` through
autograd. softmax and copy write into an output that is kept; autograd allows no such thing, so the gradients are dropped
before each call, as optimizers do by default, and allocated anew. On a GPU a sample ends when the device is done.

CPU seconds are those of the process, user and system, all threads.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("This comparison needs PyTorch: `python3 -m pip install torch`, or set PYTHON to an interpreter that has it.")

WARM_UPS = 2
SAMPLES = 5


def normal(shape, device, grad=True):
    """Logits: normal with deviation 2, as in benches/losses/cases.rs."""
    return (2 * torch.randn(shape, device=device)).requires_grad_(grad)


def with_gradients(function, *inputs):
    """A call of the loss and its gradients; `function` is the part that --compile compiles."""

    def call():
        for x in inputs:
            x.grad = None
        function(*inputs).backward()

    return call


# Each case: (rows, cols), device, the compiler or the identity -> what to call, and the least bytes that must move
# (every input read once, every output written once).


def copy(shape, device, compiled):
    x, y = normal(shape, device, grad=False), torch.empty(shape, device=device)
    return lambda: y.copy_(x), 4 * 2 * x.numel()


def softmax(shape, device, compiled):
    x, y = normal(shape, device, grad=False), torch.empty(shape, device=device)
    call = compiled(lambda: torch.softmax(x, 1, out=y))
    return call, 4 * 2 * x.numel()


def cross_entropy(shape, device, compiled):
    x, ids = normal(shape, device), torch.randint(shape[1], shape[:1], device=device)
    call = with_gradients(compiled(lambda x: F.cross_entropy(x, ids)), x)
    return call, 4 * (2 * x.numel() + shape[0] + 1)


def kl(shape, device, compiled):
    x, t = normal(shape, device), normal(shape, device)

    def loss(x, t):
        return F.kl_div(F.log_softmax(x, 1), F.log_softmax(t, 1), log_target=True, reduction="batchmean")

    return with_gradients(compiled(loss), x, t), 4 * (4 * x.numel() + 1)


def bce(shape, device, compiled):
    x, t = normal(shape, device), torch.rand(shape, device=device)
    call = with_gradients(compiled(lambda x: F.binary_cross_entropy_with_logits(x, t)), x)
    return call, 4 * (3 * x.numel() + 1)


def l2(shape, device, compiled):
    x, t = normal(shape, device), normal(shape, device, grad=False)
    return with_gradients(compiled(lambda x: F.mse_loss(x, t)), x), 4 * (3 * x.numel() + 1)


def info_nce(shape, device, compiled):
    q, k = (F.normalize(normal(shape, device, grad=False)).requires_grad_() for _ in range(2))
    own, scale = torch.arange(shape[0], device=device), torch.tensor(1 / 0.07, device=device, requires_grad=True)

    def loss(q, k, scale):
        s = scale * (q @ k.T)
        return (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2

    return with_gradients(compiled(loss), q, k, scale), 4 * (4 * q.numel() + 1)


OPS = {op.__name__: op for op in (copy, softmax, cross_entropy, kl, bce, l2, info_nce)}


def measure(call, synchronize, calls):
    wall, cpu = [], []
    for sample in range(WARM_UPS + SAMPLES):
        synchronize()
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(calls):
            call()
        synchronize()
        times = time.perf_counter() - wall_start, time.process_time() - cpu_start
        if sample >= WARM_UPS:
            wall.append(times[0] / calls)
            cpu.append(times[1] / calls)
    return wall, cpu


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
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "cuda": torch.version.cuda if on_gpu else None,
        "capability": None if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "compiled": arguments.compile,
        "os": platform.platform(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES"),
        "calls": arguments.calls,
    }


def case(name):
    """The op and the shape in a name like softmax_4096x4096."""
    op, _, shape = name.rpartition("_")
    sizes = shape.split("x")
    if op not in OPS or len(sizes) != 2 or not all(size.isdigit() for size in sizes):
        raise argparse.ArgumentTypeError(f"{name!r} is not OP_ROWSxCOLS with OP one of {', '.join(OPS)}")
    return op, (int(sizes[0]), int(sizes[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=case, action="append", required=True, metavar="OP_ROWSxCOLS",
                        help="as `cargo bench --bench losses -- --list` names them; may be repeated")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile instead of eager mode")
    parser.add_argument("--calls", type=int, default=1, help="calls a sample; times are divided by it")
    parser.add_argument("--out", help="write the lines here instead of printing them")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: this PyTorch finds no CUDA device.")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    synchronize = torch.cuda.synchronize if arguments.device == "cuda" else lambda: None
    compiled = torch.compile if arguments.compile else lambda function: function
    out = open(arguments.out, "w") if arguments.out else sys.stdout
    print(json.dumps({"provenance": provenance(arguments)}), file=out)
    for op, shape in arguments.case:
        memory = Memory(arguments.device)
        call, size = OPS[op](shape, arguments.device, compiled)
        wall, cpu = measure(call, synchronize, arguments.calls)
        wall_s, cpu_s = statistics.median(wall), statistics.median(cpu)
        line = {"case": op, "rows": shape[0], "cols": shape[1], "wall_s": wall_s, "cpu_s": cpu_s, "bytes": size,
                "gb_per_s": size / wall_s / 1e9, "memory_bytes": memory.peak(), "wall_samples_s": wall, "cpu_samples_s": cpu}
        print(json.dumps(line), file=out, flush=True)


if __name__ == "__main__":
    main()
