"""Writes a checkpoint in Hugging Face layout as GGUF, with llama.cpp's `deepseek2` names and keys.

    write.py FOLDER OUT.gguf [--kind Q4_K] [--kv-b halves|whole|both] [--parts N] [--pre NAME] [--older] [--values FOLDER]
             [--whole-vocabulary]

Matrices get the type KIND, or one of llama.cpp's substitutes where their rows are no whole blocks; norms, routers and
biases are F32. `--kv-b halves` splits `kv_b_proj` as newer files do, `--older` writes the keys of files before that.
`--values` also writes a checkpoint in Hugging Face layout with the numbers that the GGUF file holds, in F32: what
`gguf` decodes. `--whole-vocabulary` makes ids that the tokenizer has no text for ordinary tokens, `[PAD7]` and the like:
random weights answer with any of them. The container, names of keys, and all encoders but those of Q4_K, Q5_K and Q6_K
are the public `gguf` package's; those three are plain roundings of ours.
"""

import argparse
import collections.abc
import json
import pathlib
import re
import shutil

import numpy as np
from gguf import GGML_QUANT_SIZES, ExpertGatingFuncType, GGUFWriter, RopeScalingType
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

# What llama.cpp takes where a row is no multiple of 256, and of 32.
SUBSTITUTES = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}

# A mixture as quantisers make them: a better type where it matters most.
MIXTURES = {"Q4_K_M": (Type.Q4_K, {"output.weight": Type.Q6_K, "ffn_down": Type.Q6_K, "attn_kv_a_mqa": Type.Q5_K})}

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}


class Tensors(collections.abc.MutableMapping):
    """Names to float32 arrays, which are made when they are asked for: all of them take twice the memory of the file."""

    def __init__(self):
        self.stored = {}

    def __getitem__(self, name):
        raw, shape = self.stored[name]
        if raw.dtype == np.uint16:
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.reshape(shape)

    def __setitem__(self, name, stored):
        self.stored[name] = stored

    def __delitem__(self, name):
        del self.stored[name]

    def __contains__(self, name):
        return name in self.stored

    def __iter__(self):
        return iter(self.stored)

    def __len__(self):
        return len(self.stored)


def read_safetensors(path):
    """Name to mapped numbers, BF16 as its bits, and their shape."""
    data = np.memmap(path, np.uint8, "r")
    size = int(data[:8].view("<u8")[0])
    header = json.loads(data[8 : 8 + size].tobytes())
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + size + begin : 8 + size + end]
        if entry["dtype"] == "F32":
            values = raw.view("<f4")
        elif entry["dtype"] == "BF16":
            values = raw.view("<u2")
        else:
            raise SystemExit(f"{path}: `{name}` is {entry['dtype']}; F32 and BF16 are read")
        yield name, (values, entry["shape"])


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, "<f4").tobytes())


def pack_scales(scales, mins):
    """Eight six-bit scales and minima a block in twelve bytes."""
    low = np.concatenate([scales[:, :4] | (scales[:, 4:] >> 4) << 6, mins[:, :4] | (mins[:, 4:] >> 4) << 6], axis=1)
    return np.concatenate([low, (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4], axis=1)


def halves(q):
    """Sub-blocks of 32, two a byte each."""
    pairs = q.reshape(len(q), 4, 2, 32)
    return (pairs[:, :, 0] & 15 | (pairs[:, :, 1] & 15) << 4).reshape(len(q), 128)


def fp16(values):
    return values.astype(np.float16).reshape(-1, 1).view(np.uint8)


def encode_k(values, kind):
    """Q4_K and Q5_K: each sub-block from its smallest (at most 0) to its largest number."""
    top = 15 if kind == Type.Q4_K else 31
    blocks = values.reshape(-1, 8, 32).astype(np.float32)
    least = np.minimum(blocks.min(axis=2), 0)
    step = (blocks.max(axis=2) - least) / top
    d = np.float32(np.float16(step.max(axis=1) / 63))[:, None]
    dmin = np.float32(np.float16(-least.min(axis=1) / 63))[:, None]
    whole = lambda a, b, n: np.clip(np.round(np.divide(a, b, out=np.zeros_like(a), where=b > 0)), 0, n)
    scales, mins = whole(step, d, 63), whole(-least, dmin, 63)
    factor, offset = (d * scales)[:, :, None], (dmin * mins)[:, :, None]
    q = whole(blocks + offset, np.broadcast_to(factor, blocks.shape), top).astype(np.uint8)
    parts = [fp16(d), fp16(dmin), pack_scales(scales.astype(np.uint8), mins.astype(np.uint8))]
    if kind == Type.Q5_K:
        bits = (q >> 4) << np.arange(8, dtype=np.uint8)[None, :, None]
        parts.append(np.bitwise_or.reduce(bits, axis=1))
    return np.concatenate([*parts, halves(q)], axis=1)


def encode_q6_k(values):
    """Each sub-block by its number of the largest size, which becomes -32 or 31."""
    blocks = values.reshape(-1, 16, 16).astype(np.float32)
    step = np.abs(blocks).max(axis=2) / 31
    d = np.float32(np.float16(step.max(axis=1) / 127))[:, None]
    scales = np.clip(np.round(np.divide(step, d, out=np.zeros_like(step), where=d > 0)), 0, 127)
    factor = np.broadcast_to((d * scales)[:, :, None], blocks.shape)
    q = np.divide(blocks, factor, out=np.zeros_like(blocks), where=factor > 0)
    q = (np.clip(np.round(q), -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.concatenate([q[:, :, :2] & 15 | (q[:, :, 2:] & 15) << 4], axis=2).reshape(len(blocks), 128)
    high = np.bitwise_or.reduce((q >> 4) << (2 * np.arange(4, dtype=np.uint8))[None, None, :, None], axis=2)
    return np.concatenate([low, high.reshape(len(blocks), 64), scales.astype(np.int8).view(np.uint8), fp16(d)], axis=1)


def encode(values, kind):
    """Type, what the file holds, and the numbers that is."""
    while values.shape[-1] % GGML_QUANT_SIZES[kind][0]:
        kind = SUBSTITUTES.get(kind, Type.F16)
    if kind == Type.F32:
        return kind, values, values
    if kind == Type.F16:
        return kind, values.astype(np.float16), values.astype(np.float16).astype(np.float32)
    if kind in (Type.Q4_K, Type.Q5_K, Type.Q6_K):
        blocks = encode_q6_k(values) if kind == Type.Q6_K else encode_k(values, kind)
        rows = values.shape[-1] // 256 * GGML_QUANT_SIZES[kind][1]
        raw = np.ascontiguousarray(blocks).reshape(*values.shape[:-1], rows)
    else:
        raw = quantize(values, kind)
    return kind, raw, dequantize(raw, kind).reshape(values.shape)


def kind_of(own, values, wanted):
    """The type for a tensor of that name."""
    if values.ndim == 1 or own.endswith("ffn_gate_inp.weight"):
        return Type.F32
    plain, better = MIXTURES.get(wanted) or (Type[wanted], {})
    return next((kind for part, kind in better.items() if part in own), plain)


def metadata(writer, config, older):
    """`config.json` as keys."""
    c = config
    rope = c.get("rope_scaling") or c.get("rope_parameters") or {}
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_attention_heads"] if older else 1)
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c.get("rope_theta") or rope["rope_theta"])
    writer.add_rope_dimension_count(c["qk_rope_head_dim"])
    writer.add_kv_lora_rank(c["kv_lora_rank"])
    if c.get("q_lora_rank"):
        writer.add_q_lora_rank(c["q_lora_rank"])
    key = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
    if older:
        writer.add_key_length(key)
        writer.add_value_length(c["v_head_dim"])
    else:
        writer.add_vocab_size(c["vocab_size"])
        writer.add_key_length(c["kv_lora_rank"] + c["qk_rope_head_dim"])
        writer.add_value_length(c["kv_lora_rank"])
        writer.add_key_length_mla(key)
        writer.add_value_length_mla(c["v_head_dim"])
    is_v3 = c["model_type"] == "deepseek_v3"
    writer.add_leading_dense_block_count(c["first_k_dense_replace"])
    writer.add_expert_count(c["n_routed_experts"])
    writer.add_expert_used_count(c["num_experts_per_tok"])
    writer.add_expert_shared_count(c["n_shared_experts"])
    writer.add_expert_feed_forward_length(c["moe_intermediate_size"])
    writer.add_expert_weights_scale(c["routed_scaling_factor"])
    if c.get("norm_topk_prob"):
        writer.add_expert_weights_norm(True)
    if not older or c.get("n_group", 1) > 1:
        writer.add_expert_group_count(c.get("n_group") or 1)
        writer.add_expert_group_used_count(c.get("topk_group") or 1)
    if is_v3 or not older:
        writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID if is_v3 else ExpertGatingFuncType.SOFTMAX)
    if (rope.get("type") or rope.get("rope_type")) == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
        writer.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])


def tokenizer(writer, folder, vocab_size, pre, whole):
    """`tokenizer.json` as keys: token types, merges, template, ids."""
    content = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tokens = {id: text for text, id in content["model"]["vocab"].items()}
    added = {token["id"]: token for token in content["added_tokens"]}
    texts, types = [], []
    for id in range(vocab_size):
        text = added[id]["content"] if id in added else tokens.get(id)
        texts.append(f"[PAD{id}]" if text is None else text)
        types.append((1 if whole else 5) if text is None else (3 if added[id]["special"] else 4) if id in added else 1)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    ids = {text: id for id, text in enumerate(texts)}
    for field, add in (("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id)):
        token = settings.get(field)
        add(ids[token["content"] if isinstance(token, dict) else token])
    writer.add_add_bos_token(bool(settings.get("add_bos_token")))
    template = folder / "chat_template.jinja"
    template = template.read_text() if template.exists() else settings.get("chat_template")
    if template:
        writer.add_chat_template(template)


def layers(config, tensors, kv_b):
    """GGUF's tensors as (name, array, released names of its parts)."""
    for name, values in tensors.items():
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name)
        if not layer:
            yield NAMES[name], values, name
            continue
        number, part = int(layer[1]), layer[2]
        at = f"blk.{number}."
        if number >= config["num_hidden_layers"] or ".experts." in part:
            continue
        if part == "mlp.gate.e_score_correction_bias":
            yield at + "exp_probs_b.bias", values, name
            continue
        own = LAYER_NAMES[part.removesuffix(".weight")]
        if own != "attn_kv_b" or kv_b != "halves":
            yield at + own + ".weight", values, name
        if own == "attn_kv_b" and kv_b != "whole":
            nope = config["qk_nope_head_dim"]
            heads = values.reshape(config["num_attention_heads"], -1, values.shape[1])
            yield at + "attn_k_b.weight", np.ascontiguousarray(heads[:, :nope].transpose(0, 2, 1)), name
            yield at + "attn_v_b.weight", np.ascontiguousarray(heads[:, nope:]), name
    for number in range(config["num_hidden_layers"]):
        for kind in ("gate", "up", "down"):
            one = f"model.layers.{number}.mlp.experts.{{}}.{kind}_proj.weight"
            if one.format(0) in tensors:
                stack = [tensors[one.format(e)] for e in range(config["n_routed_experts"])]
                yield f"blk.{number}.ffn_{kind}_exps.weight", np.stack(stack), one


def released(values, own, name, all, config):
    """Puts the numbers of a GGUF tensor where the released layout has them."""
    if own.endswith("_exps.weight"):
        all.update({name.format(e): matrix for e, matrix in enumerate(values)})
    elif own.endswith(("attn_k_b.weight", "attn_v_b.weight")):
        if own.endswith("attn_k_b.weight"):
            all[name] = values.transpose(0, 2, 1)
        else:
            whole = np.concatenate([all[name], values], axis=1)
            all[name] = np.ascontiguousarray(whole.reshape(-1, config["kv_lora_rank"]))
    else:
        all[name] = values


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--kind", default="F32", choices=[kind.name for kind in Type] + list(MIXTURES))
    parser.add_argument("--kv-b", default="halves", choices=["halves", "whole", "both"])
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--pre", default="deepseek-v3")
    parser.add_argument("--older", action="store_true")
    parser.add_argument("--values", type=pathlib.Path)
    parser.add_argument("--whole-vocabulary", action="store_true")
    args = parser.parse_args()
    config = json.loads((args.folder / "config.json").read_text())
    tensors = Tensors()
    for path in sorted(args.folder.glob("*.safetensors")):
        if path.name.startswith("model"):
            tensors.update(read_safetensors(path))
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    per_part = 0 if args.parts == 1 else -(-sum(1 for _ in layers(config, tensors, args.kv_b)) // args.parts)
    writer = GGUFWriter(args.out, "deepseek2", split_max_tensors=per_part)
    metadata(writer, config, args.older)
    tokenizer(writer, args.folder, config["vocab_size"], args.pre, args.whole_vocabulary)
    held = {}
    for own, values, name in layers(config, tensors, args.kv_b):
        values = np.ascontiguousarray(values, np.float32)
        kind, raw, numbers = encode(values, kind_of(own, values, args.kind))
        writer.add_tensor(own, raw, raw_dtype=kind)
        # Where both forms are there, the whole one is what counts.
        if args.values and (args.kv_b != "both" or not own.endswith(("attn_k_b.weight", "attn_v_b.weight"))):
            released(numbers, own, name, held, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if args.values:
        args.values.mkdir(parents=True, exist_ok=True)
        write_safetensors(args.values / "model.safetensors", held)
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            shutil.copy(args.folder / file, args.values / file)


if __name__ == "__main__":
    main()
