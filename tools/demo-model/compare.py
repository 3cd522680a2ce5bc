"""Check an exported checkpoint against transformers' DeepseekV3ForCausalLM, in f32."""
import argparse

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, DeepseekV3ForCausalLM

from export import load
from generate import prompt


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    folder = parser.parse_args().folder
    ours = load(folder)
    theirs = DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, worst = Tokenizer.from_file(f"{folder}/tokenizer.json"), 0.0
    for question in ("Hello!", "What is the capital of Japan?", "Tell me a story about a fox and a lamp."):
        ids = torch.tensor([prompt(tokenizer, [], question)])
        with torch.no_grad():
            a, b = ours.logits(ours.trunk(ids)), theirs(ids).logits
        worst = max(worst, float((a - b).abs().max()))
        assert torch.equal(a.argmax(-1), b.argmax(-1))
    wrapped = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "Hello!"}]
    rendered = wrapped.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = wrapped(rendered, add_special_tokens=False)["input_ids"]
    assert ids == prompt(tokenizer, [], "Hello!"), (rendered, ids)
    print("largest logit difference", worst)
    assert worst <= 1e-4


if __name__ == "__main__":
    main()
