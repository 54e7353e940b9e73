#!/usr/bin/env bash
# The one test command: everything that must hold before a commit.
#
#   WGLOSS_NO_GPU=1    leave out all that needs a GPU or a software driver
#   WGLOSS_ADAPTER=…   the adapter to test on
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}

step() { # TITLE COMMAND…
    local title=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$title"
    "$@" || {
        printf '\nFailed: "%s" did not pass (after %d s).\n' "$title" $((SECONDS - start)) >&2
        exit 1
    }
    printf -- '-- %s: %d s\n' "$title" $((SECONDS - start))
}

need_component() { # NAME COMMAND…
    local name=$1
    shift
    "$@" >/dev/null 2>&1 && return
    command -v rustup >/dev/null || {
        echo "$name is missing and rustup, which could add it, is not here." >&2
        return 1
    }
    rustup component add "$name"
}

need_target() { # NAME
    [[ -d $(rustc --print sysroot)/lib/rustlib/$1 ]] && return
    command -v rustup >/dev/null || {
        echo "The target $1 is missing and rustup, which could add it, is not here." >&2
        return 1
    }
    rustup target add "$1"
}

tools() {
    command -v cargo >/dev/null || {
        echo "Rust is missing: https://rustup.rs installs it." >&2
        return 1
    }
    cargo --version && need_component rustfmt cargo fmt --version &&
        need_component clippy cargo clippy --version
}

# One vector width of lavapipe: its subgroups have width / 32 invocations.
# Each width has its own shader cache, because Mesa's cache key leaves the width
# out (lp_disk_cache_create and lp_cs_get_ir_cache_key in llvmpipe). With one
# cache for all, Mesa 25.0.7 reports subgroups of 4 and runs the cached code for 8.
# The same goes for GALLIVM_PERF.
at_width() { # BITS COMMAND…
    local width=$1 cache=$target/mesa-shader-cache/$1$GALLIVM_PERF
    shift
    mkdir -p "$cache"
    LP_NATIVE_VECTOR_WIDTH=$width MESA_SHADER_CACHE_DIR=$cache "$@"
}

# Two at a time, where each has to wait for a driver that compiles kernels on one core. What one prints comes when it has ended.
two_at_a_time() { # COMMAND…, functions without arguments, the longest first
    local logs=$target/two-at-a-time command pid passed=0
    local -A running=()
    mkdir -p "$logs"
    for command in "$@" ''; do
        while ((${#running[@]} == 2)) || [[ -z $command && ${#running[@]} != 0 ]]; do
            wait -n -p pid "${!running[@]}" || passed=1
            cat "$logs/${running[$pid]}"
            unset "running[$pid]"
        done
        [[ -n $command ]] || return $passed
        "$command" >"$logs/$command" 2>&1 &
        running[$!]=$command
    done
}

skipped=
has_browser() {
    scripts/browser.sh is-there || {
        skipped='!! The kernels in a browser were SKIPPED and nothing is known about them.'
        return 1
    }
}
browser_tests() { CARGO_PROFILE=tests scripts/browser.sh; }

step "tools: rustfmt and clippy" tools
step "driver" scripts/driver.sh
step "format" cargo fmt --all --check
# One profile and one set of features for all, so that nothing is built twice.
all=(--workspace --profile tests --features wgloss/ndarray)
step "clippy" cargo clippy "${all[@]}" --all-targets -- -D warnings
step "wasm32: the target" need_target wasm32-unknown-unknown
step "wasm32: clippy" cargo clippy -p wgloss -p wgloss-web --profile tests --lib --target wasm32-unknown-unknown -- -D warnings
step "doc" env RUSTDOCFLAGS="-D warnings" cargo doc "${all[@]}" --no-deps

# Optimised builds: the f64 reference takes too long without.
tests=(cargo test "${all[@]}")
library_tests=(cargo test "${all[@]}" --test main)

if [[ ${WGLOSS_NO_GPU:-} == 1 ]]; then
    step "test, without a GPU" "${tests[@]}"
    cat <<'END'

!! WGLOSS_NO_GPU=1, so these were SKIPPED and nothing is known about them:
!!   - the driver check
!!   - every test that runs a kernel
!!   - some of the library's tests with subgroups of 8
!!   - the kernels in a browser
END
elif scripts/driver.sh is-software; then
    # Most with subgroups of 4, for which LLVM takes two thirds of the time that it takes for 8, and without LLVM's passes over what Mesa's own compiler made of
    # a kernel, which take another third.
    export GALLIVM_PERF=nopt
    slow=(info_nce kl:: cross_entropy::) # half of that time
    long=scale::a_batch_of_65536 # computes for longer than it compiles
    # With subgroups of 8: tiles whose lanes share operands by broadcasts, rows of another number of lanes.
    wide=(linear::verified normalize:: siglip::golden info_nce::golden wals::any_width)
    other_tests() {
        local others=("${slow[@]}" $long linear::verified)
        at_width 128 "${tests[@]}" -- "${others[@]/#/--skip=}" && at_width 128 "${tests[@]}" --bench host
    }
    info_nce_tests() { at_width 128 "${tests[@]}" -- "${slow[0]}"; }
    slow_tests() { at_width 128 "${tests[@]}" -- "${slow[@]:1}"; }
    wide_tests() { at_width 256 "${library_tests[@]}" -- "${wide[@]}"; }
    long_tests() { GALLIVM_PERF='' at_width 256 "${library_tests[@]}" -- $long; }
    all_tests=(other_tests info_nce_tests slow_tests wide_tests long_tests)
    step "tests: build" "${tests[@]}" --no-run
    # SwiftShader, on which a browser without a GPU verifies, computes on one core.
    if has_browser; then
        step "browser: the page" cargo run --profile tests --package wgloss-web
        all_tests=("${all_tests[@]:0:2}" browser_tests "${all_tests[@]:2}")
    fi
    # The tests named `verified` are what `wgloss verify` runs, on the same sizes of tiles and workgroups.
    step "test, lavapipe with subgroups of 4, some of the library with 8; verify in a browser" two_at_a_time "${all_tests[@]}"
else
    step "test" "${tests[@]}"
    step "verify" cargo run --release -q -- verify # with the sizes of this adapter
    if has_browser; then
        step "verify, in a browser" browser_tests
    fi
fi

printf '\n%s\nAll that ran passed in %d s.\n' "$skipped" "$SECONDS"
