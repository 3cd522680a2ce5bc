# /// script
# requires-python = ">=3.11"
# dependencies = ["tiktoken==0.14.0", "tokenizers==0.23.3", "transformers==5.23.0", "jinja2==3.1.6"]
# ///
"""Builds `text/kimi` (a vocabulary in tiktoken's form and what tiktoken makes of texts) and the expectations of
`text/templates` (chat templates, rendered as transformers renders them and encoded by `v3-tied-f32`'s tokenizer).

    python text_cases.py ..
"""

import base64
import json
import random
import sys
from pathlib import Path

import corpus
import tiktoken
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers.utils.chat_template_utils import render_jinja_template
from weights import dump_json

# How Kimi's `tokenization_kimi.py` cuts a text.
PIECES = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
N_TOKEN, N_SPECIAL = 900, 256
NAMED = {0: ("[BOS]", True), 1: ("[EOS]", True), 2: ("<|im_end|>", True), 3: ("<|im_user|>", True),
         4: ("<|im_assistant|>", True), 5: ("<|im_system|>", True), 6: ("<|im_middle|>", True),
         11: ("<|tool_call_begin|>", False), 254: ("[UNK]", True), 255: ("[PAD]", True)}  # fmt: skip
# Whole pieces that no merge reaches, and runs that can be joined in several ways.
EXTRA = [b"unreachable", b" zebra", b"aa", b"aaa", b"aaaa", b"aaaaaaa", b"abab", b"bab", b"ab", b" " * 5, b" " * 9]

TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if loop.first and messages[0]['role'] != 'system' -%}"
    "<|im_system|>system<|im_middle|>You are an assistant.<|im_end|>"
    "{%- endif -%}"
    "{%- set name = message.get('name') if message.get('name') else message['role'] -%}"
    "{%- if message['role'] == 'user' -%}<|im_user|>{{ name }}<|im_middle|>"
    "{%- elif message['role'] == 'assistant' -%}<|im_assistant|>{{ name }}<|im_middle|>"
    "{%- else -%}<|im_system|>{{ name }}<|im_middle|>{%- endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- endif -%}<|im_end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}"
)

CHATS = [
    [("user", "Where is the mill?")],
    [("system", "Answer in one line."), ("user", "Count to 3"), ("assistant", "1 2 3"), ("user", "今天呢？ <b>& \"q\"</b>")],
    [("user", "Hi"), ("assistant", "<think>\nfirst\n</think>\n\nHello."), ("user", "and then?"),
     ("assistant", "Nothing."), ("user", "  Bye \n")],
    [("system", "a"), ("system", "b"), ("user", "weather?"), ("assistant", ""), ("tool", "12 degrees"), ("user", "ok")],
]  # fmt: skip


def strings(seed: int, count: int) -> list[str]:
    """Mixed text: words, scripts, digits, punctuation, runs, odd spaces, characters from everywhere."""
    draw = random.Random(seed)
    words = (corpus.PROSE + corpus.TECHNICAL + corpus.OTHER_SCRIPTS).split()
    runs = ["a", "ab", " ", "\n", "\r\n", "\t", "=", "0", "'", "我", "́", "ß", " ", "　", "🙂"]
    ends = ["'s", "'LL", "'re", "'ſ", "'T", "’s", "'d've"]
    ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xA00), (0x3000, 0x3100),
              (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0x1F300, 0x1F700), (0x20000, 0x20100)]  # fmt: skip

    def piece() -> str:
        kind = draw.randrange(6)
        if kind == 0:
            return draw.choice(words) + draw.choice(["", *ends])
        if kind == 1:
            return draw.choice(runs) * draw.randrange(1, 12)
        if kind == 2:
            return str(draw.randrange(10 ** draw.randrange(1, 9)))
        if kind == 3:
            return chr(draw.randrange(*draw.choice(ranges)))
        return draw.choice([" ", " ", "\n", ", ", ". ", draw.choice(words).upper(), draw.choice(words).title()])

    return ["".join(piece() for _ in range(draw.randrange(1, 24))) for _ in range(count)]


def vocabulary() -> dict[bytes, int]:
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES.replace("&&[^\\p{Han}]", "")), "isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=N_TOKEN - len(EXTRA), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tok.train_from_iterator(corpus.TRAINING_TEXT.splitlines(keepends=True), trainer)
    letters = {ord(c): b for b, c in byte_letters().items()}
    learnt = [bytes(letters[ord(c)] for c in t) for t, _ in sorted(tok.get_vocab().items(), key=lambda x: x[1])]
    learnt = [t for t in learnt if len(t) > 1 and t not in EXTRA]
    # Extra tokens stand among the others, so that ranks are no order of learning.
    order = [bytes([b]) for b in range(256)] + learnt[:40] + EXTRA + learnt[40:]
    return {token: rank for rank, token in enumerate(order)}


def byte_letters() -> dict[int, str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def kimi(folder: Path) -> None:
    ranks = vocabulary()
    n = len(ranks)
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    (folder / "tiktoken.model").write_text("\n".join(lines) + "\n", encoding="ascii")
    named = {n + i: name for i, (name, _) in NAMED.items()}
    decoder = {
        str(n + i): {"content": name, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                     "special": special}
        for i, (name, special) in NAMED.items()
    }  # fmt: skip
    dump_json(
        folder / "tokenizer_config.json",
        {"added_tokens_decoder": decoder, "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]",
         "pad_token": "[PAD]", "tokenizer_class": "TikTokenTokenizer", "chat_template": TEMPLATE},
    )  # fmt: skip
    specials = {named.get(i, f"<|reserved_token_{i}|>"): i for i in range(n, n + N_SPECIAL)}
    encoding = tiktoken.Encoding("kimi", pat_str=PIECES, mergeable_ranks=ranks, special_tokens=specials)
    hidden = {n + i for i, (_, special) in NAMED.items() if special} | set(range(n, n + N_SPECIAL)) - set(named)
    texts = corpus.TOKENIZER_PROBES + strings(7, 400)
    texts += ["<|im_user|>hello<|im_end|>", f"x<|reserved_token_{n + 20}|>", "a<|tool_call_begin|>b", "[EOS] [EOS"]
    texts += ["a" * i for i in range(1, 40)] + ["b" + "ab" * i for i in range(1, 12)] + ["x" + " " * i for i in range(30)]
    encode, size = [], 0
    for text in texts:
        ids = encoding.encode(text, allowed_special="all")
        shown = encoding.decode([i for i in ids if i not in hidden])
        encode.append({"text": text, "ids_with_special": ids, "decoded_skip_special": shown})
        size += len(ids)
    chat = []
    for turns in CHATS:
        messages = [{"role": role, "content": content} for role, content in turns]
        text = rendered(TEMPLATE, messages, "[BOS]", "[EOS]")
        ids = encoding.encode(text, allowed_special="all")
        chat.append({"messages": messages, "add_generation_prompt": True, "rendered": text, "ids": ids})
    dump_json(folder / "golden.json", {"tokenizer": {"encode": encode, "chat": chat}, "tiktoken": tiktoken.__version__})
    print(f"kimi: {n} tokens, {len(encode)} texts of {size} ids")


def rendered(template: str, messages: list[dict], bos: str, eos: str) -> str:
    texts, _ = render_jinja_template(
        conversations=[messages], chat_template=template, add_generation_prompt=True, bos_token=bos, eos_token=eos
    )
    return texts[0]


def templates(root: Path) -> None:
    tok = Tokenizer.from_file(str(root / "v3-tied-f32" / "tokenizer.json"))
    config = json.loads((root / "v3-tied-f32" / "tokenizer_config.json").read_text(encoding="utf-8"))
    bos, eos = config["bos_token"]["content"], config["eos_token"]["content"]
    out = []
    for path in sorted((root / "text" / "templates").glob("*.jinja")):
        for turns in CHATS:
            messages = [{"role": role, "content": content} for role, content in turns]
            entry = {"template": path.name, "messages": messages}
            try:
                text = rendered(path.read_text(encoding="utf-8"), messages, bos, eos)
                entry |= {"rendered": text, "ids": tok.encode(text, add_special_tokens=False).ids}
            except Exception as refusal:  # what the template raises itself
                entry |= {"error": str(refusal)}
            out.append(entry)
    dump_json(root / "text" / "templates" / "golden.json", out)
    print(f"templates: {len(out)} conversations")


if __name__ == "__main__":
    kimi(Path(sys.argv[1]) / "text" / "kimi")
    templates(Path(sys.argv[1]))
