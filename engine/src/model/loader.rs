//! Takes tensors out of a checkpoint and counts their bytes.

use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
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

    /// A matrix as it is stored.
    pub(super) fn matrix(&mut self, name: &str) -> Result<B::Weight> {
        let tensor = self.checkpoint.tensor(name)?;
        let weight = self.backend.weight(&tensor)?;
        self.count(tensor.stored_bytes());
        Ok(weight)
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
