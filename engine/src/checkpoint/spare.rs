//! Weights that nobody asked for: a configuration smaller than its tensors.
//!
//! A layer, an expert or a bias that is stored and left out changes every answer, and says nothing: so it is refused.
//! Tensors of other kinds (rotary frequencies, buffers, what another program keeps beside the weights) are only noted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::ModelConfig;
use super::part::{layer_of, owner};
use super::safetensors::Entry;
use crate::error::Error;

/// The first weight of a layer that `wanted`, all that the configuration asks for, does not have.
pub(super) fn spare(
    path: &Path,
    config: &ModelConfig,
    tensors: &BTreeMap<String, Entry>,
    wanted: &BTreeSet<&str>,
) -> Option<Error> {
    let layers = config.num_hidden_layers;
    let problem = |name: &str| {
        let layer = layer_of(name)?;
        let is_weight = [".weight", ".bias", "_bias"].iter().any(|end| name.ends_with(end));
        if !is_weight || wanted.contains(owner(name)) || is_other_form(name, wanted) {
            return None;
        }
        if layer < layers {
            return Some("the model's configuration has no such weight in this layer".to_owned());
        }
        let is_draft = layer < layers + config.num_nextn_predict_layers
            || tensors.contains_key(&format!("model.layers.{layer}.eh_proj.weight"));
        (!is_draft).then(|| format!("it is of layer {layer}, and the configuration has {layers}"))
    };
    tensors.keys().find_map(|name| {
        let problem = problem(name)?;
        Some(Error::TensorRange { path: path.to_owned(), name: name.clone(), problem })
    })
}

/// Whether it is a half of `kv_b_proj` beside the whole, which some writers keep both.
fn is_other_form(name: &str, wanted: &BTreeSet<&str>) -> bool {
    ["k_b_proj.weight", "v_b_proj.weight"].into_iter().any(|half| {
        let whole = name.strip_suffix(half).map(|at| format!("{at}kv_b_proj.weight"));
        whole.is_some_and(|whole| wanted.contains(whole.as_str()))
    })
}
