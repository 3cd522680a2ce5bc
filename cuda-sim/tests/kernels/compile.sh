#!/bin/sh
# Makes the PTX beside the sources here: compile.sh NVCC [OUT]. The same nvcc gives the same text on every machine: files are
# named without their folders, of which nvcc makes parts of names, and folders are taken out of the text.
set -eu
nvcc=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "${2:-$here}" && pwd)
cd "$here"
for source in *.cu; do
    name=$(basename "$source" .cu)
    "$nvcc" -O3 -std=c++17 -lineinfo -gencode arch=compute_80,code=compute_80 -ptx "$source" -o "$name.ptx.new"
    sed -E 's|^([[:space:]]*\.file[[:space:]]+[0-9]+ ").*/([^/]*")|\1\2|' "$name.ptx.new" >"$out/$name.ptx"
    rm "$name.ptx.new"
done
