"""Train on packed rows: next-token loss, draft-layer loss, balanced experts. Counts tokens, never seconds."""
import argparse
import json
import time

import numpy as np
import torch
import torch.nn.functional as F

import start
from model import Config, Model
from optim import Optimizer

DRAFT_WEIGHT, BALANCE_WEIGHT = 0.3, 1e-3


def weighted(logits, target, weight):
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return (loss * weight.flatten()).sum() / weight.sum().clamp(min=1.0)


def losses(model, tokens, weight, numbers):
    """(next-token loss, draft loss); a target counts only inside its own document."""
    hidden = model.trunk(tokens, numbers)
    same = (numbers[:, 1:] == numbers[:, :-1]).float()
    first = weighted(model.logits(hidden[:, :-1]), tokens[:, 1:], weight[:, 1:] * same)
    drafted = model.drafted(tokens, hidden, numbers)
    far = (numbers[:, 2:] == numbers[:, :-2]).float()
    second = weighted(model.logits(drafted[:, :-1]), tokens[:, 2:], weight[:, 2:] * far)
    return first, second


def rate(step, steps, warm, flat):
    """Warm up, stay flat, fall linearly to 2 %."""
    if step < warm:
        return (step + 1) / warm
    begin = int(steps * flat)
    if step < begin:
        return 1.0
    return max(0.02, 1.0 - 0.98 * (step - begin) / max(1, steps - begin))


def balance(model, step, first_steps):
    speed = 1e-2 if step < first_steps else 2e-3
    for block in model.experts():
        if block.load is not None:
            block.bias += speed * (block.load.mean() - block.load).sign()


class Rows:
    def __init__(self, path):
        data = np.load(path)
        self.parts = [torch.from_numpy(data[k]) for k in ("tokens", "weights", "numbers")]

    def batch(self, step, size):
        tokens, weights, numbers = (p[step * size : (step + 1) * size] for p in self.parts)
        return tokens.long(), weights.float(), numbers.long()

    def steps(self, size):
        return len(self.parts[0]) // size


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--init", help="a checkpoint of an earlier stage; without it, the structured start")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, help="at most this many steps; all rows if not given")
    parser.add_argument("--steps-file", help="a file holding the number of steps, reread while the rate is flat")
    parser.add_argument("--muon", type=float, default=0.02)
    parser.add_argument("--adam", type=float, default=4e-3)
    parser.add_argument("--warm", type=int, default=30)
    parser.add_argument("--flat", type=float, default=0.6)
    parser.add_argument("--fast-balance", type=int, default=150, help="steps with the large router bias step")
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--log", required=True)
    return parser.parse_args()


def total(args, rows):
    steps = rows.steps(args.batch)
    if args.steps_file:
        steps = min(steps, int(open(args.steps_file).read()))
    return min(steps, args.steps) if args.steps else steps


def main():
    args = parse()
    torch.manual_seed(7)
    torch.set_num_threads(args.threads)
    model, rows = Model(Config()), Rows(args.data)
    if args.init:
        model.load_state_dict(torch.load(args.init))
    else:
        start.structure(model)
    model.train()
    optimizer, log, begun, seen = Optimizer(model), open(args.log, "w"), time.time(), 0
    step, steps = 0, total(args, rows)
    while step < steps:
        tokens, weights, numbers = rows.batch(step, args.batch)
        first, second = losses(model, tokens, weights, numbers)
        extra = BALANCE_WEIGHT * sum(block.balance for block in model.experts())
        (first + DRAFT_WEIGHT * second + extra).backward()
        speed = rate(step, steps, args.warm, args.flat)
        optimizer.step(args.muon * speed, args.adam * speed)
        if step < steps * 0.9:
            balance(model, step, args.fast_balance)
        step, seen = step + 1, seen + tokens.numel()
        if step % 10 == 0:
            busy = max(float(b.load.max() / b.load.mean()) for b in model.experts())
            log.write(json.dumps({"step": step, "tokens": seen, "loss": first.item(), "draft": second.item(),
                                  "rate": speed, "busy": busy, "per_second": seen / (time.time() - begun)}) + "\n")
            log.flush()
        if step % args.save_every == 0 or step == steps:
            torch.save(model.state_dict(), args.out)
        if speed == 1.0 and step >= args.warm:
            steps = total(args, rows)


if __name__ == "__main__":
    main()
