#!/bin/sh
# Makes the PTX beside the sources here: compile.sh NVCC [OUT]. The same nvcc gives the same text on every machine: sources
# are named without their folder, of which nvcc makes part of a name, and folders are taken out of the names of files.
set -eu
nvcc=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "${2:-$here}" && pwd)
cd "$here"
for source in *.cu; do
    name=$(basename "$source" .cu)
    "$nvcc" -O3 -std=c++17 -lineinfo -gencode arch=compute_80,code=compute_80 -ptx "$source" -o "$out/$name.ptx"
    sed -E 's|^([[:space:]]*\.file[[:space:]]+[0-9]+ ").*/([^/]*")|\1\2|' "$out/$name.ptx" >"$out/$name.ptx.new"
    mv "$out/$name.ptx.new" "$out/$name.ptx"
done
