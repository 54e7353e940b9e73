#!/usr/bin/env bash
# Verifies every op in a browser: writes the page (web/), opens it in Chromium without a window, and prints the lines of its console.
#
#   scripts/browser.sh            without the cases that only vary options and storage
#   scripts/browser.sh --all      with them
#   scripts/browser.sh is-there   whether there is a browser; on Debian, as root, installs one
#   CARGO_PROFILE=…               cargo's profile, release otherwise
#   BROWSER=…                     another browser of Chromium's family
set -euo pipefail
cd "$(dirname "$0")/.."

# SwiftShader, where there is no GPU, takes minutes for what a GPU does in seconds.
longest=1200

find_browser() {
    local name
    for name in ${BROWSER:-chromium google-chrome chromium-browser microsoft-edge}; do
        command -v "$name" && return
    done
    return 1
}

there() {
    find_browser >/dev/null && return
    # Ubuntu's package only leads to a snap.
    if [[ $(id -u) == 0 ]] && grep -qs '^ID=debian' /etc/os-release; then
        echo "browser: installing chromium"
        apt-get -qq update >/dev/null && apt-get -qq install --no-install-recommends -y chromium fonts-liberation >/dev/null
    fi
    find_browser >/dev/null && return
    echo "No Chromium, Chrome or Edge is here, and none could be installed." >&2
    return 1
}

case ${1:-} in
is-there)
    there
    exit
    ;;
--all) cases=run ;;
'') cases=brief ;;
*)
    echo "usage: scripts/browser.sh [--all | is-there]" >&2
    exit 2
    ;;
esac
there
browser=$(find_browser)

page=$(cargo run --quiet --profile "${CARGO_PROFILE:-release}" --package wgloss-web)
echo "$("$browser" --version 2>/dev/null): $page"
scratch=$(mktemp -d)
stop() { kill "${running:-}" 2>/dev/null || true; wait 2>/dev/null || true; }
trap 'stop; rm -rf "$scratch"' EXIT

# [time:INFO:CONSOLE:line] "wgloss: …", source: …
lines() { sed -unE 's/.*CONSOLE.*"wgloss: (.*)", source: .*/\1/p'; }
# A browser that ends by itself, with no verdict, tells nothing about the kernels: once more then.
for attempt in 1 2 3; do
    start=$SECONDS
    timeout "$longest" "$browser" --headless --no-sandbox --no-first-run --disable-background-networking --disable-component-update \
        --disable-sync --disable-dev-shm-usage --enable-unsafe-webgpu --enable-logging=stderr --user-data-dir="$scratch/profile$attempt" \
        "file://$page#$cases" >"$scratch/console" 2>&1 &
    running=$!
    while read -r line; do
        echo "$line"
        case $line in
        all*passed) exit 0 ;;
        failed:* | *of*failed) exit 1 ;;
        esac
    done < <(tail --pid="$running" -n +1 -f "$scratch/console" 2>/dev/null | lines)
    stop
    tail -5 "$scratch/console" >&2
    ((SECONDS - start < longest)) || break
    echo "The browser ended by itself after $((SECONDS - start)) s (attempt $attempt)." >&2
done
echo "The page did not come to its end." >&2
exit 1
