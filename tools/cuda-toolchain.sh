#!/bin/sh
# Makes a project-local CUDA toolchain from NVIDIA's wheels on PyPI: nvcc, ptxas, cuobjdump and nvdisasm, about 280 MB.
#
#   tools/cuda-toolchain.sh [DIR]        DIR is .cuda-toolchain beside this folder when it is not given
#
# No driver, no GPU and no root is needed. The versions are one matching set of CUDA 13.0: its machine code and its PTX
# (ISA 9.0) run on every driver from 580 on, where PTX of a later toolkit would need a later driver. A second run
# finds the set complete and changes nothing; another set in DIR is replaced. `--no-deps` keeps pip from mixing versions.
# cuobjdump and nvdisasm only read what was made; PyPI has them from 13.2 on, and they read 13.0's.
set -eu

packages="nvidia-cuda-nvcc==13.0.88
nvidia-cuda-crt==13.0.88
nvidia-nvvm==13.0.88
nvidia-cuda-runtime==13.0.96
nvidia-cuda-cccl==13.0.85
nvidia-cuda-cuobjdump==13.2.51
nvidia-cuda-nvdisasm==13.2.51"
release="release 13.0, V13.0.88"

root=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$root/.cuda-toolchain}
stamp=$dir/packages.txt

fail() {
    echo "cuda-toolchain: $*" >&2
    exit 1
}

# Whether DIR holds exactly this set, and its compiler starts.
complete() {
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$packages" ] || return 1
    [ -x "$dir/bin/cuobjdump" ] && [ -x "$dir/bin/nvdisasm" ] || return 1
    "$dir/bin/nvcc" --version 2>/dev/null | grep -qF "$release"
}

if ! complete; then
    python=$(command -v python3) || fail "python3 is needed to fetch the wheels, and is not in PATH"
    "$python" -m pip --version >/dev/null 2>&1 || fail "\`$python -m pip\` does not run; install pip"
    # A folder of another set would leave its files among ours; anything else in the way is not ours to remove.
    if [ -e "$dir" ]; then
        [ -f "$stamp" ] || [ -z "$(ls -A "$dir")" ] || fail "$dir is there and is no toolchain of this script"
        rm -rf "$dir"
    fi
    fresh=$dir.new
    rm -rf "$fresh"
    mkdir -p "$fresh"
    trap 'rm -rf "$fresh"' EXIT
    # shellcheck disable=SC2086  # one word a package is meant
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --no-compile --target "$fresh/wheels" $packages || fail "pip could not install the wheels"
    [ -d "$fresh/wheels/nvidia/cu13/bin" ] || fail "the wheels hold no nvidia/cu13/bin, their layout has changed"
    mv "$fresh/wheels/nvidia/cu13/"* "$fresh/"
    rm -rf "$fresh/wheels"
    chmod +x "$fresh"/bin/* "$fresh"/nvvm/bin/* 2>/dev/null || true
    printf '%s' "$packages" >"$fresh/packages.txt"
    mv "$fresh" "$dir"
    trap - EXIT
    # Cargo asks the build script again, which looks for nvcc, when the script is newer than its last run.
    touch "$root/build.rs"
fi

complete || fail "$dir was made, but its nvcc is not $release"
"$dir/bin/nvcc" --version
