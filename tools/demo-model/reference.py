"""Numbers from the trainer on the exported file, so that another engine can be checked against them."""
import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer

from export import load, write_json
from generate import complete, prompt

PROMPTS = ["What is the capital of Japan?", "Tell me a story about a fox and a lamp."]


@torch.no_grad()
def row(model, tokenizer, text):
    ids = prompt(tokenizer, [], text)
    tokens = torch.tensor([ids])
    hidden = model.trunk(tokens)
    last = model.logits(hidden)[0, -1]
    greedy = complete(model, [ids], limit=24)[0]
    whole = torch.tensor([ids + greedy])
    guess = model.logits(model.drafted(whole, model.trunk(whole))).argmax(-1)[0]
    return {"prompt": text, "token_ids": ids, "last_argmax": int(last.argmax()),
            "last_logits_first_8": [round(float(x), 6) for x in last[:8]],
            "last_logits_max": round(float(last.max()), 6), "greedy_24": greedy,
            "greedy_text": tokenizer.decode(greedy),
            "draft_argmax_rows": guess[len(ids) - 1 :].tolist()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    folder = Path(parser.parse_args().folder)
    model, tokenizer = load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    write_json(folder / "reference.json", {
        "about": "bf16-rounded weights, f32 arithmetic. last_*: logits at the last prompt position. greedy_24: up to 24 "
                 "greedy tokens after it, the end token left out. draft_argmax_rows: what the draft layer predicts for "
                 "token i+2, for rows i from the last prompt position on, over prompt and greedy tokens.",
        "rows": [row(model, tokenizer, text) for text in PROMPTS]})


if __name__ == "__main__":
    main()
