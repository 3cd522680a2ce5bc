"""Compares two files of `hadal logits` that should agree: same.py WANTED MADE

Both come from the same numbers, one of them decoded beforehand, so what may differ is the order of a sum: 3e-4 of
logits with a spread of about 2, as `compare.py` allows float32. Tokens must be equal as long as the two best logits
are further apart than that could bring together. Prints the largest difference, the largest divergence and the tokens.
"""

import json
import sys

import numpy as np

MAX_ABS = 3e-4
SPREAD = 2.0
TIE = 2e-3


def read(path):
    data = np.fromfile(path, np.uint8)
    size = int(data[:8].view("<u8")[0])
    header = json.loads(data[8 : 8 + size].tobytes())
    arrays = {}
    for name in ("logits", "decode_logits", "decode_tokens"):
        entry = header[name]
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        kind = {"F32": "<f4", "I64": "<i8"}[entry["dtype"]]
        arrays[name] = data[begin:end].copy().view(kind).reshape(entry["shape"])
    return arrays


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def main():
    wanted, made = read(sys.argv[1]), read(sys.argv[2])
    tokens, got = wanted["decode_tokens"].reshape(-1), made["decode_tokens"].reshape(-1)
    equal = int(np.argmin(np.r_[tokens == got, False]))
    best = np.sort(wanted["decode_logits"], axis=-1)[:, -2:]
    if equal < len(tokens) and best[equal, 1] - best[equal, 0] > TIE:
        sys.exit(f"token {equal} is {got[equal]}, wanted {tokens[equal]}")
    scale = SPREAD / wanted["logits"].std()
    pairs = [(wanted["logits"], made["logits"]), (wanted["decode_logits"][: equal + 1], made["decode_logits"][: equal + 1])]
    worst = max(float(np.abs(a - b).max()) * scale for a, b in pairs)
    first, second = (log_softmax(x["logits"]) for x in (wanted, made))
    divergence = float((np.exp(first) * (first - second)).sum(axis=-1).max())
    if not worst <= MAX_ABS:
        sys.exit(f"logits differ by {worst:.1e}, at most {MAX_ABS:.0e} is right")
    print(f"{worst:9.1e} {divergence:9.1e} {f'{equal}/{len(tokens)}':>7}")


if __name__ == "__main__":
    main()
