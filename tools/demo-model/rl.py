"""Third stage: preference pairs from the model's own answers, judged by exact checks, trained with DPO.

Each round draws fresh prompts, samples eight answers each at temperature 1, keeps prompts with both right and wrong
answers, and trains on (right, wrong) pairs. The plain loss on the right answer and the draft layer's loss stay on.
"""
import argparse
import json
import random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import chat
import dialogues
import wider
from generate import complete, encode, prompt
from model import Config, Model
from train import DRAFT_WEIGHT, weighted
from vocabulary import EOS, PAD

SAMPLES, BETA, NLL_WEIGHT = 8, 0.1, 1.0


def recall(rng):
    turns = dialogues.name_recall(rng)
    return turns[:-1], turns[-1][0], turns[-1][1]


def single(draw):
    def make(rng):
        question, answer = draw(rng)
        return [], question, answer
    return make


TASKS = [(single(dialogues.fact), 30), (single(dialogues.sum_), 25), (single(wider.echo), 15), (recall, 12),
         (single(dialogues.counting), 8), (single(chat.unknown), 10)]
DRAWS, WEIGHTS = zip(*TASKS)


def draw_tasks(rng, count):
    return [rng.choices(DRAWS, WEIGHTS)[0](rng) for _ in range(count)]


def sample_pairs(model, tokenizer, rng, count):
    """([(prompt, right, wrong)], share of right answers) from the current policy."""
    pairs, right_count, total = [], 0, 0
    for _ in range(count // 8):
        tasks = draw_tasks(rng, 8)
        heads = [prompt(tokenizer, turns, question) for turns, question, _ in tasks]
        seed = rng.randrange(1 << 30)
        drawn = complete(model, [h for h in heads for _ in range(SAMPLES)], limit=48, temperature=1.0, seed=seed)
        for i, (_, _, answer) in enumerate(tasks):
            texts = [(ids, tokenizer.decode(ids).strip() == answer) for ids in drawn[i * SAMPLES : (i + 1) * SAMPLES]]
            wrong = [ids for ids, ok in texts if not ok]
            right_count, total = right_count + SAMPLES - len(wrong), total + SAMPLES
            right = encode(tokenizer, answer)
            pairs += [(heads[i], right, bad) for bad in wrong[:2]] if len(wrong) < SAMPLES else []
    return pairs, right_count / total


def padded(rows):
    """Token and answer-weight tensors for (prompt, answer) rows."""
    length = max(len(head) + len(answer) + 1 for head, answer in rows)
    tokens, weight = torch.full((len(rows), length), PAD), torch.zeros(len(rows), length)
    for i, (head, answer) in enumerate(rows):
        ids = head + answer + [EOS]
        tokens[i, : len(ids)] = torch.tensor(ids)
        weight[i, len(head) : len(ids)] = 1.0
    return tokens, weight


def log_probability(model, tokens, weight):
    hidden = model.trunk(tokens)
    logits = model.logits(hidden[:, :-1])
    chosen = -F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (chosen.view(tokens.shape[0], -1) * weight[:, 1:]).sum(1), hidden


def update(model, reference, optimizer, batch):
    right, weight_right = padded([(head, good) for head, good, _ in batch])
    wrong, weight_wrong = padded([(head, bad) for head, _, bad in batch])
    with torch.no_grad():
        base = log_probability(reference, right, weight_right)[0] - log_probability(reference, wrong, weight_wrong)[0]
    good, hidden = log_probability(model, right, weight_right)
    bad, _ = log_probability(model, wrong, weight_wrong)
    margin = good - bad - base
    nll = -good.sum() / weight_right.sum()
    drafted = model.logits(model.drafted(right, hidden)[:, :-1])
    draft = weighted(drafted, right[:, 2:], weight_right[:, 2:])
    loss = -F.logsigmoid(BETA * margin).mean() + NLL_WEIGHT * nll + DRAFT_WEIGHT * draft
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return {"loss": loss.item(), "nll": nll.item(), "margin": margin.mean().item(),
            "tokens": right.numel() + wrong.numel()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("init")
    parser.add_argument("tokenizer")
    parser.add_argument("out")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=240, help="per round")
    parser.add_argument("--rate", type=float, default=2e-5)
    parser.add_argument("--log", required=True)
    args = parser.parse_args()
    torch.manual_seed(11)
    torch.set_num_threads(1)
    model, reference, rng = Model(Config()), Model(Config()), random.Random(11)
    for m in (model, reference):
        m.load_state_dict(torch.load(args.init))
        m.eval()
    tokenizer, log, seen = Tokenizer.from_file(args.tokenizer), open(args.log, "w"), 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.95), weight_decay=0.0)
    for number in range(args.rounds):
        pairs, share = sample_pairs(model, tokenizer, rng, args.prompts)
        rng.shuffle(pairs)
        log.write(json.dumps({"round": number, "pairs": len(pairs), "sampled_right": share}) + "\n")
        for at in range(0, len(pairs), 8):
            line = update(model, reference, optimizer, pairs[at : at + 8])
            seen += line.pop("tokens")
            log.write(json.dumps({"round": number, "tokens": seen, **line}) + "\n")
        log.flush()
        torch.save(model.state_dict(), args.out)


if __name__ == "__main__":
    main()
