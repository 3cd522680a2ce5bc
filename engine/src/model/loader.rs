//! Takes tensors out of a checkpoint and counts their bytes.

use crate::backend::{Backend, ExpertWeights, Use};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::{Error, Result};

/// A checkpoint on its way into a backend.
pub(super) struct Loader<'a, B: Backend> {
    pub(super) backend: &'a mut B,
    pub(super) checkpoint: &'a Checkpoint,
    progress: &'a mut dyn FnMut(u64, u64),
    done_bytes: u64,
    total_bytes: u64,
}

impl<'a, B: Backend> Loader<'a, B> {
    pub(super) fn new(
        backend: &'a mut B,
        checkpoint: &'a Checkpoint,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        // Adding it up visits every tensor: once, not once for each.
        let total_bytes = checkpoint.weight_bytes();
        Self { backend, checkpoint, progress, done_bytes: 0, total_bytes }
    }

    fn count(&mut self, bytes: usize) {
        self.done_bytes += bytes as u64;
        (self.progress)(self.done_bytes, self.total_bytes);
    }

    /// A matrix that products read.
    pub(super) fn matrix(&mut self, name: &str) -> Result<B::Weight> {
        self.matrix_for(name, Use::Product)
    }

    /// A matrix for one use.
    pub(super) fn matrix_for(&mut self, name: &str, used: Use) -> Result<B::Weight> {
        let tensor = self.checkpoint.tensor(name)?;
        let weight = self.backend.weight(&tensor, used)?;
        self.count(tensor.stored_bytes());
        Ok(weight)
    }

    /// `n` experts, whose matrices are called `{expert(e)}.gate_proj.weight` and so on.
    pub(super) fn experts(
        &mut self,
        n: usize,
        expert: impl Fn(usize) -> String,
    ) -> Result<B::Experts> {
        let checkpoint = self.checkpoint;
        let all = |matrix: &str| -> Result<Vec<Tensor>> {
            let name = |e| format!("{}.{matrix}.weight", expert(e));
            (0..n).map(|e| checkpoint.tensor(&name(e))).collect()
        };
        let tensors =
            ExpertWeights { gate: all("gate_proj")?, up: all("up_proj")?, down: all("down_proj")? };
        let Self { backend, progress, done_bytes, total_bytes, .. } = self;
        backend.expert_weights(&tensors, &mut |bytes| {
            *done_bytes += bytes as u64;
            progress(*done_bytes, *total_bytes);
        })
    }

    /// A small tensor widened.
    pub(super) fn vector(&mut self, name: &str) -> Result<B::Buf> {
        let tensor = self.checkpoint.tensor(name)?;
        let values = tensor.to_f32();
        // Short enough to look through. A correction bias that is no number would choose the same experts for every
        // token without a word; a norm's would fail every request.
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let problem = format!("value {at} is {}, wanted finite numbers", values[at]);
            let (path, name) = (self.checkpoint.path().to_owned(), name.to_owned());
            return Err(Error::TensorRange { path, name, problem });
        }
        let values = self.backend.vector(&values)?;
        self.count(tensor.stored_bytes());
        Ok(values)
    }
}
