"""The cases that `make.py` builds: shapes, seeds and nothing else.

All sizes are tiny on purpose; which dimension differs from which is what makes a mix-up visible.
"""

KIMI_YARN = {
    "type": "yarn",
    "factor": 32.0,
    "original_max_position_embeddings": 4096,
    "beta_fast": 1.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}

SMALL = {
    "vocab_size": 384,
    "hidden_size": 48,
    "intermediate_size": 96,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "q_lora_rank": 32,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "rms_norm_eps": 1e-05,
    "max_position_embeddings": 256,
}

CASES = [
    {
        "name": "glm-lite",
        "description": "GLM-4.7-Flash: the V3 network, layer kinds by list, list of end tokens, an MTP layer",
        "seed": 3001,
        "prompt_len": 26,
        "mtp": True,
        "bigram": 1.2,
        "eos_list": True,
        "bias_dtype": "bf16",
        "init": {"head": 1.3, "o": 0.85, "mlp_out": 0.85, "expert_out": 0.6},
        "config": SMALL
        | {
            "architectures": ["Glm4MoeLiteForCausalLM"],
            "model_type": "glm4_moe_lite",
            "mlp_layer_types": ["dense", "sparse", "dense"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "partial_rotary_factor": 1.0},
            "partial_rotary_factor": 1.0,
            "routed_scaling_factor": 1.8,
        },
    },
    {
        "name": "kimi-k2",
        "description": "Kimi-K2: the V3 network, one group, one dense layer, YaRN with equal betas",
        "seed": 3102,
        "prompt_len": 30,
        "reference_type": "deepseek_v3",
        "config": SMALL
        | {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "kimi_k2",
            "num_attention_heads": 4,
            "n_routed_experts": 12,
            "num_experts_per_tok": 3,
            "first_k_dense_replace": 1,
            "moe_layer_freq": 1,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "rms_norm_eps": 1e-06,
            "rope_theta": 50000.0,
            "rope_scaling": KIMI_YARN,
            "routed_scaling_factor": 2.827,
            "max_position_embeddings": 131072,
        },
    },
    {
        "name": "v3-halves",
        "description": "V3 with half-rotated heads (rope_interleave: false), two groups",
        "seed": 3203,
        "prompt_len": 28,
        "config": SMALL
        | {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "qk_rope_head_dim": 16,
            "n_group": 2,
            "first_k_dense_replace": 1,
            "moe_layer_freq": 1,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "rope_interleave": False,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "routed_scaling_factor": 2.5,
        },
    },
]
