#!/usr/bin/env python3
"""What NVIDIA's compiler makes of the kernels, without a card: registers of a lane, what is spilled, instructions.

    pip install nvidia-cuda-nvrtc nvidia-cuda-nvcc nvidia-cuda-nvdisasm
    cargo build --release --manifest-path benches/sass/Cargo.toml --target-dir target/sass
    cargo run --release --example wgsl -- target/wgsl/tiles
    cargo run --release --example wgsl -- --subgroups target/wgsl/rows
    python3 benches/sass/sass.py target/wgsl                                        the table of record/nvidia-compiler.md
    python3 benches/sass/sass.py target/wgsl rows/softmax forward WG=256,LANES=256  one kernel's machine code

naga's Metal code of an entry point is made CUDA by metal.h, PTX by NVRTC and machine code by ptxas. Nothing is executed. A Vulkan driver has a
front end of its own: record/nvidia-compiler.md says how near this comes to what one counted.
"""

import argparse
import collections
import ctypes
import pathlib
import re
import subprocess
import sys
import tempfile

import nvidia

HERE = pathlib.Path(__file__).parent
CUDA = pathlib.Path(list(nvidia.__path__)[0]) / "cu13"
BUILTINS = {
    "threadgroup_position_in_grid": "metal::uint3(blockIdx.x, blockIdx.y, blockIdx.z)",
    "threadgroups_per_grid": "metal::uint3(gridDim.x, gridDim.y, gridDim.z)",
    "thread_index_in_threadgroup": "threadIdx.x",
}
ROWS = "WG=256,LANES=256,HOLDS=1,NO_REST=1,SUBGROUP=32"
TILES = "TX=32,TY=8,BK=16,NO_REST=1"  # `Tuning::NVIDIA`
KERNELS = [
    ("rows/softmax", "forward", ROWS, ""),
    ("rows/softmax", "backward", ROWS, ""),
    ("rows/cross_entropy", "forward", ROWS, "HAS_DX=1"),
    ("rows/kl", "forward", ROWS, "HAS_SUMS=0"),
    ("rows/kl", "forward", ROWS, "DIVERGENCE=1"),
    ("rows/normalize", "forward", ROWS, ""),
    ("tiles/linear", "product", TILES, ""),
    ("tiles/info_nce", "forward", TILES, "SYMMETRIC=1"),
    ("tiles/info_nce", "forward", TILES, "SYMMETRIC=1,KEEP=1"),
    ("tiles/info_nce", "forward", TILES, "SYMMETRIC=1,NORMALIZE=1,HAS_ID=1,HAS_LOG_Q=1,HARD=1"),
    ("tiles/info_nce", "forward", TILES, "SYMMETRIC=1,POSITIVE=2,HAS_GROUP=1,FULL=1"),
    ("tiles/info_nce", "backward", TILES, "SYMMETRIC=1"),
    ("tiles/info_nce", "backward", TILES, "SYMMETRIC=1,KEEP=1"),
    ("tiles/info_nce", "backward", TILES, "SYMMETRIC=1,NORMALIZE=1"),
    ("tiles/info_nce", "backward", TILES, "SYMMETRIC=1,NORMALIZE=1,HAS_ID=1,HAS_LOG_Q=1,HARD=1"),
    ("tiles/info_nce", "backward", TILES, "SYMMETRIC=1,POSITIVE=2,HAS_GROUP=1,FULL=1"),
    ("tiles/siglip", "forward", TILES, ""),
    ("tiles/siglip", "backward", TILES, ""),
    ("tiles/folding", "forward", TILES, ""),
]


def metal(tool, path, entry, overrides):
    found = subprocess.run([tool, path, entry, overrides], capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"{path}, {entry}: {found.stderr.strip()}")
    return found.stdout


def cuda(text):
    """naga's Metal code as CUDA: buffers are pointers, workgroup memory is declared in the kernel, functions are inlined."""
    text = re.sub(r"#include.*\n|using metal::uint;\n", "", text)
    head, lanes, kernel = re.split(r"\[\[max_total_threads_per_threadgroup\((\d+)\)\]\] kernel void", text)
    signature = re.match(r"\s*(\w+)\(\n(.*?)\n\) \{", kernel, re.S)
    parameters, locals_ = [], []
    for argument in signature.group(2).strip().split("\n, "):
        shared = re.match(r"threadgroup (.+?)& (\w+)$", argument.strip())
        if shared:
            kind, name = shared.groups()
            locals_.append(f"__shared__ alignas(16) char {name}_bytes[sizeof({kind})]; {kind}& {name} = *({kind}*){name}_bytes;")
            continue
        kind, name, attribute = re.match(r"(.*?)(\w+) \[\[(.*)\]\]$", argument.strip()).groups()
        kind = kind.strip()
        if not attribute.startswith("buffer"):
            locals_.append(f"{kind} {name} = {BUILTINS[attribute]};")
        elif kind.startswith("constant"):
            parameters.append(f"const __grid_constant__ {kind.removeprefix('constant ').rstrip('& ')} {name}")
        else:
            kind = kind.removeprefix("device ").rstrip("& ")
            parameters.append(f"{kind}* {'__restrict__ ' if 'const' in kind else ''}{name}_at")
            locals_.append(f"{kind}& {name} = *{name}_at;")
    head = re.sub(r"^constant ", "constexpr ", head, flags=re.M)
    head = re.sub(r"^((?:[\w:]+) \w+\((?:\n|.*\) \{))", r"__forceinline__ \1", head, flags=re.M)
    head = re.sub(r"(?<!\w)constant (?=[\w:]+ ?&)", "const ", head)
    head = re.sub(r"(?<!\w)(device|threadgroup|thread) (?=[\w:]+ ?(const)?&|[\w:]+ const&)", "", head)
    start = f'extern "C" __global__ void __launch_bounds__({lanes}) {signature.group(1)}({", ".join(parameters)}) {{'
    text = "\n".join([head, start, *locals_, kernel[signature.end():]])
    text = re.sub(r"(?<![\w.])(\d+\.\d+(?:e[+-]?\d+)?)(?![\w.])", r"\1f", text)
    text = re.sub(r"(?<![\w:])(uint[24])\b(?= ?\w*\(| loop)", r"metal::\1", text)
    return '#include "metal.h"\n' + re.sub(r"\.(xy|zw)\b", r".\1()", text)


def ptx(source, most_registers):
    nvrtc = ctypes.CDLL(str(CUDA / "lib" / "libnvrtc.so.13"))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    header, name = (ctypes.c_char_p(text) for text in ((HERE / "metal.h").read_bytes(), b"metal.h"))
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 1, ctypes.byref(header), ctypes.byref(name))
    options = ["--gpu-architecture=sm_90", "--std=c++17", "--prec-div=false", "--prec-sqrt=false", "-w", "--device-as-default-execution-space"]
    options += ["--maxrregcount=255"] if most_registers else []
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options)))
    ask = ["ProgramLog", "PTX"][not failed]
    getattr(nvrtc, f"nvrtcGet{ask}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{ask}")(program, text)
    if failed:
        sys.exit(text.value.decode()[:2000])
    return text.value


def machine(code):
    """Registers, bytes spilled, bytes of workgroup memory, and the machine code."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = pathlib.Path(folder, "kernel.ptx"), pathlib.Path(folder, "kernel.cubin")
        source.write_bytes(code)
        told = subprocess.run([CUDA / "bin" / "ptxas", "-v", "-arch=sm_90", source, "-o", binary], capture_output=True, text=True)
        if told.returncode:
            sys.exit(told.stderr[:2000])
        text = subprocess.run([CUDA / "bin" / "nvdisasm", "-c", binary], capture_output=True, text=True, check=True).stdout
    number = lambda pattern: int((re.search(pattern, told.stderr) or [0, 0])[1])
    return number(r"Used (\d+) registers"), number(r"(\d+) bytes spill stores"), number(r"(\d+) bytes smem"), text


def compiled(tool, folder, kernel, entry, overrides):
    # Of rows, registers are asked for without a bound, else e^x is computed once more rather than kept over a barrier.
    return machine(ptx(cuda(metal(tool, pathlib.Path(folder, f"{kernel}.wgsl"), entry, overrides)), kernel.startswith("rows")))


def instructions(text):
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_]+)", text, re.M)
    return collections.Counter(name for name in names if name != "NOP")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where examples/wgsl has written rows/ and tiles/")
    parser.add_argument("kernel", nargs="*", help="rows/OP or tiles/OP, entry point, overrides: its machine code instead of the table")
    parser.add_argument("--metal", default="target/sass/release/metal", help="the program that this folder's Cargo.toml builds")
    arguments = parser.parse_args()
    if arguments.kernel:
        kernel, entry, overrides = [*arguments.kernel, ""][:3]
        print(compiled(arguments.metal, arguments.folder, kernel, entry, overrides)[3])
        return
    print("| op | kernel | flags | registers | spilled | workgroup memory | instructions | multiply-adds |\n|---|---|---|---|---|---|---|---|")
    for kernel, entry, sizes, flags in KERNELS:
        registers, spilled, memory, text = compiled(arguments.metal, arguments.folder, kernel, entry, ",".join(filter(None, [sizes, flags])))
        count = instructions(text)
        shown = ", ".join(f"`{flag.removesuffix('=1')}`" for flag in flags.split(",") if flag) or "none"
        op = kernel.split("/")[1]
        print(f"| `{op}` | {entry} | {shown} | {registers} | {spilled} | {memory} | {count.total()} | {count['FFMA']} |", flush=True)


if __name__ == "__main__":
    main()
