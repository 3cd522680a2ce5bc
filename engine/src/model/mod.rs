//! A loaded model: the architecture's weights, scratch and latent cache over a backend.
//!
//! There are two architectures: [`deepseek`], which covers the V2 and V3 families, and [`mini`]. The checkpoint's
//! configuration says which one; the worker sees `load` and `forward` alone.

pub mod record;

mod deepseek;
mod latent;
mod loader;
mod mini;
mod rope;
mod scratch;

use crate::backend::{Backend, ScratchShape};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::config::Architecture;
use crate::error::Result;
use crate::limits::Limits;
use crate::step::{Sampled, Step};
use record::Recorder;

/// The architectures there are.
enum Network<B: Backend> {
    DeepSeek(deepseek::DeepSeek<B>),
    Mini(mini::Mini<B>),
}

impl<B: Backend> Network<B> {
    fn forward(
        &mut self,
        backend: &mut B,
        step: &Step,
        sampled: &mut Vec<Sampled>,
        recorder: Option<&mut Recorder>,
    ) -> Result<()> {
        match self {
            Self::DeepSeek(network) => network.forward(backend, step, sampled, recorder),
            Self::Mini(network) => network.forward(backend, step, sampled, recorder),
        }
    }
}

/// A loaded model over a backend: weights, scratch and latent cache.
pub struct Model<B: Backend> {
    backend: B,
    network: Network<B>,
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
        let on = &mut backend;
        Self::prepare(on, checkpoint)?;
        let mut network = match checkpoint.config.architecture {
            Architecture::DeepSeek => Network::DeepSeek(deepseek::DeepSeek::load(
                on, checkpoint, limits, n_page, progress,
            )?),
            Architecture::Mini(_) => {
                Network::Mini(mini::Mini::load(on, checkpoint, limits, n_page, progress)?)
            }
        };
        // Passes are recorded last: a recording holds on to the places of everything it reads.
        for rows in backend.recorded_rows(limits) {
            backend.record_next();
            network.forward(&mut backend, &Step::decoding(rows), &mut Vec::new(), None)?;
        }
        Ok(Self { backend, network })
    }

    /// Tells the backend what the model is like: before its memory is planned, and before anything is made.
    ///
    /// # Errors
    /// Sizes that the backend cannot run.
    pub fn prepare(backend: &mut B, checkpoint: &Checkpoint) -> Result<()> {
        let kept = checkpoint.dtype_as(backend.keep());
        backend.prepare(&scratch::mla_shape(&checkpoint.config), kept)
    }

    /// Loads what the ordinary pass does without, so that a recorded one can show it: mini-deepseek's draft heads.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_drafts(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        match &mut self.network {
            Network::DeepSeek(_) => Ok(()),
            Network::Mini(network) => network.load_drafts(&mut self.backend, checkpoint),
        }
    }

    /// Bytes of one latent-cache page over all layers.
    pub fn page_bytes(backend: &B, checkpoint: &Checkpoint) -> u64 {
        latent::page_bytes(backend, &checkpoint.config)
    }

    /// Bytes of the buffers that `load` makes beside weights, cache and the backend's own scratch.
    pub fn scratch_bytes(checkpoint: &Checkpoint, limits: &Limits) -> u64 {
        let config = &checkpoint.config;
        scratch::bytes(config, limits) + rope::bytes(config, limits)
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
        match &mut self.network {
            Network::DeepSeek(network) => {
                network.load_mtp(&mut self.backend, checkpoint, limits, n_page)
            }
            Network::Mini(_) => Ok(()),
        }
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
        match &mut self.network {
            Network::DeepSeek(network) => network.draft(&mut self.backend, step, hidden, recorder),
            Network::Mini(_) => Ok(()),
        }
    }

    /// Routed experts that steps had to read, each counted once a step and layer; added up since the load.
    pub fn experts_touched(&self) -> u64 {
        match &self.network {
            Network::DeepSeek(network) => network.experts_touched(&self.backend),
            Network::Mini(network) => network.experts_touched(&self.backend),
        }
    }

    /// The backend, for what only it knows (threads, instruction set).
    pub fn backend(&self) -> &B {
        &self.backend
    }
}
