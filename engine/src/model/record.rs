//! Copies of intermediate results, for comparing a model with a reference. Never attached while serving.

use std::collections::BTreeMap;

use crate::backend::{Backend, RoutingTrace};
use crate::error::Result;

/// Rows gathered under a name, over all steps of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// Numbers in one row.
    pub dim: usize,
    /// `[n_row, dim]`.
    pub values: Vec<f32>,
}

/// Collects tensors by name (`hidden.0`, `attn.3`, `router.1.logits`, ...), row by row.
#[derive(Debug, Default)]
pub struct Recorder {
    /// Whether everything is taken, or the logits alone.
    pub all: bool,
    /// What was taken.
    pub rows: BTreeMap<String, Rows>,
    /// Expert choices, `[n_row, K]`, largest weight first.
    pub choices: BTreeMap<String, (usize, Vec<i64>)>,
}

impl Recorder {
    /// Takes the first `n_row` rows of `buf` under `name`.
    pub(crate) fn take<B: Backend>(
        &mut self,
        backend: &B,
        name: &str,
        buf: &B::Buf,
        dim: usize,
        n_row: usize,
    ) -> Result<()> {
        let mut values = vec![0.0; n_row * dim];
        backend.read(buf, dim, &mut values)?;
        self.append(name, dim, &values);
        Ok(())
    }

    /// Appends rows that are here already.
    pub(crate) fn append(&mut self, name: &str, dim: usize, values: &[f32]) {
        let rows = self.rows.entry(name.to_owned()).or_default();
        rows.dim = dim;
        rows.values.extend_from_slice(values);
    }

    /// Takes a layer's routing. Choices are ordered by weight, then by expert, so that runs can be compared.
    pub(crate) fn take_routing(&mut self, layer: usize, trace: &RoutingTrace, n_row: usize) {
        let per_row = trace.indices.len().checked_div(n_row).unwrap_or(0);
        let n_expert = trace.logits.len().checked_div(n_row).unwrap_or(0);
        let mut ids = Vec::with_capacity(trace.indices.len());
        let mut weights = Vec::with_capacity(trace.indices.len());
        for row in 0..n_row {
            let at = row * per_row..(row + 1) * per_row;
            let mut chosen: Vec<_> = trace.indices[at.clone()]
                .iter()
                .copied()
                .zip(trace.weights[at].iter().copied())
                .collect();
            chosen.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            ids.extend(chosen.iter().map(|(id, _)| i64::from(*id)));
            weights.extend(chosen.iter().map(|(_, weight)| *weight));
        }
        self.append(&format!("router.{layer}.logits"), n_expert, &trace.logits);
        self.append(&format!("router.{layer}.weights"), per_row, &weights);
        let entry = self.choices.entry(format!("router.{layer}.indices")).or_default();
        entry.0 = per_row;
        entry.1.extend(ids);
    }
}
