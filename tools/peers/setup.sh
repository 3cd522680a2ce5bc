#!/usr/bin/env bash
# Makes a Python environment and builds llama.cpp, from the source inside the PyPI package `llama-cpp-python`:
#   tools/peers/setup.sh FOLDER          gives FOLDER/python and FOLDER/llama/bin; some twenty minutes on two cores
set -euo pipefail
folder=${1:?"usage: setup.sh FOLDER (outside the repository)"}
version=0.3.36
tools=(llama-server llama-quantize llama-bench llama-batched-bench)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
export PATH="$folder/python/bin:$PATH"
python3 -m venv "$folder/python"
pip install --quiet --disable-pip-version-check --only-binary :all: cmake ninja gguf==0.19.0 'numpy>=1.24,<3'
archive="$folder/llama_cpp_python-$version.tar.gz"
# From source is this package alone: cmake and what else it is built with come as they are.
[ -f "$archive" ] || pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$folder" "llama-cpp-python==$version"
tar xf "$archive" -C "$folder"
source="$folder/llama_cpp_python-$version/vendor/llama.cpp"
# A leftover of the package's own repository, and times in the future, on which ninja would never be done.
rm -f "$source/.git"
find "$source" -exec touch -h -d '1 day ago' {} +
# It knows DeepSeek-V2-Lite by its 27 layers alone; measuring takes the first six of them. Speed is not affected.
sed -i 's/hparams.n_layer() == 27 ||/hparams.n_layer() == 6 || hparams.n_layer() == 27 ||/' "$source/src/models/deepseek2.cpp"
cmake -S "$source" -B "$folder/llama" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_APP=OFF
ninja -C "$folder/llama" "${tools[@]}"
"$folder/llama/bin/llama-server" --version
