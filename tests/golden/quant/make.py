"""Writes blocks.json: GGUF blocks and what the public `gguf` package decodes and encodes them to.

    .tools/python/bin/python tests/golden/quant/make.py

All numbers are hexadecimal bytes, little endian. `blocks` are random but for their factors; `values` is what they
decode to in float32; `plain` are float32 numbers and `encoded` the blocks made of them.
"""

import json
import pathlib

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

OFFSETS = {Type.Q5_1: 2, Type.Q4_K: 2, Type.Q5_K: 2}
FACTORS = {Type.Q6_K: 208}


def half(value):
    return np.frombuffer(np.float16(value).tobytes(), np.uint8)


def blocks(kind, rng):
    """Four blocks: two ordinary, one with a negative factor, one whose factor is a subnormal half."""
    size = GGML_QUANT_SIZES[kind][1]
    out = rng.integers(0, 256, (4, size), dtype=np.uint8)
    at = FACTORS.get(kind, 0)
    for block, factor in zip(out, (0.0123, 0.7, -0.031, 3e-6)):
        block[at : at + 2] = half(factor)
        if kind in OFFSETS:
            block[OFFSETS[kind] : OFFSETS[kind] + 2] = half(abs(factor) * 3 - 0.01)
    return out.reshape(-1)


def plain(rng):
    """Blocks of 32: ordinary, zero, halves between whole numbers, two largest of different sign, tiny, huge."""
    rows = [rng.normal(0, scale, 32) for scale in (1, 0.02, 30, 1e-3)]
    rows.append(np.zeros(32))
    rows.append(np.r_[127, np.arange(-15.5, 15.5, 1)])
    rows.append(np.r_[np.full(16, 2.0), np.full(16, -2.0)])
    rows.append(np.r_[np.full(16, -2.0), np.full(16, 2.0)])
    rows.append(rng.normal(0, 1e-7, 32))
    rows.append(rng.normal(0, 1e4, 32))
    return np.stack(rows).astype(np.float32)


def main():
    rng = np.random.default_rng(20240607)
    cases = {}
    for kind in (Type.Q8_0, Type.Q4_0, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K):
        raw = blocks(kind, rng)
        values = dequantize(raw, kind).astype("<f4")
        cases[kind.name] = {"blocks": raw.tobytes().hex(), "values": values.tobytes().hex()}
    for kind in (Type.Q8_0, Type.Q4_0):
        numbers = plain(rng)
        cases[kind.name]["plain"] = numbers.astype("<f4").tobytes().hex()
        cases[kind.name]["encoded"] = quantize(numbers, kind).tobytes().hex()
    path = pathlib.Path(__file__).with_name("blocks.json")
    path.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
