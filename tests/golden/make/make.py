# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.15.0", "transformers==5.23.0", "safetensors==0.8.0", "tokenizers==0.23.3", "numpy==2.4.6",
#                 "jinja2==3.1.6"]
# ///
"""Builds the golden cases of `cases.py`: tiny seeded checkpoints and what `transformers` computes from them.

    python make.py --out ..                  # every case
    python make.py --out .. --only glm-lite  # one

Seeded per tensor name: the same checkpoints again; goldens may differ in their last digits on another processor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from cases import CASES
from reference import (
    DECODE_STEPS, Recorder, choose_prompt, difference, greedy, interleave_rope, load_reference, run_mtp,
    sequence_margins, sort_routing, top2_margin,
)  # fmt: skip
from safetensors.torch import save_file
from text import build_tokenizer, tokenizer_goldens, write_tokenizer
from weights import build_checkpoint, dump_json, stored_tensors, write_weights

torch.set_num_threads(1)
torch.set_grad_enabled(False)


def versions() -> dict[str, str]:
    import safetensors
    import tokenizers
    import transformers

    return {m.__name__: m.__version__.split("+")[0] for m in (torch, transformers, safetensors, tokenizers)}


def released_config(case: dict, dtype: str, ids: dict) -> dict:
    """config.json in the style of the released model."""
    base = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "norm_topk_prob": True,
        "num_key_value_heads": case["config"]["num_attention_heads"],
        "num_nextn_predict_layers": 1 if case.get("mtp") else 0,
        "tie_word_embeddings": False,
        "torch_dtype": {"f32": "float32", "bf16": "bfloat16"}[dtype],
        "use_cache": True,
    }
    return dict(sorted((base | case["config"]).items()))


@contextlib.contextmanager
def reference_directory(directory: Path, case: dict):
    """A copy with the model type under which the reference knows the architecture, where it has no class of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "case"
        shutil.copytree(directory, copy)
        config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
        config["model_type"] = case.get("reference_type", config["model_type"])
        if "mlp_layer_types" not in config and config["model_type"] == "glm4_moe_lite":
            assert config["first_k_dense_replace"] == 1, "what the reference takes when no list is given"
        if case.get("mtp"):
            # What its own configuration class does not know by the released names.
            config |= {"num_mtp_layers": 1, "mtp_mlp_layer_types": ["sparse"]}
        dump_json(copy / "config.json", config)
        yield copy


def short_prompts(model, prompt: list[int], tensors: dict) -> list[dict]:
    """Short prompts of several lengths, for batching and the one-token prompt."""
    notes = []
    for i, length in enumerate((1, 2, 7, 19)):
        ids = prompt[:length]
        tokens, rows, _ = greedy(model, ids, 8)
        tensors[f"extra.{i}.first_logits"] = rows[0]
        notes.append({"input_ids": ids, "decode_tokens": tokens, "min_margin": float(top2_margin(rows).min())})
    return notes


def intermediate(model, case: dict, recorded: dict, past, details: bool) -> dict[str, torch.Tensor]:
    tensors = {}
    for key, value in recorded.items():
        if key.startswith("router."):
            logits, weights, indices = value
            weights, indices = sort_routing(weights, indices)
            tensors |= {f"{key}.logits": logits, f"{key}.weights": weights, f"{key}.indices": indices}
        elif key.startswith("hidden.") or (details and key.startswith(("attn.", "mlp.", "mla."))):
            tensors[key] = value[0]
    for i, layer in enumerate(past.layers if details else []):
        k_rope = layer.values[0, 0]
        # The reference keeps rotated neighbours as two halves; half-rotated heads stay as they are.
        interleaved = case["config"].get("rope_interleave", True)
        tensors[f"mla.{i}.k_rope"] = interleave_rope(k_rope) if interleaved else k_rope
        assert torch.equal(layer.keys[0, 0], tensors[f"mla.{i}.c_kv"])
    return tensors


def write_goldens(directory: Path, case: dict, dtype: str, tok) -> dict:
    cfg, specials = case["config"], {i for i, t in tok.get_added_tokens_decoder().items() if t.special}
    with reference_directory(directory, case) as source:
        model = load_reference(source, torch.float32)
        low = load_reference(source, torch.bfloat16) if dtype == "bf16" else None
        prompt, text, chosen = choose_prompt(case, tok, model, low, specials)
        tokens, rows, _ = greedy(model, prompt, DECODE_STEPS)
        with Recorder(model) as rec:
            result = model(input_ids=torch.tensor([prompt]), use_cache=True)
        margins, _ = sequence_margins(model, cfg, prompt + tokens)
        tensors = {
            "input_ids": torch.tensor(prompt),
            "logits": result.logits[0],
            "decode_tokens": torch.tensor(tokens),
            "decode_logits": rows,
            "decode_margin": top2_margin(rows),
            "routing_margin": margins,
        }
        # Cached decoding and recomputing the whole sequence must agree.
        whole = model(input_ids=torch.tensor([prompt + tokens])).logits[0]
        cache_error = float((whole[len(prompt) - 1 : -1] - rows).abs().max())
        assert cache_error < 2e-4, (case["name"], cache_error)
        tensors |= intermediate(model, case, rec.data, result.past_key_values, dtype == "f32")
        info = {
            "case": directory.name,
            "description": case["description"],
            "seed": case["seed"],
            "reference": "transformers, eager attention, eager experts, CPU",
            "versions": versions(),
            "weights_dtype": dtype,
            "prompt_text": text,
            "input_ids": prompt,
            "decode_tokens": tokens,
            "min_decode_margin": float(top2_margin(rows).min()),
            "logits_std": float(result.logits.std()),
            "min_selection_margin": float(margins.min()),
            "cached_vs_full_max_abs": cache_error,
            "prompt_search": chosen,
            "extra_prompts": short_prompts(model, prompt, tensors),
        }
        if low is not None:
            low_tokens, _, low_prefill = greedy(low, prompt, DECODE_STEPS)
            tensors["logits_bf16"] = low_prefill.to(torch.bfloat16)
            info["bf16_compute"] = difference(tensors["logits"], low_prefill) | {"decode_tokens": low_tokens}
        if case.get("mtp"):
            found = run_mtp(model, source, cfg, prompt + tokens)
            info["mtp"] = {"prenorm_vs_postnorm": found.pop("_prenorm_difference")}
            tensors |= found
    info["tokenizer"] = tokenizer_goldens(directory)
    tensors = {k: v.detach().contiguous().clone() for k, v in sorted(tensors.items())}
    save_file(tensors, directory / "golden.safetensors", metadata={"format": "pt"})
    dump_json(directory / "golden.json", info)
    return info


def write_case(case: dict, dtype: str, out: Path) -> None:
    directory = out / f"{case['name']}-{dtype}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    tok = build_tokenizer(case["config"]["vocab_size"])
    ids = write_tokenizer(directory, tok, case)
    dump_json(directory / "config.json", released_config(case, dtype, ids))
    specials = {i for i, t in tok.get_added_tokens_decoder().items() if t.special}
    write_weights(directory, stored_tensors(build_checkpoint(case, specials), case, dtype))
    info = write_goldens(directory, case, dtype, tok)
    size = sum(path.stat().st_size for path in directory.iterdir())
    std, margin = info["logits_std"], info["min_decode_margin"]
    print(f"{directory.name:20s} {size / 1e6:5.2f} MB  logits std {std:.2f}  min margin {margin:.4f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", help="a case's name; may be given more than once")
    args = parser.parse_args()
    for case in CASES:
        if not args.only or case["name"] in args.only:
            for dtype in ("f32", "bf16"):
                write_case(case, dtype, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
