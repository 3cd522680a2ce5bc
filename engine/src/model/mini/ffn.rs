//! The second half of a layer: a dense MLP, or a mixture of experts with the average of its shared ones.

use super::weights::{Ffn, Mlp, Moe};
use super::{Mini, Mixture};
use crate::backend::{Backend, RoutingTrace};
use crate::error::Result;
use crate::model::record::Recorder;
use crate::model::scratch::Scratch;

/// From the normed stream `y` to `delta`.
pub(super) fn ffn<B: Backend>(
    net: &mut Mini<B>,
    backend: &mut B,
    layer: usize,
    rows: usize,
    recorder: Option<&mut Recorder>,
) -> Result<()> {
    let s = &mut net.scratch;
    match (&net.weights.layers[layer].ffn, &mut net.mixture) {
        (Ffn::Moe(weights), Some(mixture)) => mix(backend, s, weights, mixture, rows),
        (Ffn::Dense(weights), _) => dense(backend, s, weights, rows),
        // Loading makes room for choices whenever a layer is a mixture.
        (Ffn::Moe(_), None) => unreachable!("a mixture without routing"),
    }
    let Some(recorder) = recorder else { return Ok(()) };
    if let (Ffn::Moe(_), Some(mixture)) = (&net.weights.layers[layer].ffn, &net.mixture) {
        let trace = backend.read_routing(&mixture.routing, rows)?;
        record(recorder, layer, trace, mixture.rule.routed_scaling_factor, rows);
    }
    recorder.take(backend, &format!("mlp.{layer}"), &net.scratch.delta, net.hidden_size, rows)
}

fn dense<B: Backend>(backend: &mut B, s: &mut Scratch<B>, weights: &Mlp<B>, rows: usize) {
    backend.linear(&mut s.gate, &s.y, &weights.gate, rows);
    backend.linear(&mut s.up, &s.y, &weights.up, rows);
    backend.swiglu(&mut s.product, &s.gate, &s.up, weights.dim, rows);
    backend.linear(&mut s.delta, &s.product, &weights.down, rows);
}

/// The shared experts are a mixture of which every row takes all, with equal weights.
fn mix<B: Backend>(
    backend: &mut B,
    s: &mut Scratch<B>,
    weights: &Moe<B>,
    mixture: &mut Mixture<B>,
    rows: usize,
) {
    backend.route(
        &mut mixture.routing,
        &s.y,
        &weights.gate,
        weights.bias.as_ref(),
        &mixture.rule,
        rows,
    );
    if let Some(all) = &mixture.shared {
        backend.experts(&mut s.shared, None, &s.y, all, &weights.shared, rows);
    }
    let shared = mixture.shared.as_ref().map(|_| &s.shared);
    backend.experts(&mut s.delta, shared, &s.y, &mixture.routing, &weights.experts, rows);
}

/// As the model's own code names its routing: probabilities, and weights before the scaling factor.
fn record(
    recorder: &mut Recorder,
    layer: usize,
    mut trace: RoutingTrace,
    factor: f32,
    rows: usize,
) {
    let n_expert = trace.logits.len().checked_div(rows).unwrap_or(0);
    for logits in trace.logits.chunks(n_expert.max(1)) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|z| (z - max).exp()).sum();
        let probs: Vec<f32> = logits.iter().map(|z| (z - max).exp() / sum).collect();
        recorder.append(&format!("router.{layer}.probs"), n_expert, &probs);
    }
    trace.weights.iter_mut().for_each(|weight| *weight /= factor);
    recorder.take_routing(layer, &trace, rows);
}
