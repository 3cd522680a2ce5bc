#!/usr/bin/env bash
# Writes a random model as GGUF, one file a format, quantised by llama.cpp itself:
#   tools/peers/models.sh FOLDER [PRESET | CHECKPOINT.gguf]     FOLDER as setup.sh made it; PRESET of `cargo xtask tiny`:
#                                                               v3-mini (default), v2-lite, blocks
# Beside each file there is the same once more as F32, the numbers that llama.cpp reads in it.
set -euo pipefail
folder=${1:?"usage: models.sh FOLDER [PRESET | CHECKPOINT.gguf]"} what=${2:-v3-mini}
cd "$(dirname "$0")/../.."
models="$folder/models"
mkdir -p "$models"
quantize="$folder/llama/bin/llama-quantize"
case $what in
  *.gguf)
    name=$(basename "${what%.gguf}")
    wide=$what ;;
  *)
    name=$what
    wide="$models/$name-BF16.gguf"
    cargo xtask tiny --preset "$name" --out "$folder/$name"
    # llama.cpp wants a vocabulary with merges: the golden cases have one.
    cp tests/golden/v3-moe-bf16/tokenizer{,_config}.json "$folder/$name/"
    "$folder/python/bin/python" tests/golden/gguf/write.py "$folder/$name" "$wide" --kind BF16 ;;
esac
"$quantize" "$wide" "$models/$name-BF16-decoded.gguf" F32
for kind in Q8_0 Q4_0 Q4_K_M Q5_K_M Q6_K; do
  "$quantize" "$wide" "$models/$name-$kind.gguf" "$kind"
  "$quantize" --allow-requantize "$models/$name-$kind.gguf" "$models/$name-$kind-decoded.gguf" F32
done
