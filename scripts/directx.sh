#!/usr/bin/env bash
# Compiles every kernel with Microsoft's compilers, for those who have no Windows: under Wine, with the two DLLs that the npm package of Dawn carries for it.
# Needs wine and mingw-w64 (Debian: `apt install wine64 wine mingw-w64`), npm, and Rust's target x86_64-pc-windows-gnu; a quarter of an hour. One kernel alone: `scripts/directx.sh info_nce.positives`.
# On Windows: `cargo run --release` in tests/directx, with dxcompiler.dll beside the program.
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-pc-windows-gnu
for command in wine npm x86_64-w64-mingw32-gcc rustup; do
    command -v "$command" >/dev/null || { echo "$command is missing." >&2; exit 1; }
done
rustup -q target add "$target"
folder=$PWD/target/directx
cargo build --release --manifest-path tests/directx/Cargo.toml --target "$target" --target-dir "$folder"
dlls=$folder/node_modules/webgpu/dist/win32-x64
[[ -d $dlls ]] || npm install --silent --ignore-scripts --no-save --prefix "$folder" webgpu@0.6.2 >/dev/null
cp "$dlls"/{d3dcompiler_47,dxcompiler}.dll "$folder/$target/release/"
# Wine 8 lacks a DLL that Rust's standard library takes random numbers from.
x86_64-w64-mingw32-gcc -shared -x c - -o "$folder/$target/release/bcryptprimitives.dll" -ladvapi32 <<'END'
unsigned char __stdcall SystemFunction036(void *, unsigned long);
__declspec(dllexport) int __stdcall ProcessPrng(unsigned char *to, unsigned long long bytes) { return SystemFunction036(to, bytes); }
END
# Wine has a FXC of its own, which is another compiler.
WINEDEBUG=-all WINEPREFIX=$folder/wine WINEDLLOVERRIDES='d3dcompiler_47=n;mscoree,mshtml=' wine "$folder/$target/release/directx.exe" "$@"
