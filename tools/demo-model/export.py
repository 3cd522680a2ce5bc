"""Write a trained model as a Hugging Face checkpoint: config, bf16 weights, tokenizer, chat template."""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import Config, Experts, Model
from vocabulary import BOS, EOS, PAD, SPECIALS

TEMPLATE = """{%- if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif -%}
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- message['content'] -}}
{%- elif message['role'] == 'user' -%}
{{- '<｜User｜>' + message['content'] -}}
{%- elif message['role'] == 'assistant' -%}
{{- '<｜Assistant｜>' + message['content'] + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<｜Assistant｜>' -}}
{%- endif -%}
"""


def config_json(c: Config) -> dict:
    return {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "torch_dtype": "bfloat16",
        "vocab_size": c.vocab, "hidden_size": c.hidden, "num_hidden_layers": c.layers,
        "num_nextn_predict_layers": 1, "first_k_dense_replace": c.dense_layers, "moe_layer_freq": 1,
        "num_attention_heads": c.heads, "num_key_value_heads": c.heads,
        "q_lora_rank": c.q_rank, "kv_lora_rank": c.kv_rank, "qk_nope_head_dim": c.nope, "qk_rope_head_dim": c.rope,
        "v_head_dim": c.value, "attention_bias": False, "attention_dropout": 0.0,
        "intermediate_size": c.dense_width, "moe_intermediate_size": c.expert_width,
        "n_routed_experts": c.experts, "n_shared_experts": 1, "num_experts_per_tok": c.chosen,
        "n_group": c.groups, "topk_group": c.kept_groups, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
        "norm_topk_prob": True, "routed_scaling_factor": c.scale, "hidden_act": "silu", "rms_norm_eps": c.eps,
        "rope_theta": c.rope_base, "rope_scaling": None, "max_position_embeddings": c.context,
        "initializer_range": 0.02, "tie_word_embeddings": False, "use_cache": True,
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
    }


def attention_tensors(prefix, block):
    names = {"q_a_proj": block.q_a, "q_a_layernorm": block.q_norm.weight, "q_b_proj": block.q_b,
             "kv_a_proj_with_mqa": block.kv_a, "kv_a_layernorm": block.kv_norm.weight, "kv_b_proj": block.kv_b,
             "o_proj": block.o}
    return {f"{prefix}.self_attn.{name}.weight": value for name, value in names.items()}


def mlp_tensors(prefix, gate, up, down):
    return {f"{prefix}.gate_proj.weight": gate, f"{prefix}.up_proj.weight": up, f"{prefix}.down_proj.weight": down}


def layer_tensors(index, layer):
    prefix, block = f"model.layers.{index}", layer.ffn
    out = {f"{prefix}.input_layernorm.weight": layer.norm1.weight,
           f"{prefix}.post_attention_layernorm.weight": layer.norm2.weight}
    out |= attention_tensors(prefix, layer.attention)
    if not isinstance(block, Experts):
        return out | mlp_tensors(f"{prefix}.mlp", block.gate, block.up, block.down)
    out[f"{prefix}.mlp.gate.weight"] = block.router
    out[f"{prefix}.mlp.gate.e_score_correction_bias"] = block.bias
    shared = block.shared
    out |= mlp_tensors(f"{prefix}.mlp.shared_experts", shared.gate, shared.up, shared.down)
    for e in range(block.c.experts):
        out |= mlp_tensors(f"{prefix}.mlp.experts.{e}", block.gate[e], block.up[e], block.down[e])
    return out


def tensors(model: Model) -> dict:
    """Official names; views of the model's own parameters."""
    out = {"model.embed_tokens.weight": model.embed, "model.norm.weight": model.norm.weight,
           "lm_head.weight": model.head}
    for i, layer in enumerate(model.layers):
        out |= layer_tensors(i, layer)
    last, draft = model.c.layers, model.draft
    out |= layer_tensors(last, draft.layer)
    prefix = f"model.layers.{last}"
    out |= {f"{prefix}.enorm.weight": draft.enorm.weight, f"{prefix}.hnorm.weight": draft.hnorm.weight,
            f"{prefix}.eh_proj.weight": draft.join, f"{prefix}.shared_head.norm.weight": draft.out_norm.weight}
    return out


def load(folder) -> Model:
    """Read an exported checkpoint back; the weights are bf16-rounded, the arithmetic is f32."""
    from safetensors.torch import load_file
    model, stored = Model(Config()), load_file(str(Path(folder) / "model.safetensors"))
    with torch.no_grad():
        for name, target in tensors(model).items():
            target.copy_(stored[name].float())
    return model.eval()


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export(model: Model, tokenizer: str, folder) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = {}
    for name, value in tensors(model).items():
        kind = torch.float32 if name.endswith("e_score_correction_bias") else torch.bfloat16
        stored[name] = value.detach().to(kind).contiguous().clone()
    save_file(stored, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    write_json(folder / "config.json", config_json(model.c))
    write_json(folder / "generation_config.json", {
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
        "do_sample": True, "temperature": 0.5, "top_p": 0.9})
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, "add_eos_token": False,
        "bos_token": SPECIALS[BOS], "eos_token": SPECIALS[EOS], "pad_token": SPECIALS[PAD], "unk_token": None,
        "clean_up_tokenization_spaces": False, "model_max_length": model.c.context, "chat_template": TEMPLATE})
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    if Path(tokenizer).resolve() != (folder / "tokenizer.json").resolve():
        shutil.copyfile(tokenizer, folder / "tokenizer.json")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("weights")
    parser.add_argument("tokenizer")
    parser.add_argument("folder")
    args = parser.parse_args()
    model = Model(Config())
    model.load_state_dict(torch.load(args.weights))
    export(model, args.tokenizer, args.folder)


if __name__ == "__main__":
    main()
