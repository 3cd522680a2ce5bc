#!/usr/bin/env bash
# Makes a Python environment with llama.cpp (built, inside the package `xllamacpp`) and `gguf`:
#   tools/peers/setup.sh FOLDER
set -euo pipefail
folder=${1:?"usage: setup.sh FOLDER (outside the repository)"}
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
  xllamacpp==2026.10.11549 gguf==0.19.0 'numpy>=1.24,<3'
