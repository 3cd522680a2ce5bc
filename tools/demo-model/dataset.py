"""Turn generated text into packed rows of token ids with a loss weight and a document number per token."""
import argparse
import random

import numpy as np
from tokenizers import Tokenizer

import chat
import copying
import dialogues
import facts
import stories
import wider
from vocabulary import ASSISTANT, BOS, EOS, PAD, USER


class Writer:
    def __init__(self, tokenizer: str, seed: int, prompt_weight: float):
        self.tokenizer, self.rng = Tokenizer.from_file(tokenizer), random.Random(seed)
        self.prompt_weight = prompt_weight

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def plain(self, text):
        ids = [BOS] + self.ids(text) + [EOS]
        return ids, [1.0] * len(ids)

    def chat(self, system, turns):
        ids = [BOS] + (self.ids(system) if system else [])
        weights = [0.0] * len(ids)
        for question, answer in turns:
            prompt, reply = [USER] + self.ids(question) + [ASSISTANT], self.ids(answer) + [EOS]
            ids += prompt + reply
            weights += [self.prompt_weight] * len(prompt) + [1.0] * len(reply)
        return ids, weights

    def induction(self):
        ids = copying.random_tokens(self.rng, 5, 2048, 120)
        half = len(ids) // 2
        return [BOS] + ids, [0.0] * (half + 2) + [1.0] * (half - 1)

    def drill(self):
        """Many sums in a row, loss on the results only."""
        ids, weights = [BOS], [0.0]
        for _ in range(20):
            left, right = dialogues.sum_(self.rng)[1].rsplit(" ", 1)
            task, result = self.ids(left), self.ids(" " + right + " ")[:-1]
            ids += task + result
            weights += [0.0] * len(task) + [1.0] * len(result)
        return ids, weights

    def document(self, mix):
        kind = self.rng.choices(list(mix), list(mix.values()))[0]
        if kind == "story":
            return self.plain(stories.story(self.rng))
        if kind == "facts":
            return self.plain(facts.as_prose(self.rng, dialogues.FACTS))
        if kind == "copy":
            return self.plain(copying.passage(self.rng))
        if kind == "induction":
            return self.induction()
        if kind == "drill":
            return self.drill()
        if kind == "wider":
            return self.chat(*wider.dialogue(self.rng))
        return self.chat(*chat.dialogue(self.rng)) if kind == "chat" else self.chat(None, dialogues.dialogue(self.rng))


def pack(writer, mix, rows: int, length: int):
    """Fill each row with whole documents, taking from a pool the first that still fits."""
    tokens = np.full((rows, length), PAD, np.int16)
    weights, numbers = np.zeros((rows, length), np.float16), np.zeros((rows, length), np.int16)
    pool = []
    for row in range(rows):
        at, number = 0, 1
        while True:
            while len(pool) < 40:
                ids, weight = writer.document(mix)
                pool.append((ids[:length], weight[:length]))
            fit = next((i for i, d in enumerate(pool) if len(d[0]) <= length - at), None)
            if fit is None:
                break
            ids, weight = pool.pop(fit)
            end = at + len(ids)
            tokens[row, at:end], weights[row, at:end], numbers[row, at:end] = ids, weight, number
            at, number = end, number + 1
    return tokens, weights, numbers


MIXES = {
    "pretrain": {"story": 14, "facts": 12, "copy": 16, "induction": 6, "dialogue": 52},
    "sft": {"chat": 92, "drill": 8},
    "wider": {"wider": 97, "drill": 3},
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mix", choices=MIXES)
    parser.add_argument("tokenizer")
    parser.add_argument("out")
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    writer = Writer(args.tokenizer, args.seed, 0.1 if args.mix == "pretrain" else 0.0)
    tokens, weights, numbers = pack(writer, MIXES[args.mix], args.tokens // args.length, args.length)
    np.savez(args.out, tokens=tokens, weights=weights, numbers=numbers)
    print("rows", len(tokens), "filled", float((tokens != PAD).mean()), "weighted", float((weights > 0).mean()))


if __name__ == "__main__":
    main()
