"""The gates: freshly drawn questions, greedy answers, exact checks. Prints JSON."""
import argparse
import json
import random
from collections import Counter
from pathlib import Path

import torch
from tokenizers import Tokenizer

import chat
import copying
import dialogues
import facts
import smalltalk
import stories
import wider
from export import load
from generate import answers, encode, prompt
from model import Config, Model

GATES = {"facts": 0.95, "sums": 0.85, "counting": 0.90, "recall": 0.90, "echo": 0.80, "story": 0.85, "unknown": 0.80,
         "greeting": 0.90, "self": 0.90}


def one_turn(draw, count):
    def make(rng):
        pairs = [draw(rng) for _ in range(count)]
        return [([], question, exactly(answer)) for question, answer in pairs]
    return make


def exactly(answer):
    return lambda text: text.strip() == answer


def fact_questions(rng):
    picked = [rng.choice(pairs) for pairs in dialogues.FACTS.values()]
    return [([], question, exactly(answer)) for question, answer in picked]


def recall_questions(rng):
    out = []
    for i in range(60):
        name = copying.person(rng)
        turns = [(f"My name is {name}.", f"Nice to meet you, {name}!")]
        if i % 3 == 2:
            turns.append(dialogues.fact(rng))
        out.append((turns, "What is my name?", lambda text, name=name: name in text))
    return out


def story_questions(rng):
    out = []
    while len(out) < 60:
        question, _, hero, thing = stories.request(rng)
        if thing:
            out.append(([], question, lambda text, h=hero, t=thing: h in text and t in text))
    return out


UNSEEN_HEROES = "plumber gardener vampire squid mole ferret pilot judge tailor miller shepherd painter".split()
UNSEEN_THINGS = "anchor ladle trumpet marble compass kettle helmet hourglass lemon wagon napkin drawer".split()


def unseen_questions(rng):
    """Stories about words that no story of the training text contains."""
    out = []
    for hero in UNSEEN_HEROES:
        for thing in rng.sample(UNSEEN_THINGS, 3):
            question = f"Tell me a story about {facts.a(hero)} and {facts.a(thing)}."
            out.append(([], question, lambda text, h=hero, t=thing: h in text and t in text))
    return out


def any_of(groups, count):
    def make(rng):
        out = []
        for _ in range(count):
            questions, allowed = rng.choice(groups)
            out.append(([], rng.choice(questions), lambda text, a=allowed: text.strip() in a))
        return out
    return make


SETS = {
    "facts": fact_questions, "sums": one_turn(dialogues.sum_, 120), "counting": one_turn(dialogues.counting, 60),
    "recall": recall_questions, "echo": one_turn(chat.echo, 60), "story": story_questions,
    "unknown": one_turn(chat.unknown, 60),
    "greeting": any_of([(smalltalk.GREETINGS, smalltalk.HELLOS)], 20), "self": any_of(dialogues.SELF, 40),
    "talk": any_of(dialogues.TALK + chat.MORE_TALK, 40), "reasoned": one_turn(chat.reasoned_sum, 30),
    "phrase": one_turn(wider.echo, 60), "unseen": unseen_questions,
}


def loops(ids) -> bool:
    grams = Counter(tuple(ids[i : i + 4]) for i in range(len(ids) - 3))
    return bool(grams) and max(grams.values()) >= 3


@torch.no_grad()
def draft_acceptance(model, tokenizer, cases):
    """How often the draft layer names the token that greedy decoding then takes, and the experts' load."""
    hit = total = 0
    load = [torch.zeros(model.c.experts) for _ in model.experts()]
    for turns, question, text in cases:
        head = prompt(tokenizer, turns, question)
        tokens = torch.tensor([head + encode(tokenizer, text) + [1]])
        model.train()
        hidden = model.trunk(tokens)
        guess = model.logits(model.drafted(tokens, hidden)).argmax(-1)[0, :-1]
        model.eval()
        rows = slice(len(head) - 1, None)
        hit += int((guess[rows] == tokens[0, 2:][rows]).sum())
        total += len(tokens[0, 2:][rows])
        for count, block in zip(load, model.experts()):
            count += block.load
    busiest = max(float(count.max() / count.mean()) for count in load)
    return hit / total, busiest


def sampled(model, tokenizer):
    """Right answers at temperature 1.0, where a preference-trained model should be steadier."""
    right = total = 0
    for name in ("facts", "sums", "counting", "echo"):
        cases = SETS[name](random.Random(f"sampled {name}"))
        texts = answers(model, tokenizer, [(t, q) for t, q, _ in cases], temperature=1.0, seed=3, limit=60)
        right += sum(check(text) for (_, _, check), text in zip(cases, texts))
        total += len(cases)
    return [right, total]


def evaluate(model, tokenizer, sets=None, wrong=False):
    report, every, looped = {}, [], 0
    for name in sets or SETS:
        cases = SETS[name](random.Random(f"gate {name}"))
        texts = answers(model, tokenizer, [(t, q) for t, q, _ in cases])
        right = [check(text) for (_, _, check), text in zip(cases, texts)]
        report[name] = [sum(right), len(right)]
        for (turns, question, _), text, ok in zip(cases, texts, right):
            every.append((turns, question, text))
            looped += name not in ("counting", "echo") and loops(encode(tokenizer, text))
            if wrong and not ok:
                print(f"{name}: {question} -> {text[:150]}")
    sample = random.Random(5).sample(every, min(150, len(every)))
    acceptance, busiest = draft_acceptance(model, tokenizer, sample)
    report |= {"loops": [looped, len(every)], "draft_acceptance": round(acceptance, 3),
               "busiest_expert": round(busiest, 2)}
    return report


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="an exported folder, or a .pt file of the trainer (f32)")
    parser.add_argument("--tokenizer")
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--wrong", action="store_true")
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if Path(args.model).is_dir():
        model = load(args.model)
    else:
        model = Model(Config())
        model.load_state_dict(torch.load(args.model))
        model.eval()
    path = args.tokenizer or str(Path(args.model) / "tokenizer.json")
    report = evaluate(model, Tokenizer.from_file(path), args.sets, args.wrong)
    if not args.sets:
        report["sampled"] = sampled(model, Tokenizer.from_file(path))
    print(json.dumps(report))
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
