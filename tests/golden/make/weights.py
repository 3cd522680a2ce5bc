"""Seeded random weights under their released names, and how they are written."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

TORCH_DTYPE = {"f32": torch.float32, "bf16": torch.bfloat16}


def rng_for(seed: int, name: str) -> np.random.Generator:
    """One independent stream per (case, tensor), so order never matters."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


class Weights:
    """Collects tensors under their checkpoint names."""

    def __init__(self, seed: int):
        self.seed = seed
        self.tensors: dict[str, torch.Tensor] = {}

    def normal(self, name: str, *shape: int, std: float) -> torch.Tensor:
        values = rng_for(self.seed, name).standard_normal(shape) * std
        self.tensors[name] = torch.from_numpy(values.astype(np.float32))
        return self.tensors[name]

    def linear(self, name: str, out_features: int, in_features: int, gain: float = 1.0) -> None:
        """`name.weight`, scaled so unit-RMS inputs give outputs of std `gain`."""
        self.normal(f"{name}.weight", out_features, in_features, std=gain / math.sqrt(in_features))

    def norm(self, name: str, size: int) -> None:
        """A norm weight that is visibly not all ones."""
        values = 1.0 + 0.25 * rng_for(self.seed, name).standard_normal(size)
        self.tensors[f"{name}.weight"] = torch.from_numpy(np.clip(values, 0.2, None).astype(np.float32))


DEFAULT_GAINS = {
    "embed": 1.0,
    "head": 2.0,
    "q": 1.6,
    "kv": 1.0,
    "o": 1.0,
    "mlp_in": 1.0,
    "mlp_out": 1.2,
    "expert_out": 1.2,
    "router": 1.3,
    "router_bias": 0.15,
}


def attention_tensors(w: Weights, prefix: str, cfg: dict, g: dict) -> None:
    hidden, heads = cfg["hidden_size"], cfg["num_attention_heads"]
    nope, rope, v = cfg["qk_nope_head_dim"], cfg["qk_rope_head_dim"], cfg["v_head_dim"]
    q_rank, kv_rank = cfg.get("q_lora_rank"), cfg["kv_lora_rank"]
    if q_rank:
        w.linear(f"{prefix}.q_a_proj", q_rank, hidden)
        w.norm(f"{prefix}.q_a_layernorm", q_rank)
        w.linear(f"{prefix}.q_b_proj", heads * (nope + rope), q_rank, g["q"])
    else:
        w.linear(f"{prefix}.q_proj", heads * (nope + rope), hidden, g["q"])
    w.linear(f"{prefix}.kv_a_proj_with_mqa", kv_rank + rope, hidden)
    w.norm(f"{prefix}.kv_a_layernorm", kv_rank)
    w.linear(f"{prefix}.kv_b_proj", heads * (nope + v), kv_rank, g["kv"])
    w.linear(f"{prefix}.o_proj", hidden, heads * v, g["o"])


def mlp_tensors(w: Weights, prefix: str, hidden: int, inter: int, g_in: float, g_out: float) -> None:
    w.linear(f"{prefix}.gate_proj", inter, hidden, g_in)
    w.linear(f"{prefix}.up_proj", inter, hidden, g_in)
    w.linear(f"{prefix}.down_proj", hidden, inter, g_out)


def moe_tensors(w: Weights, prefix: str, cfg: dict, g: dict) -> None:
    hidden, inter = cfg["hidden_size"], cfg["moe_intermediate_size"]
    w.linear(f"{prefix}.gate", cfg["n_routed_experts"], hidden, g["router"])
    w.normal(f"{prefix}.gate.e_score_correction_bias", cfg["n_routed_experts"], std=g["router_bias"])
    for e in range(cfg["n_routed_experts"]):
        mlp_tensors(w, f"{prefix}.experts.{e}", hidden, inter, g["mlp_in"], g["expert_out"])
    if cfg.get("n_shared_experts"):
        mlp_tensors(w, f"{prefix}.shared_experts", hidden, inter * cfg["n_shared_experts"], g["mlp_in"], g["mlp_out"])


def layer_tensors(w: Weights, index: int, cfg: dict, g: dict, force_moe: bool = False) -> None:
    p, hidden = f"model.layers.{index}", cfg["hidden_size"]
    w.norm(f"{p}.input_layernorm", hidden)
    attention_tensors(w, f"{p}.self_attn", cfg, g)
    w.norm(f"{p}.post_attention_layernorm", hidden)
    kinds = cfg.get("mlp_layer_types")
    is_moe = kinds[index] == "sparse" if kinds and not force_moe else index >= cfg.get("first_k_dense_replace", 1)
    if force_moe or is_moe:
        moe_tensors(w, f"{p}.mlp", cfg, g)
    else:
        mlp_tensors(w, f"{p}.mlp", hidden, cfg["intermediate_size"], g["mlp_in"], g["mlp_out"])


def bigram_permutation(seed: int, vocab: int, reserved: set[int]) -> np.ndarray:
    """A single cycle over the ordinary token ids; reserved ids map to themselves."""
    ordinary = np.array([t for t in range(vocab) if t not in reserved])
    order = rng_for(seed, "bigram").permutation(ordinary)
    succ = np.arange(vocab)
    succ[order] = np.roll(order, -1)
    return succ


def build_checkpoint(case: dict, reserved_ids: set[int]) -> dict[str, torch.Tensor]:
    """All tensors of a case in float32, in checkpoint order."""
    cfg = case["config"]
    g = DEFAULT_GAINS | case.get("init", {})
    hidden, vocab = cfg["hidden_size"], cfg["vocab_size"]
    w = Weights(case["seed"])
    tied = cfg.get("tie_word_embeddings", False)
    head_std = g["head"] / math.sqrt(hidden)
    w.normal("model.embed_tokens.weight", vocab, hidden, std=head_std if tied else g["embed"])
    for i in range(cfg["num_hidden_layers"]):
        layer_tensors(w, i, cfg, g)
    w.norm("model.norm", hidden)
    if not tied:
        w.normal("lm_head.weight", vocab, hidden, std=head_std)

    bigram = case.get("bigram")
    if bigram:
        # Make the most likely next token depend mostly on the current token, so
        # that draft tokens from the MTP layer are sometimes right.
        succ = bigram_permutation(case["seed"], vocab, reserved_ids)
        embed, head = w.tensors["model.embed_tokens.weight"], w.tensors["lm_head.weight"]
        head[succ] += bigram * embed / math.sqrt(hidden)

    if case.get("mtp"):
        n = cfg["num_hidden_layers"]
        p = f"model.layers.{n}"
        w.tensors[f"{p}.embed_tokens.weight"] = w.tensors["model.embed_tokens.weight"].clone()
        w.norm(f"{p}.enorm", hidden)
        w.norm(f"{p}.hnorm", hidden)
        w.linear(f"{p}.eh_proj", hidden, 2 * hidden, 0.6)
        if bigram:
            w.tensors[f"{p}.eh_proj.weight"][:, :hidden] += torch.eye(hidden)
        layer_tensors(w, n, cfg, g, force_moe=True)
        w.norm(f"{p}.shared_head.norm", hidden)
        w.tensors[f"{p}.shared_head.head.weight"] = w.tensors["lm_head.weight"].clone()
    return w.tensors


def dump_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def stored_tensors(tensors: dict[str, torch.Tensor], case: dict, dtype: str) -> dict[str, torch.Tensor]:
    """Cast to the types on disk; a correction bias is float32 unless the case is about another one."""
    bias = TORCH_DTYPE[case.get("bias_dtype", "f32")]
    cast = lambda name: bias if name.endswith("e_score_correction_bias") else TORCH_DTYPE[dtype]  # noqa: E731
    return {name: value.to(cast(name)).contiguous() for name, value in tensors.items()}


def write_weights(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
