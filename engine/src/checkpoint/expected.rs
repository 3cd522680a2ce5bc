//! Every tensor a configuration asks for, by its released name, with its shape.

use super::config::{Architecture, MoeConfig};
use super::{ModelConfig, mini};

/// A tensor that must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Whether the ordinary pass uses it; the MTP layer's are checked and kept.
    pub(super) is_used: bool,
}

/// Collects names and shapes.
struct List<'a> {
    config: &'a ModelConfig,
    has: &'a dyn Fn(&str) -> bool,
    is_used: bool,
    tensors: Vec<Expected>,
    at_most: usize,
}

/// Everything `config` asks for, with the first MTP layer or without, up to `at_most` tensors: a few bytes of
/// configuration can ask for a hundred thousand. Who holds `n` tensors needs to see `n + 1`: names differ, so one of
/// those is missing. `has` says what is there: some matrices may be stored in two forms.
pub(super) fn expected(
    config: &ModelConfig,
    has_mtp: bool,
    has: &dyn Fn(&str) -> bool,
    at_most: usize,
) -> Vec<Expected> {
    match &config.architecture {
        Architecture::DeepSeek => deepseek(config, has_mtp, has, at_most),
        Architecture::Mini(mini) => mini::expected(config, mini),
    }
}

/// DeepSeek-V2 and V3.
fn deepseek(
    config: &ModelConfig,
    has_mtp: bool,
    has: &dyn Fn(&str) -> bool,
    at_most: usize,
) -> Vec<Expected> {
    let mut list = List { config, has, is_used: true, tensors: Vec::new(), at_most };
    let (vocab, hidden, layers) = (config.vocab_size, config.hidden_size, config.num_hidden_layers);
    list.add("model.embed_tokens.weight", &[vocab, hidden]);
    for layer in 0..layers {
        if list.is_full() {
            break;
        }
        let moe = config.moe.as_ref().filter(|_| config.is_moe_layer.get(layer) == Some(&true));
        list.layer(layer, moe);
    }
    list.add("model.norm.weight", &[hidden]);
    if !config.tie_word_embeddings {
        list.add("lm_head.weight", &[vocab, hidden]);
    }
    if has_mtp {
        list.is_used = false;
        let at = format!("model.layers.{layers}");
        list.add(&format!("{at}.enorm.weight"), &[hidden]);
        list.add(&format!("{at}.hnorm.weight"), &[hidden]);
        list.add(&format!("{at}.eh_proj.weight"), &[hidden, 2 * hidden]);
        list.add(&format!("{at}.shared_head.norm.weight"), &[hidden]);
        // The MTP layer is a mixture whatever `first_k_dense_replace` says. Its copies of embedding and head
        // (`embed_tokens`, `shared_head.head`) may be left out.
        list.layer(layers, config.moe.as_ref());
    }
    list.tensors
}

impl List<'_> {
    fn is_full(&self) -> bool {
        self.tensors.len() >= self.at_most
    }

    fn add(&mut self, name: &str, shape: &[usize]) {
        if self.is_full() {
            return;
        }
        self.tensors.push(Expected {
            name: name.to_owned(),
            shape: shape.to_vec(),
            is_used: self.is_used,
        });
    }

    fn layer(&mut self, layer: usize, moe: Option<&MoeConfig>) {
        let at = format!("model.layers.{layer}");
        let hidden = self.config.hidden_size;
        self.add(&format!("{at}.input_layernorm.weight"), &[hidden]);
        self.attention(&format!("{at}.self_attn"));
        self.add(&format!("{at}.post_attention_layernorm.weight"), &[hidden]);
        match moe {
            Some(moe) => self.moe(&format!("{at}.mlp"), moe),
            None => self.mlp(&format!("{at}.mlp"), self.config.intermediate_size),
        }
    }

    fn attention(&mut self, at: &str) {
        let c = self.config;
        let (heads, hidden) = (c.num_attention_heads, c.hidden_size);
        let query = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
        match c.q_lora_rank {
            None => self.add(&format!("{at}.q_proj.weight"), &[query, hidden]),
            Some(rank) => {
                self.add(&format!("{at}.q_a_proj.weight"), &[rank, hidden]);
                self.add(&format!("{at}.q_a_layernorm.weight"), &[rank]);
                self.add(&format!("{at}.q_b_proj.weight"), &[query, rank]);
            }
        }
        self.add(
            &format!("{at}.kv_a_proj_with_mqa.weight"),
            &[c.kv_lora_rank + c.qk_rope_head_dim, hidden],
        );
        self.add(&format!("{at}.kv_a_layernorm.weight"), &[c.kv_lora_rank]);
        self.kv_b(at);
        self.add(&format!("{at}.o_proj.weight"), &[hidden, heads * c.v_head_dim]);
    }

    /// `kv_b_proj`, or its halves: the key's turned round for each head, as GGUF has it.
    fn kv_b(&mut self, at: &str) {
        let c = self.config;
        let (heads, rank) = (c.num_attention_heads, c.kv_lora_rank);
        let whole = format!("{at}.kv_b_proj.weight");
        let key = format!("{at}.k_b_proj.weight");
        if (self.has)(&whole) || !(self.has)(&key) {
            return self.add(&whole, &[heads * (c.qk_nope_head_dim + c.v_head_dim), rank]);
        }
        self.add(&key, &[heads * rank, c.qk_nope_head_dim]);
        self.add(&format!("{at}.v_b_proj.weight"), &[heads * c.v_head_dim, rank]);
    }

    fn mlp(&mut self, at: &str, width: usize) {
        let hidden = self.config.hidden_size;
        self.add(&format!("{at}.gate_proj.weight"), &[width, hidden]);
        self.add(&format!("{at}.up_proj.weight"), &[width, hidden]);
        self.add(&format!("{at}.down_proj.weight"), &[hidden, width]);
    }

    fn moe(&mut self, at: &str, moe: &MoeConfig) {
        let experts = moe.route.n_routed_experts;
        self.add(&format!("{at}.gate.weight"), &[experts, self.config.hidden_size]);
        if moe.has_correction_bias {
            self.add(&format!("{at}.gate.e_score_correction_bias"), &[experts]);
        }
        if moe.n_shared_experts > 0 {
            self.mlp(
                &format!("{at}.shared_experts"),
                moe.n_shared_experts * moe.moe_intermediate_size,
            );
        }
        for e in 0..experts {
            if self.is_full() {
                break;
            }
            self.mlp(&format!("{at}.experts.{e}"), moe.moe_intermediate_size);
        }
    }
}
