//! Which part of a model a tensor belongs to, by its released name.

/// A part of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `embed_tokens`.
    Embedding,
    /// The projections of attention.
    Attention,
    /// The MLP of a dense layer.
    DenseMlp,
    /// The experts every token goes through.
    SharedExperts,
    /// The experts a router chooses among.
    RoutedExperts,
    /// A router and its correction bias.
    Router,
    /// All norms.
    Norms,
    /// `lm_head`.
    Head,
    /// The layer after the last one, which predicts a token ahead.
    Mtp,
    /// Not known to this build.
    Other,
}

/// The matrices of layers, by the last word before `.weight`: what DeepSeek's FP8 files quantise.
/// The second line: the two halves of `kv_b_proj` where they are stored apart, and mini-deepseek's names.
const LAYER_MATRICES: [&str; 16] = [
    "q_proj",
    "q_a_proj",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "k_b_proj",
    "v_b_proj",
    "q_down_proj",
    "q_up_proj",
    "kv_down_proj",
    "k_up_proj",
    "v_up_proj",
];

impl Part {
    /// All of them, in the order of a forward pass.
    pub const ALL: [Self; 10] = [
        Self::Embedding,
        Self::Attention,
        Self::DenseMlp,
        Self::SharedExperts,
        Self::RoutedExperts,
        Self::Router,
        Self::Norms,
        Self::Head,
        Self::Mtp,
        Self::Other,
    ];

    /// For a reader.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::DenseMlp => "dense layers",
            Self::SharedExperts => "shared experts",
            Self::RoutedExperts => "routed experts",
            Self::Router => "routers",
            Self::Norms => "norms",
            Self::Head => "head",
            Self::Mtp => "MTP layer",
            Self::Other => "other",
        }
    }

    /// The part of a tensor, or of a matrix's factors, in a model of `n_layer` layers (`None`: not known).
    pub fn of(name: &str, n_layer: Option<usize>) -> Self {
        let name = owner(name);
        let layer = layer_of(name);
        if layer.zip(n_layer).is_some_and(|(layer, n_layer)| layer >= n_layer) {
            return Self::Mtp;
        }
        let within = |part: &str| name.contains(part);
        match name {
            "model.embed_tokens.weight" | "embed_tokens.weight" => Self::Embedding,
            "lm_head.weight" => Self::Head,
            _ if name.starts_with("mtp_head.") => Self::Mtp,
            _ if name.ends_with("norm.weight") => Self::Norms,
            _ if layer.is_none() => Self::Other,
            _ if within(".self_attn.") || within(".attention.") => Self::Attention,
            _ if within(".shared_experts.") => Self::SharedExperts,
            _ if within(".experts.") => Self::RoutedExperts,
            _ if within(".gate.") => Self::Router,
            _ if within(".mlp.") || within(".ffn.") => Self::DenseMlp,
            _ => Self::Other,
        }
    }
}

/// The matrix whose factors a tensor holds; any other tensor's own name.
pub(super) fn owner(name: &str) -> &str {
    name.strip_suffix("_scale_inv").or_else(|| name.strip_suffix("_scale")).unwrap_or(name)
}

/// Whether a tensor is one of the matrices that DeepSeek's FP8 files quantise: attention and MLPs, in every layer. Not
/// embedding, head, norms, routers and `eh_proj`.
pub(super) fn is_layer_matrix(name: &str) -> bool {
    let is_weight = name.ends_with(".weight") && layer_of(name).is_some();
    is_weight && LAYER_MATRICES.contains(&last_word(name))
}

/// The last word before `.weight`.
pub(super) fn last_word(name: &str) -> &str {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    stem.rsplit('.').next().unwrap_or(stem)
}

/// The layer in `model.layers.7.…`, or in GGUF's `blk.7.…`, 7.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    // mini-deepseek leaves the first word out.
    let name = name.strip_prefix("model.").unwrap_or(name);
    let name = name.strip_prefix("layers.").or_else(|| name.strip_prefix("blk."))?;
    name.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_part() {
        let check = |name: &str, part| assert_eq!(Part::of(name, Some(4)), part, "{name}");
        check("model.embed_tokens.weight", Part::Embedding);
        check("lm_head.weight", Part::Head);
        check("model.norm.weight", Part::Norms);
        check("model.layers.3.self_attn.q_a_layernorm.weight", Part::Norms);
        check("model.layers.3.self_attn.o_proj.weight_scale_inv", Part::Attention);
        check("model.layers.0.mlp.up_proj.weight", Part::DenseMlp);
        check("model.layers.1.mlp.shared_experts.up_proj.weight", Part::SharedExperts);
        check("model.layers.1.mlp.experts.12.up_proj.weight", Part::RoutedExperts);
        check("model.layers.1.mlp.gate.e_score_correction_bias", Part::Router);
        check("model.layers.4.mlp.up_proj.weight", Part::Mtp);
        check("model.layers.1.novel.weight", Part::Other);
        check("layers.1.ffn.experts.3.gate_proj.weight", Part::RoutedExperts);
        check("layers.1.ffn.gate.gate.weight", Part::Router);
        check("mtp_head.layer_norms.0.weight", Part::Mtp);
        check("up_proj.weight", Part::Other);
    }

    #[test]
    fn only_the_projections_of_layers_are_layer_matrices() {
        for name in ["self_attn.kv_b_proj", "mlp.experts.3.down_proj", "mlp.gate_proj"] {
            assert!(is_layer_matrix(&format!("model.layers.61.{name}.weight")), "{name}");
        }
        for name in ["mlp.gate", "eh_proj", "input_layernorm", "embed_tokens"] {
            assert!(!is_layer_matrix(&format!("model.layers.61.{name}.weight")), "{name}");
        }
        assert!(!is_layer_matrix("lm_head.weight") && !is_layer_matrix("up_proj.weight"));
        assert!(!is_layer_matrix("model.layers.0.self_attn.o_proj.bias"));
    }
}
