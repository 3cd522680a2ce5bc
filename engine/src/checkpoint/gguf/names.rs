//! llama.cpp's tensor names as released ones, and the merged experts taken apart.

use std::collections::BTreeMap;

use super::super::ModelConfig;
use super::super::safetensors::Entry;
use crate::error::{Error, Result};

/// Names outside the layers.
const WHOLE: &[(&str, &str)] = &[
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Names inside a layer.
const LAYER: &[(&str, &str)] = &[
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_q_a.weight", "self_attn.q_a_proj.weight"),
    ("attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight"),
    ("attn_q_b.weight", "self_attn.q_b_proj.weight"),
    ("attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight"),
    ("attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight"),
    ("attn_kv_b.weight", "self_attn.kv_b_proj.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("ffn_gate_inp.weight", "mlp.gate.weight"),
    ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
    ("exp_probs_b", "mlp.gate.e_score_correction_bias"),
    ("ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight"),
    ("ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight"),
    ("ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight"),
    ("nextn.eh_proj.weight", "eh_proj.weight"),
    ("nextn.enorm.weight", "enorm.weight"),
    ("nextn.hnorm.weight", "hnorm.weight"),
    ("nextn.embed_tokens.weight", "embed_tokens.weight"),
    ("nextn.shared_head_norm.weight", "shared_head.norm.weight"),
    ("nextn.shared_head_head.weight", "shared_head.head.weight"),
];

/// Three-dimensional tensors that are matrices one below the other: heads' halves of `kv_b_proj`.
const HEADS: &[(&str, &str)] = &[
    ("attn_k_b.weight", "self_attn.k_b_proj.weight"),
    ("attn_v_b.weight", "self_attn.v_b_proj.weight"),
];

/// Three-dimensional tensors that are one matrix an expert: gate and up may be one below the other.
const EXPERTS: &[(&str, &[&str])] = &[
    ("ffn_gate_exps.weight", &["gate_proj"]),
    ("ffn_up_exps.weight", &["up_proj"]),
    ("ffn_down_exps.weight", &["down_proj"]),
    ("ffn_gate_up_exps.weight", &["gate_proj", "up_proj"]),
];

/// All tensors by their released names. Others outside the layers (`rope_freqs`) are left out; inside they keep their
/// own, and are held against the configuration like all.
///
/// # Errors
/// [`Error::TensorRange`] for experts that are no stack of matrices.
pub(super) fn released(
    path: &std::path::Path,
    tensors: BTreeMap<String, Entry>,
    config: &ModelConfig,
) -> Result<BTreeMap<String, Entry>> {
    let n_expert = config.moe.as_ref().map_or(0, |moe| moe.route.n_routed_experts);
    let mut out = BTreeMap::new();
    for (name, entry) in tensors {
        if let Some((_, released)) = WHOLE.iter().find(|(own, _)| *own == name) {
            out.insert((*released).to_owned(), entry);
            continue;
        }
        let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'))
        else {
            continue;
        };
        let at = format!("model.layers.{layer}");
        let wrong = |problem: String| Error::TensorRange {
            path: path.to_owned(),
            name: name.clone(),
            problem,
        };
        if let Some((_, released)) = LAYER.iter().find(|(own, _)| *own == part) {
            out.insert(format!("{at}.{released}"), entry);
        } else if let Some((_, released)) = HEADS.iter().find(|(own, _)| *own == part) {
            out.insert(format!("{at}.{released}"), stacked(entry).map_err(wrong)?);
        } else if let Some((_, matrices)) = EXPERTS.iter().find(|(own, _)| *own == part) {
            for (expert, kind, entry) in experts(&entry, n_expert, matrices).map_err(wrong)? {
                out.insert(format!("{at}.mlp.experts.{expert}.{kind}.weight"), entry);
            }
        } else {
            out.insert(name, entry);
        }
    }
    Ok(out)
}

/// `[a, b, c]` as `[a * b, c]`: the same bytes.
fn stacked(entry: Entry) -> std::result::Result<Entry, String> {
    let shape = match *entry.shape.as_slice() {
        [_, _] => entry.shape.clone(),
        [stack, rows, columns] => {
            let all = stack.checked_mul(rows).ok_or_else(|| "has too many rows".to_owned())?;
            vec![all, columns]
        }
        _ => return Err(format!("has shape {:?}, wanted a matrix for each head", entry.shape)),
    };
    Ok(Entry { shape, ..entry })
}

/// The matrices of each expert, cut out of their stack.
fn experts(
    entry: &Entry,
    wanted: usize,
    kinds: &[&'static str],
) -> std::result::Result<Vec<(usize, &'static str, Entry)>, String> {
    let [experts, rows, columns] = *entry.shape.as_slice() else {
        return Err(format!("has shape {:?}, wanted a matrix for each expert", entry.shape));
    };
    if experts != wanted || rows % kinds.len() != 0 {
        let (shape, each) = (&entry.shape, kinds.len());
        return Err(format!("has shape {shape:?}, wanted {wanted} experts, {each} matrices each"));
    }
    let parts = experts * kinds.len();
    if entry.dtype.is_none() {
        // Its size is not known. One is enough for the refusal that names its type.
        let kind = kinds.first().copied().unwrap_or_default();
        return Ok(vec![(0, kind, Entry { shape: vec![rows, columns], ..entry.clone() })]);
    }
    // The container's size is that of its rows: all parts are equal.
    let size = entry.bytes.len() / parts.max(1);
    let mut out = Vec::new();
    for part in 0..parts {
        let bytes = entry.bytes.slice(part * size..(part + 1) * size);
        let Some(bytes) = bytes else { return Err("ends before its last matrix".into()) };
        let shape = vec![rows / kinds.len(), columns];
        let kind = kinds.get(part % kinds.len()).copied().unwrap_or_default();
        out.push((part / kinds.len(), kind, Entry { shape, bytes, ..entry.clone() }));
    }
    Ok(out)
}
