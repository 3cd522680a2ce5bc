//! Architectures, and the choice among them by configuration.

use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::step::{Sampled, Step};

/// A loaded model over a backend: weights, scratch and latent cache.
pub struct Model<B: Backend> {
    backend: B,
}

impl<B: Backend> Model<B> {
    /// Loads every weight (`progress(done_bytes, total_bytes)` after each tensor) and makes all buffers.
    /// `n_page` pages of latent cache are made.
    ///
    /// # Errors
    /// What the checkpoint, the backend or the memory refuses.
    pub fn load(
        backend: B,
        _checkpoint: &Checkpoint,
        _limits: &Limits,
        _n_page: usize,
        _progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        Ok(Self { backend })
    }

    /// Bytes of one latent-cache page over all layers.
    pub fn page_bytes(_checkpoint: &Checkpoint) -> u64 {
        1
    }

    /// Bytes of scratch that `load` will make, without weights and cache.
    pub fn scratch_bytes(_checkpoint: &Checkpoint, _limits: &Limits) -> u64 {
        1
    }

    /// One forward pass; `sampled` is cleared and gets one entry a sample row.
    ///
    /// # Errors
    /// What the device refuses; never on data.
    pub fn forward(&mut self, _step: &Step, _sampled: &mut Vec<Sampled>) -> Result<()> {
        let _ = &mut self.backend;
        Err(Error::Closed)
    }
}
