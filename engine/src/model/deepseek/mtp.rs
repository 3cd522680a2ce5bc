//! The multi-token-prediction layer (DeepSeek-V3 paper, section 2.2): from a position's final state and the token that
//! follows it, the token after that one.
//!
//! ```text
//! u[i] = eh_proj [ rms_norm(embed[token[i + 1]]; enorm) ; rms_norm(h[i]; hnorm) ]     h: after the model's last norm
//! x    = one decoder layer over u, with a latent cache of its own
//! draft logits[i] = head rms_norm(x[i]; shared_head.norm)
//! ```
//!
//! Not loaded and not run while serving. Embedding and head are the model's own: the layer's copies are left alone.

use super::{DeepSeek, attention, ffn};
use crate::backend::{Backend, Watch};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::limits::Limits;
use crate::model::loader::Loader;
use crate::model::record::Recorder;
use crate::model::{latent, scratch};
use crate::step::Step;

impl<B: Backend> DeepSeek<B> {
    /// Takes the layer's weights behind the others, and makes room for its latents and its wider input.
    pub(in crate::model) fn load_mtp(
        &mut self,
        backend: &mut B,
        checkpoint: &Checkpoint,
        limits: &Limits,
        n_page: usize,
    ) -> Result<()> {
        let (mtp, layer) = Loader::new(backend, checkpoint, &mut |_, _| {}).mtp()?;
        self.weights.layers.push(layer);
        self.latent.push(latent::layer(backend, &checkpoint.config, n_page)?);
        let mut shape = scratch::shape(&checkpoint.config, limits, n_page);
        shape.input_dim_max = shape.input_dim_max.max(2 * self.hidden_size);
        self.plan = backend.reserve(&shape, limits)?;
        self.mtp = Some(mtp);
        Ok(())
    }

    /// Drafts for a step's rows: `step.tokens` are the tokens that follow, `hidden [n_row, D]` the states before them.
    /// Records `mtp.hidden` and `mtp.logits` of every row that wants a token. Nothing when the layer is not loaded.
    pub(in crate::model) fn draft(
        &mut self,
        backend: &mut B,
        step: &Step,
        hidden: &[f32],
        recorder: &mut Recorder,
    ) -> Result<()> {
        let (rows, dim, layer) = (step.n_row(), self.hidden_size, self.weights.n_layer);
        backend.begin(&mut self.plan, step, Watch::Everything)?;
        let (s, Some(mtp)) = (&mut self.scratch, &self.mtp) else { return Ok(()) };
        backend.embed(&mut s.x, &self.weights.embed, &self.plan);
        backend.rms_norm(&mut s.y, &s.x, &mtp.enorm, self.eps, rows);
        let embedded = read(backend, &s.y, dim, rows)?;
        let states = backend.rows(hidden, dim)?;
        backend.rms_norm(&mut s.y, &states, &mtp.hnorm, self.eps, rows);
        let normed = read(backend, &s.y, dim, rows)?;
        // Put side by side on the host: this is no path of serving.
        let halves = embedded.chunks(dim).zip(normed.chunks(dim));
        let joined: Vec<f32> = halves.flat_map(|(e, h)| e.iter().chain(h)).copied().collect();
        let joined = backend.rows(&joined, 2 * dim)?;
        backend.linear(&mut s.x, &joined, &mtp.eh_proj, rows);
        let norm = &self.weights.layers[layer].input_norm;
        backend.rms_norm(&mut s.y, &s.x, norm, self.eps, rows);
        attention::attention(self, backend, layer, step, None)?;
        self.add_norm(backend, super::Norm::Post(layer), rows);
        ffn::ffn(self, backend, layer, rows, None)?;
        let (s, Some(mtp)) = (&mut self.scratch, &self.mtp) else { return Ok(()) };
        backend.add_rms_norm(&mut s.y, &mut s.x, &s.delta, &mtp.norm, self.eps, rows);
        recorder.take(backend, "mtp.hidden", &s.y, dim, rows)?;
        backend.gather_rows(&mut s.last, &s.y, dim, &self.plan);
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embed);
        backend.linear(&mut s.logits, &s.last, head, step.samples.len());
        recorder.take(backend, "mtp.logits", &s.logits, self.vocab_size, step.samples.len())
    }
}

fn read<B: Backend>(backend: &B, buf: &B::Buf, dim: usize, rows: usize) -> Result<Vec<f32>> {
    let mut values = vec![0.0; dim * rows];
    backend.read(buf, dim, &mut values)?;
    Ok(values)
}
