#!/bin/sh
# Makes the PTX beside the sources here: compile.sh NVCC [OUT]. The same nvcc gives the same text on every machine, once the
# folders are taken out of the names of files.
set -eu
nvcc=$1
here=$(cd "$(dirname "$0")" && pwd)
out=${2:-$here}
for source in "$here"/*.cu; do
    name=$(basename "$source" .cu)
    "$nvcc" -O3 -std=c++17 -lineinfo -gencode arch=compute_80,code=compute_80 -ptx "$source" -o "$out/$name.ptx"
    sed -E 's|^([[:space:]]*\.file[[:space:]]+[0-9]+ ").*/([^/]*")|\1\2|' "$out/$name.ptx" >"$out/$name.ptx.new"
    mv "$out/$name.ptx.new" "$out/$name.ptx"
done
