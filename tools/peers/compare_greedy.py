"""Holds hadal to llama.cpp on the same GGUF files: greedy tokens must be equal wherever the choice is clear.

    compare_greedy.py --hadal target/release/hadal --llama-server FOLDER/llama/bin/llama-server MODEL.gguf ...

For some random prompts hadal decodes greedily with f32 activations; llama.cpp is asked for the next token behind the
prompt and behind each beginning of that answer, twice over:

- `exact`: on MODEL-decoded.gguf, the numbers that llama.cpp itself reads in MODEL.gguf, as F32. Nothing is rounded on
  either side, so every choice must be the same but for ties of F32 arithmetic. This fails on a difference.
- `as stored`: on MODEL.gguf. llama.cpp rounds the inputs of quantised products to 8 bits and those of bf16 products to
  bf16. That moves logits, and now and then sends a token to another expert, which moves them a lot. A choice that
  differs here fails unless it was close, or llama.cpp's own choice on the exact numbers is hadal's: then the difference
  is between llama.cpp and llama.cpp.
"""

import argparse
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import numpy as np

# Largest difference of two logits that is called a near-tie: of F32 sums in another order, of rounded inputs.
TIE_EXACT = 0.02
TIE_STORED = 0.4
TOP = 8


def read(path, names):
    data = np.fromfile(path, np.uint8)
    size = int(data[:8].view("<u8")[0])
    header = json.loads(data[8 : 8 + size].tobytes())
    for name in names:
        begin, end = (8 + size + offset for offset in header[name]["data_offsets"])
        kind = {"F32": "<f4", "I64": "<i8"}[header[name]["dtype"]]
        yield data[begin:end].copy().view(kind).reshape(header[name]["shape"])


def ours(hadal, model, prompt, n_token):
    """The greedy answer and its logits, `[n_token]` and `[n_token, vocab]`."""
    with tempfile.TemporaryDirectory() as scratch:
        tokens, out = (pathlib.Path(scratch) / name for name in ("tokens.json", "logits.safetensors"))
        tokens.write_text(json.dumps(prompt))
        command = [hadal, "logits", "--model", model, "--activations", "f32", "--tokens", tokens]
        subprocess.run([*command, "--greedy", str(n_token), "--out", out], check=True)
        answer, logits = read(out, ["decode_tokens", "decode_logits"])
    answer = [int(id) for id in answer.reshape(-1)]
    return answer, logits.reshape(len(answer), -1)


class Peer:
    """A llama-server with one model."""

    def __init__(self, binary, model):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.root = f"http://127.0.0.1:{port}"
        # The cache is f16 by default, which is enough to move a router's choice now and then.
        words = "-c 1024 -np 1 -fa off --cache-type-k f32 --cache-type-v f32 --no-warmup --host 127.0.0.1 --port"
        # Repacked, it aborts on processors with AMX: it has no such product for `attn_k_b`, a matrix for each head.
        words = f"--no-repack {words}"
        command = [binary, "-m", model, *words.split(), str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(3000):
            if self.process.poll() is not None:
                raise SystemExit(f"llama-server ended with {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"{self.root}/health"):
                    return self
            except OSError:
                time.sleep(0.1)
        raise SystemExit("llama-server was not ready in five minutes")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def next(self, tokens):
        """The next token, and the best ones' log-probabilities; none of those for one that ends inside a character."""
        request = {"prompt": tokens, "n_predict": 1, "temperature": 0, "n_probs": TOP, "return_tokens": True}
        body = json.dumps(request).encode()
        call = urllib.request.Request(f"{self.root}/completion", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(call) as answer:
            said = json.load(answer)
        [first, *_] = said.get("completion_probabilities") or [{"top_logprobs": []}]
        # What goes on behind the half character is not asked for.
        whole = first["top_logprobs"] if len(said["tokens"]) == 1 else []
        return said["tokens"][0], {entry["id"]: entry["logprob"] for entry in whole}


def log_softmax(x):
    x = x.astype(np.float64) - x.max()
    return x - np.log(np.exp(x).sum())


def ask(binary, model, answers):
    """What llama.cpp would say at each position of each answer."""
    with Peer(binary, model) as peer:
        return [
            [peer.next(prompt + answer[:i]) for i in range(len(answer))] for prompt, (answer, _) in answers
        ]


def judge(answers, said, tie, excused):
    """Equal, close, excused and wrong choices; how far apart the log-probabilities of the chosen tokens are."""
    equal, close, other, wrong, apart = [], 0, 0, [], []
    for row, ((_, (answer, logits)), choices) in enumerate(zip(answers, said)):
        for i, (token, (theirs, top)) in enumerate(zip(answer, choices)):
            own = log_softmax(logits[i])
            if theirs == token:
                equal.append((row, i))
                apart.extend([abs(own[token] - top[token])] if token in top else [])
                continue
            lead = own[token] - own[theirs]
            their_lead = top[theirs] - top.get(token, -np.inf) if top else np.nan
            if np.fmax(lead, their_lead) <= tie:
                close += 1
            elif (row, i) in excused:
                other += 1
            else:
                wrong.append(f"prompt {row}, token {i}: {token} by {lead:.3f}, llama.cpp {theirs} by {their_lead:.3f}")
    return equal, close, other, wrong, apart


def compare(args, model):
    rng = np.random.default_rng(1)
    draw = lambda: [int(id) for id in rng.integers(16, args.vocab, args.prompt_tokens)]
    prompts = [draw() for _ in range(args.prompts)]
    answers = [(prompt, ours(args.hadal, model, prompt, args.tokens)) for prompt in prompts]
    failed, exact = False, ()
    decoded = model.with_name(model.stem + "-decoded.gguf")
    for what, path, tie in [("exact", decoded, TIE_EXACT), ("as stored", model, TIE_STORED)]:
        equal, close, other, wrong, apart = judge(answers, ask(args.llama_server, path, answers), tie, exact)
        exact = set(equal)
        spread = f"log-probabilities {np.mean(apart):.4f} apart, at most {np.max(apart):.4f}"
        counts = f"{len(equal):4} equal, {close} near-ties, {other} by rounding, {len(wrong)} wrong"
        print(f"{model.name:28} {what:9} {counts}; {spread}", flush=True)
        for line in wrong:
            print(f"    {line}")
        failed |= bool(wrong)
    return failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hadal", type=pathlib.Path, required=True)
    parser.add_argument("--llama-server", type=pathlib.Path, required=True)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--vocab", type=int, default=384, help="ids of the prompts are below this")
    parser.add_argument("models", nargs="+", type=pathlib.Path, help="each with MODEL-decoded.gguf beside it")
    args = parser.parse_args()
    failed = [compare(args, model) for model in args.models if not model.stem.endswith("-decoded")]
    sys.exit(any(failed))


if __name__ == "__main__":
    main()
