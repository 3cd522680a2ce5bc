"""Writes stories.json: token ids of stories that the demo models were not trained on, for perplexities.

    python tests/golden/quant/stories.py     # wants `tokenizers`
"""
import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools/demo-model"))
import stories  # noqa: E402  (found beside the recipe of the demo models)
from vocabulary import BOS, EOS  # noqa: E402

SEED, COUNT = 20_261_128, 40

rng = random.Random(SEED)
tokenizer = Tokenizer.from_file(str(ROOT / "checkpoints/pretrain/demo/tokenizer.json"))
rows = [[BOS] + tokenizer.encode(stories.story(rng), add_special_tokens=False).ids + [EOS] for _ in range(COUNT)]
text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
Path(__file__).with_name("stories.json").write_text(f"[\n{text}\n]\n")
