"""The cases' tokenizers and chat templates."""

from __future__ import annotations

from pathlib import Path

import corpus
from weights import dump_json


DEEPSEEK_SPECIALS = [
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<think>", "</think>",
]  # fmt: skip


# Digit runs of up to three, then CJK/kana runs, then a punctuation/letter/space
# split: the structure of the released V3 pre-tokenizer.
V3_SPLITS = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]


CHAT_TEMPLATE_V3 = (
    "{%- if not add_generation_prompt is defined -%}{%- set add_generation_prompt = false -%}{%- endif -%}"
    "{%- set ns = namespace(system='', open=false) -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- if ns.system -%}{%- set ns.system = ns.system + '\\n\\n' + message['content'] -%}"
    "{%- else -%}{%- set ns.system = message['content'] -%}{%- endif -%}"
    "{%- elif message['role'] not in ['user', 'assistant', 'tool'] -%}"
    "{{ raise_exception('unsupported role: ' + message['role']) }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{{ bos_token }}{{ ns.system }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{ '<｜User｜>' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{%- set content = message['content'] if message['content'] is not none else '' -%}"
    "{%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1] -%}{%- endif -%}"
    "{{ '<｜Assistant｜>' + content }}"
    "{%- if message['tool_calls'] is defined and message['tool_calls'] is not none -%}"
    "{{ '<｜tool▁calls▁begin｜>' }}"
    "{%- for call in message['tool_calls'] -%}"
    "{%- if not loop.first -%}{{ '\\n' }}{%- endif -%}"
    "{{ call['function']['name'] + ' ' + (call['function']['arguments'] | tojson) }}"
    "{%- endfor -%}"
    "{{ '<｜tool▁calls▁end｜>' }}"
    "{%- endif -%}"
    "{{ eos_token }}"
    "{%- elif message['role'] == 'tool' -%}"
    "{{ '\\n' + message['content'] | trim }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt and messages[-1]['role'] != 'assistant' -%}{{ '<｜Assistant｜>' }}{%- endif -%}"
)


CHAT_PROBES = [
    {"messages": [{"role": "user", "content": "Where is the mill?"}], "add_generation_prompt": True},
    {
        "messages": [
            {"role": "system", "content": "Answer in one line."},
            {"role": "user", "content": "Count to 3"},
            {"role": "assistant", "content": "1 2 3"},
            {"role": "user", "content": "今天呢？ <b>& \"quotes\"</b>"},
        ],
        "add_generation_prompt": True,
    },
    {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "<think>hidden reasoning</think>Hello."},
        ],
        "add_generation_prompt": False,
    },
    {
        "messages": [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}
                ],
            },
            {"role": "tool", "content": "  12 degrees \n"},
        ],
        "add_generation_prompt": True,
    },
]


def build_tokenizer(vocab_size: int):
    """A byte-level BPE of exactly `vocab_size` entries."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated") for p in V3_SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=DEEPSEEK_SPECIALS,
        show_progress=False,
    )
    tok.train_from_iterator(corpus.TRAINING_TEXT.splitlines(keepends=True), trainer)
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in DEEPSEEK_SPECIALS])
    assert tok.get_vocab_size() == vocab_size, (tok.get_vocab_size(), vocab_size)
    bos = DEEPSEEK_SPECIALS[0]
    tok.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tok.token_to_id(bos))]
    )
    return tok


def write_tokenizer(directory: Path, tok, case: dict) -> dict[str, int]:
    """tokenizer.json, tokenizer_config.json and generation_config.json; returns special ids."""
    tok.save(str(directory / "tokenizer.json"), pretty=False)

    def added(text: str) -> dict:
        return {"__type": "AddedToken", "content": text, "lstrip": False, "normalized": True, "rstrip": False,
                "single_word": False}  # fmt: skip

    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": added(DEEPSEEK_SPECIALS[0]),
        "clean_up_tokenization_spaces": False,
        "eos_token": added(DEEPSEEK_SPECIALS[1]),
        "legacy": True,
        "model_max_length": case["config"]["max_position_embeddings"],
        "pad_token": added(DEEPSEEK_SPECIALS[2]),
        "sp_model_kwargs": {},
        "unk_token": None,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE_V3, encoding="utf-8")
    dump_json(directory / "tokenizer_config.json", config)
    ids = {"bos": tok.token_to_id(DEEPSEEK_SPECIALS[0]), "eos": tok.token_to_id(DEEPSEEK_SPECIALS[1])}
    if case.get("eos_list"):
        ids["eos"] = [ids["eos"], *(tok.token_to_id(DEEPSEEK_SPECIALS[i]) for i in (2, 3))]
    dump_json(
        directory / "generation_config.json",
        {"_from_model_config": True, "bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "do_sample": True,
         "temperature": 0.6, "top_p": 0.95, "transformers_version": "4.39.3"},
    )  # fmt: skip
    return ids


def tokenizer_goldens(directory: Path) -> dict:
    """Encodings, decodings and rendered chats, as `transformers` produces them."""
    from transformers import PreTrainedTokenizerFast

    tok = PreTrainedTokenizerFast.from_pretrained(directory)
    out = {"encode": [], "chat": []}
    for text in [*corpus.TOKENIZER_PROBES, "<｜User｜>hello<｜Assistant｜>", "text</think>more"]:
        bare = tok.encode(text, add_special_tokens=False)
        out["encode"].append(
            {
                "text": text,
                "ids": bare,
                "ids_with_special": tok.encode(text, add_special_tokens=True),
                "decoded": tok.decode(bare, skip_special_tokens=False, clean_up_tokenization_spaces=False),
                "decoded_skip_special": tok.decode(bare, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            }
        )
    for probe in CHAT_PROBES:
        kwargs = {"add_generation_prompt": probe["add_generation_prompt"]}
        text = tok.apply_chat_template(probe["messages"], tokenize=False, **kwargs)
        ids = tok.encode(text, add_special_tokens=False)
        out["chat"].append({"messages": probe["messages"], **kwargs, "rendered": text, "ids": ids})
    return out
