//! A loaded model: the architecture's weights, scratch and latent cache over a backend.
//!
//! There is one architecture so far, [`deepseek`], which covers the V2 and V3 families. A second one makes
//! `Model` an enum over them; the worker sees `load` and `forward` alone.

pub mod record;

mod deepseek;
mod latent;
mod rope;
mod scratch;

use crate::backend::{Backend, ScratchShape};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::limits::Limits;
use crate::step::{Sampled, Step};
use record::Recorder;

/// A loaded model over a backend: weights, scratch and latent cache.
pub struct Model<B: Backend> {
    backend: B,
    network: deepseek::DeepSeek<B>,
}

impl<B: Backend> Model<B> {
    /// Loads every weight (`progress(done_bytes, total_bytes)` after each tensor) and makes all buffers, with
    /// `n_page` pages of latent cache.
    ///
    /// # Errors
    /// What the checkpoint, the backend or the memory refuses.
    pub fn load(
        mut backend: B,
        checkpoint: &Checkpoint,
        limits: &Limits,
        n_page: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let network = deepseek::DeepSeek::load(&mut backend, checkpoint, limits, n_page, progress)?;
        Ok(Self { backend, network })
    }

    /// Bytes of one latent-cache page over all layers.
    pub fn page_bytes(checkpoint: &Checkpoint) -> u64 {
        latent::page_bytes(&checkpoint.config)
    }

    /// Bytes of the buffers that `load` makes beside weights, cache and the backend's own scratch.
    pub fn scratch_bytes(checkpoint: &Checkpoint, limits: &Limits) -> u64 {
        scratch::bytes(&checkpoint.config, limits) + rope::bytes(&checkpoint.config, limits)
    }

    /// The largest sizes the model will ask of the backend.
    pub fn scratch_shape(checkpoint: &Checkpoint, limits: &Limits, n_page: usize) -> ScratchShape {
        scratch::shape(&checkpoint.config, limits, n_page)
    }

    /// One forward pass; `sampled` is cleared and gets one entry a sample row.
    ///
    /// # Errors
    /// What the device refuses; never on data.
    pub fn forward(&mut self, step: &Step, sampled: &mut Vec<Sampled>) -> Result<()> {
        self.network.forward(&mut self.backend, step, sampled, None)
    }

    /// [`Model::forward`] with every intermediate result copied into `recorder`.
    ///
    /// # Errors
    /// As `forward`.
    pub fn forward_recorded(
        &mut self,
        step: &Step,
        sampled: &mut Vec<Sampled>,
        recorder: &mut Recorder,
    ) -> Result<()> {
        self.network.forward(&mut self.backend, step, sampled, Some(recorder))
    }

    /// Loads the MTP layer too, for [`Model::draft_recorded`]; `limits` and `n_page` as at [`Model::load`].
    ///
    /// # Errors
    /// What the checkpoint, the backend or the memory refuses; [`crate::Error::TensorMissing`] where there is none.
    pub fn load_mtp(
        &mut self,
        checkpoint: &Checkpoint,
        limits: &Limits,
        n_page: usize,
    ) -> Result<()> {
        self.network.load_mtp(&mut self.backend, checkpoint, limits, n_page)
    }

    /// The MTP layer's drafts: `step.tokens` follow the states `hidden [n_row, D]` (after the last norm). Every row's
    /// `mtp.hidden`, and `mtp.logits` of the rows that want a token, go into `recorder`.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn draft_recorded(
        &mut self,
        step: &Step,
        hidden: &[f32],
        recorder: &mut Recorder,
    ) -> Result<()> {
        self.network.draft(&mut self.backend, step, hidden, recorder)
    }

    /// The backend, for what only it knows (threads, instruction set).
    pub fn backend(&self) -> &B {
        &self.backend
    }
}
