#!/usr/bin/env bash
# Writes a random model as GGUF, one file a format:
#   tools/peers/models.sh PYTHON FOLDER [PRESET]        PRESET of `cargo xtask tiny`: blocks (default), v3-mini, v2-lite
set -euo pipefail
python=${1:?"usage: models.sh PYTHON FOLDER [PRESET]"} folder=${2:?"FOLDER for the files"} preset=${3:-blocks}
cd "$(dirname "$0")/../.."
cargo xtask tiny --preset "$preset" --out "$folder/$preset"
# llama.cpp wants a vocabulary with merges: the golden cases have one.
cp tests/golden/v3-moe-bf16/tokenizer{,_config}.json "$folder/$preset/"
for kind in F32 BF16 Q8_0 Q4_0 Q4_K_M Q5_K Q6_K; do
  name="$folder/$preset-$kind"
  "$python" tests/golden/gguf/write.py "$folder/$preset" "$name.gguf" --kind "$kind" --values "$name-values"
  case $kind in F32 | BF16) ;; *)
    "$python" tests/golden/gguf/write.py "$name-values" "$name-decoded.gguf" ;;
  esac
  rm -r "$name-values"
done
