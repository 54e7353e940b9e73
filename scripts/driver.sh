#!/usr/bin/env bash
# Makes sure that a Vulkan driver is there, and installs Mesa's software driver
# (lavapipe) where none is and apt can.
#
#   scripts/driver.sh               check, and install what is missing
#   scripts/driver.sh is-software   exit 0 where the tests will run on lavapipe
#
# Only Linux needs this: Metal comes with macOS and Direct3D 12 with Windows.
# WGLOSS_NO_GPU=1 skips everything.
set -euo pipefail
shopt -s nullglob
PATH=$PATH:/usr/sbin:/sbin # ldconfig is not on every user's path

MIN_MESA=24.1
WRONG_RESULTS='Mesa 22.3.6 silently stops loops after 65,534 iterations per invocation and gives wrong results'

say() { printf 'driver: %s\n' "$*"; }
die() { printf 'driver: %s\n' "$*" >&2; exit 1; }

# The device nodes are a guess, but one that needs no Vulkan tool.
has_gpu() {
    local nodes=(/dev/nvidia* /dev/dri/renderD*)
    ((${#nodes[@]}))
}

is_software() {
    [[ $(uname -s) == Linux && -z ${WGLOSS_ADAPTER:-} ]] && ! has_gpu
}

chosen_driver() { printf '%s' "${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}"; }

has_icd() {
    local found=(/usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json)
    [[ -n $(chosen_driver) ]] || ((${#found[@]}))
}

has_loader() {
    # No `grep -q` at the end of a pipe: it closes the pipe early, which
    # pipefail reports as a failure of the command before it.
    [[ $(ldconfig -p 2>/dev/null) == *libvulkan.so.1* ]]
}

# The version of the installed Mesa Vulkan drivers, empty where there are none
# or the package manager is not dpkg.
installed_mesa() {
    command -v dpkg-query >/dev/null || return 0
    dpkg-query -W -f '${db:Status-Status} ${Version}\n' mesa-vulkan-drivers 2>/dev/null |
        sed -n 's/^installed //p' || true
}

too_old() { [[ -n $1 ]] && dpkg --compare-versions "$1" lt "$MIN_MESA"; }

# Lavapipe is what the old loop limit is in, so an old Mesa matters only where
# lavapipe is what runs: with no GPU, and no other driver named.
runs_lavapipe() {
    local chosen
    chosen=$(chosen_driver)
    ! has_gpu && [[ -z $chosen || $chosen == *lvp* ]]
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

can_be_root() {
    ((EUID == 0)) || { command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; }
}

# apt-get, its output shown only where it failed.
apt() {
    local log status=0
    log=$(mktemp)
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" \
        >"$log" 2>&1 </dev/null || status=$?
    if ((status)); then cat "$log" >&2; fi
    rm -f "$log"
    return "$status"
}

update_lists() {
    # One unreachable source, of no concern here, fails the whole update; the
    # install says whether what matters is there.
    apt update || say "apt-get update failed; going on with the package lists there are"
}

# The newest version that apt offers, of a release if one is given.
offered() {
    local version
    version=$(apt-cache madison mesa-vulkan-drivers 2>/dev/null |
        awk -F'|' -v in_release="${1:-}" 'index($3, in_release) { gsub(/ /, "", $2); print $2 }' |
        sort -V | tail -n 1)
    printf '%s' "$version"
}

add_bookworm_backports() {
    local sources=(/etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources)
    if grep -qsE '^[^#]*bookworm-backports' "${sources[@]}"; then return 0; fi
    say "adding the bookworm-backports package source"
    echo 'deb http://deb.debian.org/debian bookworm-backports main' |
        as_root tee /etc/apt/sources.list.d/bookworm-backports.list >/dev/null
    update_lists
}

install_with_apt() {
    local old codename release=() version
    old=$(installed_mesa)
    can_be_root ||
        die "installing needs root or sudo: run this script as root, or install mesa-vulkan-drivers ($MIN_MESA or newer) and libvulkan1${old:+; $old is there, and $WRONG_RESULTS}"
    update_lists
    if has_icd && ! has_loader && ! { runs_lavapipe && too_old "$old"; }; then
        say "installing libvulkan1 (a driver is there, the loader is not)"
        apt install --no-install-recommends libvulkan1 || die "apt-get could not install libvulkan1"
        return
    fi
    version=$(offered)
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    if [[ $codename == bookworm ]]; then
        # Debian 12 itself has 22.3.6.
        add_bookworm_backports
        release=(-t bookworm-backports)
        version=$(offered bookworm-backports)
    fi
    [[ -n $version ]] || die "apt offers no mesa-vulkan-drivers here; install a Vulkan driver by hand"
    too_old "$version" &&
        die "apt offers Mesa $version and $MIN_MESA or newer is needed: $WRONG_RESULTS"
    say "installing mesa-vulkan-drivers $version and libvulkan1"
    # --no-remove: better no driver than one in place of other packages.
    apt install --no-install-recommends --no-remove "${release[@]}" mesa-vulkan-drivers libvulkan1 ||
        die "apt-get could not install mesa-vulkan-drivers $version and libvulkan1${old:+; $old is still there, and $WRONG_RESULTS}"
}

main() {
    if [[ ${WGLOSS_NO_GPU:-} == 1 ]]; then
        say "WGLOSS_NO_GPU=1: no driver is looked for"
        return
    fi
    case $(uname -s) in
    Linux) ;;
    Darwin) say "Metal comes with macOS; nothing to install" && return ;;
    MINGW* | MSYS* | CYGWIN*) say "Direct3D 12 comes with Windows; nothing to install" && return ;;
    *) say "unknown system: wgpu needs a Vulkan, Metal or Direct3D 12 driver" && return ;;
    esac

    local mesa
    mesa=$(installed_mesa)
    if has_icd && has_loader; then
        if ! too_old "$mesa"; then
            say "a Vulkan driver is there${mesa:+ (mesa-vulkan-drivers $mesa)}"
            return
        elif ! runs_lavapipe; then
            say "warning: do not run on Mesa's software driver here (mesa-vulkan-drivers $mesa): $WRONG_RESULTS"
            return
        fi
        say "mesa-vulkan-drivers $mesa is older than $MIN_MESA and must be upgraded"
    fi

    if command -v apt-get >/dev/null; then
        install_with_apt
    else
        die "no Vulkan driver: install Mesa's, $MIN_MESA or newer (Fedora: mesa-vulkan-drivers vulkan-loader; Arch: vulkan-swrast vulkan-icd-loader; Alpine: mesa-vulkan-swrast vulkan-loader)"
    fi

    if ! has_icd || ! has_loader; then
        die "no Vulkan driver is found after the installation"
    fi
    mesa=$(installed_mesa)
    if runs_lavapipe && too_old "$mesa"; then
        die "mesa-vulkan-drivers is still $mesa: $WRONG_RESULTS"
    fi
    say "installed${mesa:+ mesa-vulkan-drivers $mesa}"
}

case ${1:-} in
'') main ;;
is-software) is_software ;;
*) die "usage: scripts/driver.sh [is-software]" ;;
esac
