#!/usr/bin/env bash
# The tests of wgloss-burn. burn takes minutes to build: it is built once a machine, into the user's cache.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${WGLOSS_BURN_TARGET:-${XDG_CACHE_HOME:-$HOME/.cache}/wgloss-burn}
scripts/driver.sh
cd burn
cargo fmt --check
if [[ ${WGLOSS_NO_GPU:-} == 1 ]]; then
    echo "!! WGLOSS_NO_GPU=1, so the tests of wgloss-burn are built and SKIPPED"
    exec cargo check --tests
fi
# burn tries several kernels for each size and keeps the fastest, which takes minutes on a software adapter.
# One thread: burn's device compiles kernels one after the other whatever the number.
CUBECL_AUTOTUNE_LEVEL=minimal cargo test -- --test-threads 1
