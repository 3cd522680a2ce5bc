"""Holds hadal to llama.cpp on the same GGUF files: greedy tokens must be equal wherever the choice is clear.

    compare_greedy.py --hadal target/release/hadal MODEL.gguf ...

For some random prompts hadal decodes greedily; llama.cpp is asked for the next token behind the prompt and each
beginning of that answer. Where the two differ, both must have seen a near-tie: llama.cpp rounds the inputs of quantised
products to 8 bits and those of bf16 products to bf16, hadal does not, so logits are not equal and close choices fall
either way. With `MODEL-decoded.gguf` beside it, the same numbers in F32, that file is what llama.cpp is given: then nothing
is rounded on either side, and the limit is that of F32. Prints, for each file, how many choices agree, how many were too close to count, and how far apart the
log-probabilities of the chosen tokens are. Fails when a clear choice differs.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import xllamacpp

# Largest difference of two logits that is called a near-tie, by the precision of llama.cpp's inputs.
TIES = {"F32": 0.02, "BF16": 0.1}
TIE_QUANTISED = 0.4
TOP = 8


def read(path, names):
    data = np.fromfile(path, np.uint8)
    size = int(data[:8].view("<u8")[0])
    header = json.loads(data[8 : 8 + size].tobytes())
    for name in names:
        begin, end = (8 + size + offset for offset in header[name]["data_offsets"])
        kind = {"F32": "<f4", "I64": "<i8"}[header[name]["dtype"]]
        yield data[begin:end].copy().view(kind).reshape(header[name]["shape"])


def ours(hadal, model, prompt, n_token, scratch):
    """The greedy answer and its logits, `[n_token]` and `[n_token, vocab]`."""
    tokens, out = scratch / "tokens.json", scratch / "logits.safetensors"
    tokens.write_text(json.dumps(prompt))
    command = [hadal, "logits", "--model", model, "--tokens", tokens, "--greedy", str(n_token), "--out", out]
    subprocess.run(command, check=True)
    answer, logits = read(out, ["decode_tokens", "decode_logits"])
    return [int(id) for id in answer.reshape(-1)], logits.reshape(len(answer.reshape(-1)), -1)


def open_peer(model):
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = 1024
    params.warmup = False
    # f16 by default, which is enough to move a router's choice now and then.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(params)


def theirs(server, tokens):
    """llama.cpp's best next tokens as (id, log-probability), best first; `None` where it does not say."""
    # It says nothing about tokens that end inside a character.
    request = {"prompt": tokens, "max_tokens": 1, "temperature": 0, "logprobs": TOP}
    answer = server.handle_completions(request)
    if "choices" not in answer:
        raise SystemExit(f"llama.cpp: {answer}")
    said = answer["choices"][0]["logprobs"]
    return said and [(entry["id"], entry["logprob"]) for entry in said["content"][0]["top_logprobs"]]


def log_softmax(x):
    x = x.astype(np.float64) - x.max()
    return x - np.log(np.exp(x).sum())


def compare(hadal, model, peer_model, prompts, n_token, tie):
    equal, close, silent, wrong, apart = 0, 0, 0, [], []
    server = open_peer(peer_model)
    with tempfile.TemporaryDirectory() as scratch:
        for prompt in prompts:
            answer, logits = ours(hadal, model, prompt, n_token, pathlib.Path(scratch))
            for i, token in enumerate(answer):
                top, own = theirs(server, prompt + answer[:i]), log_softmax(logits[i])
                if not top:
                    silent += 1
                elif top[0][0] == token:
                    equal += 1
                    apart.append(abs(own[token] - top[0][1]))
                else:
                    lead = own[token] - own[top[0][0]]
                    their_lead = top[0][1] - dict(top).get(token, -np.inf)
                    is_close = max(lead, their_lead) <= tie
                    close += is_close
                    if not is_close:
                        wrong.append(f"{token} by {lead:.3f}, llama.cpp {top[0][0]} by {their_lead:.3f}")
    return equal, close, silent, wrong, apart


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hadal", type=pathlib.Path, required=True)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--vocab", type=int, default=384, help="ids of the prompts are below this")
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    failed = 0
    for model in (model for model in args.models if not model.stem.endswith("-decoded")):
        rng = np.random.default_rng(1)
        prompts = [[int(id) for id in rng.integers(16, args.vocab, args.prompt_tokens)] for _ in range(args.prompts)]
        decoded = model.with_name(model.stem + "-decoded.gguf")
        kind = "F32" if decoded.exists() else model.stem.rsplit("-", 1)[-1]
        peer_model, tie = decoded if decoded.exists() else model, TIES.get(kind, TIE_QUANTISED)
        equal, close, silent, wrong, apart = compare(args.hadal, model, peer_model, prompts, args.tokens, tie)
        spread = f"log-probabilities {np.mean(apart):.4f} apart, at most {np.max(apart):.4f}" if apart else ""
        print(f"{model.name:28} {equal} equal, {close} near-ties, {silent} unsaid, {len(wrong)} wrong; {spread}", flush=True)
        for line in wrong:
            print(f"    {line}")
        failed += bool(wrong)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
