"""Batched generation with the torch model. It recomputes the whole context each step: slow, simple, independent."""
import torch

from vocabulary import ASSISTANT, BOS, EOS, PAD, USER


def prompt(tokenizer, turns, question):
    """Token ids of a conversation: earlier (question, answer) pairs, then an open question."""
    ids = [BOS]
    for asked, answered in turns:
        ids += [USER] + encode(tokenizer, asked) + [ASSISTANT] + encode(tokenizer, answered) + [EOS]
    return ids + [USER] + encode(tokenizer, question) + [ASSISTANT]


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def pick(logits, temperature, generator):
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]


@torch.no_grad()
def complete(model, prompts, limit=160, temperature=0.0, seed=0):
    """Answers (token ids without the end token) to a list of prompts, all decoded together."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([len(p) for p in prompts])
    tokens = torch.full((len(prompts), int(lengths.max()) + limit), PAD)
    for row, p in enumerate(prompts):
        tokens[row, : len(p)] = torch.tensor(p)
    alive, ends = torch.arange(len(prompts)), lengths.clone()
    for _ in range(limit):
        longest = int(ends[alive].max())
        hidden = model.trunk(tokens[alive, :longest])
        last = hidden[torch.arange(len(alive)), ends[alive] - 1]
        chosen = pick(model.logits(last), temperature, generator)
        tokens[alive, ends[alive]] = chosen
        ends[alive] += 1
        alive = alive[(chosen != EOS) & (ends[alive] < model.c.context)]
        if len(alive) == 0:
            break
    out = []
    for row, p in enumerate(prompts):
        ids = tokens[row, len(p) : ends[row]].tolist()
        out.append(ids[:-1] if ids and ids[-1] == EOS else ids)
    return out


def answers(model, tokenizer, conversations, **options):
    """Texts for a list of (turns, question)."""
    out = []
    for at in range(0, len(conversations), 64):
        prompts = [prompt(tokenizer, turns, question) for turns, question in conversations[at : at + 64]]
        out += [tokenizer.decode(ids) for ids in complete(model, prompts, **options)]
    return out
