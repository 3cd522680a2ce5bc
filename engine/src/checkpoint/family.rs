//! Which line of models a configuration belongs to, and every other one's refusal with what hadal lacks for it.

use super::json::Fields;
use crate::error::{Error, Result};

/// The lines of models that are one network: DeepSeek-V3's, or V2's with its other routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// DeepSeek-V2, V2-Lite.
    V2,
    /// DeepSeek-V3, V3.1, R1, Moonlight.
    V3,
    /// Kimi-K2: V3 in other sizes.
    Kimi,
    /// GLM-4.7-Flash: V3 in other sizes, the kinds of its layers in a list.
    GlmLite,
}

impl Family {
    /// Its `model_type`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V2 => "deepseek_v2",
            Self::V3 => "deepseek_v3",
            Self::Kimi => "kimi_k2",
            Self::GlmLite => "glm4_moe_lite",
        }
    }

    /// Sigmoid routing with a bias for choosing, as in V3.
    pub(super) fn routes_as_v3(self) -> bool {
        self != Self::V2
    }

    /// Dense layers at the beginning when the configuration does not say.
    pub(super) fn first_k_dense_replace(self) -> usize {
        match self {
            Self::V2 => 0,
            Self::V3 | Self::Kimi => 3,
            Self::GlmLite => 1,
        }
    }

    /// Factor on the chosen experts' weights when the configuration does not say.
    pub(super) fn routed_scaling_factor(self) -> f64 {
        match self {
            Self::V2 => 1.0,
            Self::V3 | Self::Kimi => 2.5,
            Self::GlmLite => 1.8,
        }
    }

    /// Of the layer norms when the configuration does not say.
    pub(super) fn rms_norm_eps(self) -> f64 {
        if self == Self::GlmLite { 1e-5 } else { 1e-6 }
    }

    /// By `model_type`, else by `architectures`; anything else is refused by name, with what it would need.
    pub(super) fn of(fields: &Fields<'_>) -> Result<Self> {
        let architecture = || fields.get("architectures")?.as_array()?.first()?.as_str();
        let name = match fields.text("model_type")? {
            Some(name) => name,
            None => architecture()
                .ok_or_else(|| fields.error("model_type", "`deepseek_v3` or `deepseek_v2`"))?,
        };
        let family = match name {
            "deepseek_v3" | "DeepseekV3ForCausalLM" => Self::V3,
            "deepseek_v2" | "DeepseekV2ForCausalLM" => Self::V2,
            "kimi_k2" => Self::Kimi,
            "glm4_moe_lite" | "Glm4MoeLiteForCausalLM" => Self::GlmLite,
            _ => {
                let shown = name.chars().take(60).collect::<String>();
                let what = format!("model type `{shown}` is not supported: {}", lacks(name));
                return Err(refuse(fields, what));
            }
        };
        // V3.2 has been shipped under V3's name: without its selector it is V3 only as long as the context is short.
        if fields.get("index_topk").is_some() {
            let what =
                "`index_topk` is set: sparse attention needs the lightning indexer".to_owned();
            return Err(refuse(fields, what));
        }
        Ok(family)
    }
}

/// What hadal lacks for a model type, known or not.
fn lacks(name: &str) -> &'static str {
    const GROUPED: &str = "it caches keys and values per head (grouped-query attention); hadal has multi-head latent \
                           attention only";
    match name {
        "deepseek_v32" | "DeepseekV32ForCausalLM" => {
            "its sparse attention needs the lightning indexer, and a second cache for the indexer's keys"
        }
        "deepseek_v4" | "DeepseekV4ForCausalLM" => {
            "its windowed and compressed attention, its four residual streams and its table routing are another \
             architecture"
        }
        "glm_moe_dsa" | "GlmMoeDsaForCausalLM" => {
            "its sparse attention needs an indexer whose choice some layers share"
        }
        "kimi_k25" | "kimi_vl" | "KimiK25ForConditionalGeneration" => {
            "its text model stands under `text_config` beside a vision tower, which is not read"
        }
        "longcat_flash" | "LongcatFlashForCausalLM" => {
            "its layers have two attentions, a shortcut around the experts and experts that return their input"
        }
        "kimi_linear" | "bailing_hybrid" | "glm5_next" => {
            "some of its layers are linear attention with a recurrent state"
        }
        "axk1" => "its mixture layers have a norm behind the experts",
        "youtu" => "its configuration is not read",
        "mistral4" => {
            "its queries are scaled with their position and its router adds softmax scores by groups"
        }
        "deepseek" | "DeepseekForCausalLM" => GROUPED,
        _ if [
            "llama", "qwen", "mistral", "mixtral", "gemma", "phi", "gpt", "glm", "chatglm",
            "granite", "olmo", "falcon", "internlm", "minimax", "ernie", "hunyuan", "cohere",
            "exaone", "smollm", "baichuan", "yi",
        ]
        .iter()
        .any(|family| name.to_ascii_lowercase().starts_with(family)) =>
        {
            GROUPED
        }
        _ => {
            "hadal runs DeepSeek-V2, DeepSeek-V3 and the models built like them (Moonlight, Kimi-K2, GLM-4.7-Flash)"
        }
    }
}

fn refuse(fields: &Fields<'_>, what: String) -> Error {
    Error::Unsupported { path: fields.path.to_owned(), what }
}

/// Settings that change the result and that nothing here computes.
pub(super) fn refuse_unsupported(fields: &Fields<'_>) -> Result<()> {
    if fields.flag_or("attention_bias", false)? {
        let what = "`attention_bias` is true: biased projections are not supported";
        return Err(refuse(fields, what.into()));
    }
    // GLM's older files say it beside the sizes, newer ones inside the rotary settings.
    for place in [Some(*fields), fields.object("rope_parameters")?].into_iter().flatten() {
        let part = place.positive_or("partial_rotary_factor", Some(1.0))?;
        if part != 1.0 {
            let what = format!(
                "`partial_rotary_factor` is {part}; 1 is supported: the rotary part of a head turns whole"
            );
            return Err(refuse(fields, what));
        }
    }
    match fields.text("hidden_act")? {
        None | Some("silu") => Ok(()),
        Some(other) => {
            Err(refuse(fields, format!("`hidden_act` is `{other}`; `silu` is supported")))
        }
    }
}
