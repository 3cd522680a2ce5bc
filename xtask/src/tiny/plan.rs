//! Every tensor of a checkpoint, by name, shape and what fills it.

use super::preset::Shape;
use super::routing::{Router, Routing};

/// A tensor to be written.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) fill: Fill,
    /// What the first number of each row is instead, row after row and from the front again; empty: nothing.
    pub(super) first: Vec<f32>,
}

/// What a tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fill {
    /// bf16, all ones: norms.
    Ones,
    /// bf16, normal with this deviation.
    Normal(f32),
    /// f32, normal with this deviation: the router's selection bias.
    NormalF32(f32),
}

impl Shape {
    /// Every tensor, in the order of the layers.
    pub(super) fn tensors(&self, routing: Routing) -> Vec<Planned> {
        let router = Router::new(self, routing);
        let mut list = List { tensors: Vec::new(), damping: router.damping };
        list.add(
            "model.embed_tokens.weight",
            &[self.vocab_size, self.hidden_size],
            Fill::Normal(1.0),
        );
        list.first(&router.embedding);
        for layer in 0..self.num_hidden_layers {
            self.layer(&mut list, layer, &router);
        }
        list.ones("model.norm.weight", self.hidden_size);
        list.matrix("lm_head.weight", self.vocab_size, self.hidden_size);
        list.tensors
    }

    fn layer(&self, list: &mut List, layer: usize, router: &Router) {
        let (d, heads) = (self.hidden_size, self.num_attention_heads);
        let at = |name: &str| format!("model.layers.{layer}.{name}.weight");
        let query_rows = heads * (self.qk_nope_head_dim + self.qk_rope_head_dim);
        list.ones(&at("input_layernorm"), d);
        if let Some(rank) = self.q_lora_rank {
            list.matrix(&at("self_attn.q_a_proj"), rank, d);
            list.ones(&at("self_attn.q_a_layernorm"), rank);
            list.matrix(&at("self_attn.q_b_proj"), query_rows, rank);
        } else {
            list.matrix(&at("self_attn.q_proj"), query_rows, d);
        }
        list.matrix(
            &at("self_attn.kv_a_proj_with_mqa"),
            self.kv_lora_rank + self.qk_rope_head_dim,
            d,
        );
        list.ones(&at("self_attn.kv_a_layernorm"), self.kv_lora_rank);
        let latent_rows = heads * (self.qk_nope_head_dim + self.v_head_dim);
        list.matrix(&at("self_attn.kv_b_proj"), latent_rows, self.kv_lora_rank);
        list.output(&at("self_attn.o_proj"), d, heads * self.v_head_dim);
        list.ones(&at("post_attention_layernorm"), d);
        if layer < self.first_k_dense_replace {
            list.mlp(&format!("model.layers.{layer}.mlp"), d, self.intermediate_size);
            return;
        }
        let experts = self.n_routed_experts;
        list.add(&at("mlp.gate"), &[experts, d], Fill::Normal(2.0 / (d as f32).sqrt()));
        list.first(&router.gate);
        if self.is_v3 {
            let name = format!("model.layers.{layer}.mlp.gate.e_score_correction_bias");
            list.add(&name, &[experts], Fill::NormalF32(0.02));
            list.first(&router.bias);
        }
        for expert in 0..experts {
            list.mlp(
                &format!("model.layers.{layer}.mlp.experts.{expert}"),
                d,
                self.moe_intermediate_size,
            );
        }
        let shared = self.n_shared_experts * self.moe_intermediate_size;
        list.mlp(&format!("model.layers.{layer}.mlp.shared_experts"), d, shared);
    }
}

struct List {
    tensors: Vec<Planned>,
    /// Makes what layers add to the stream smaller.
    damping: f32,
}

impl List {
    fn add(&mut self, name: &str, shape: &[usize], fill: Fill) {
        let shape = shape.to_vec();
        self.tensors.push(Planned { name: name.into(), shape, fill, first: Vec::new() });
    }

    /// The last tensor's rows begin with these.
    fn first(&mut self, values: &[f32]) {
        if let Some(last) = self.tensors.last_mut() {
            last.first = values.to_vec();
        }
    }

    fn ones(&mut self, name: &str, n: usize) {
        self.add(name, &[n], Fill::Ones);
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) {
        self.add(name, &[rows, columns], Fill::Normal(1.0 / (columns as f32).sqrt()));
    }

    /// A matrix whose product is added to the stream.
    fn output(&mut self, name: &str, rows: usize, columns: usize) {
        let deviation = self.damping / (columns as f32).sqrt();
        self.add(name, &[rows, columns], Fill::Normal(deviation));
    }

    fn mlp(&mut self, at: &str, width: usize, inner: usize) {
        self.matrix(&format!("{at}.gate_proj.weight"), inner, width);
        self.matrix(&format!("{at}.up_proj.weight"), inner, width);
        self.output(&format!("{at}.down_proj.weight"), width, inner);
    }
}

#[cfg(test)]
mod tests {
    use super::super::preset::find;
    use super::super::routing::Routing;

    #[test]
    fn v2_has_no_selection_bias_and_v3_has_one() {
        let has_bias = |name: &str| {
            find(name)
                .unwrap()
                .tensors(Routing::Uniform)
                .iter()
                .any(|plan| plan.name.ends_with("_bias"))
        };
        assert!(!has_bias("v2-lite"));
        assert!(has_bias("tiny"));
    }
}
