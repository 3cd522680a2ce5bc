//! The second half of a layer: a dense MLP, or a mixture of experts (DeepSeek-V3 paper, section 2.1.2).

use super::weights::{Ffn, Mlp, Moe};
use super::{DeepSeek, Scratch};
use crate::backend::{Backend, RouteRule};
use crate::error::Result;
use crate::model::record::Recorder;

/// From the normed stream `y` to `delta`.
pub(super) fn ffn<B: Backend>(
    net: &mut DeepSeek<B>,
    backend: &mut B,
    layer: usize,
    rows: usize,
    recorder: Option<&mut Recorder>,
) -> Result<()> {
    let s = &mut net.scratch;
    match (&net.weights.layers[layer].ffn, &mut net.routing) {
        (Ffn::Moe(weights), Some((routing, rule))) => {
            mixture(backend, s, weights, routing, rule, rows);
        }
        (Ffn::Dense(weights), _) => {
            gate_and_up(backend, s, weights, rows);
            backend.linear(&mut s.delta, &s.product, &weights.down, rows);
        }
        // Loading makes room for choices whenever a layer is a mixture.
        (Ffn::Moe(_), None) => unreachable!("a mixture without routing"),
    }
    let Some(recorder) = recorder else { return Ok(()) };
    if let (Ffn::Moe(_), Some((routing, _))) = (&net.weights.layers[layer].ffn, &net.routing) {
        recorder.take_routing(layer, &backend.read_routing(routing, rows)?, rows);
    }
    recorder.take(backend, &format!("mlp.{layer}"), &net.scratch.delta, net.hidden_size, rows)
}

/// `product = silu(gate y) * up y`.
fn gate_and_up<B: Backend>(backend: &mut B, s: &mut Scratch<B>, weights: &Mlp<B>, rows: usize) {
    backend.linear(&mut s.gate, &s.y, &weights.gate, rows);
    backend.linear(&mut s.up, &s.y, &weights.up, rows);
    backend.swiglu(&mut s.product, &s.gate, &s.up, weights.dim, rows);
}

/// Route, then dispatch, experts, combine and add shared inside one operation.
fn mixture<B: Backend>(
    backend: &mut B,
    s: &mut Scratch<B>,
    weights: &Moe<B>,
    routing: &mut B::Routing,
    rule: &RouteRule,
    rows: usize,
) {
    backend.route(routing, &s.y, &weights.gate, weights.bias.as_ref(), rule, rows);
    if let Some(shared) = &weights.shared {
        gate_and_up(backend, s, shared, rows);
        backend.linear(&mut s.shared, &s.product, &shared.down, rows);
    }
    let shared = weights.shared.as_ref().map(|_| &s.shared);
    backend.experts(&mut s.delta, shared, &s.y, routing, &weights.experts, rows);
}
