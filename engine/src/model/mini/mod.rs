//! mini-deepseek: an educational variant of the same ideas, written over the same operations.
//!
//! ```text
//! x = embed[token]
//! for each layer:  x += attention(norm(x));  x += ffn(norm(x))
//! logits = head norm(x)
//! ```
//!
//! What differs from [`super::deepseek`]: latents have no norm, every head has a rotary key of its own, shared experts
//! are averaged, and drafts come from parallel heads instead of a layer.

mod attention;
mod drafts;
mod ffn;
mod weights;

use super::loader::Loader;
use super::record::Recorder;
use super::scratch::{self, Scratch};
use super::{latent, rope};
use crate::backend::{Backend, MlaShape, RopeTable, RouteRule, Watch};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::limits::Limits;
use crate::step::{Sampled, Step};
use drafts::Drafts;
use weights::Weights;

/// A loaded network and the buffers of its steps.
pub(super) struct Mini<B: Backend> {
    weights: Weights<B>,
    /// Loaded for traces alone.
    drafts: Option<Drafts<B>>,
    scratch: Scratch<B>,
    /// One paged buffer a layer.
    latent: Vec<B::Cache>,
    rope: RopeTable<B::Buf>,
    /// `None` in a model without mixtures.
    mixture: Option<Mixture<B>>,
    plan: B::Plan,
    shape: MlaShape,
    step_rows_max: usize,
    hidden_size: usize,
    vocab_size: usize,
    eps: f32,
}

/// What mixture layers share.
struct Mixture<B: Backend> {
    rule: RouteRule,
    /// The current layer's choices.
    routing: B::Routing,
    /// All shared experts for every row; `None` in a model without any.
    shared: Option<B::Routing>,
}

impl<B: Backend> Mini<B> {
    pub(super) fn load(
        backend: &mut B,
        checkpoint: &Checkpoint,
        limits: &Limits,
        n_page: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let config = &checkpoint.config;
        let rows = limits.step_rows_max;
        let weights = weights::load(&mut Loader::new(backend, checkpoint, progress), config)?;
        let mixture = match &config.moe {
            None => None,
            Some(moe) => Some(Mixture {
                rule: moe.route,
                routing: backend.routing(rows, &moe.route)?,
                shared: match moe.n_shared_experts {
                    0 => None,
                    n => Some(backend.average_routing(rows, n)?),
                },
            }),
        };
        Ok(Self {
            weights,
            drafts: None,
            scratch: Scratch::alloc(backend, config, limits)?,
            latent: latent::alloc(backend, config, n_page)?,
            rope: rope::table(backend, config, limits)?,
            mixture,
            plan: backend.reserve(&scratch::shape(config, limits, n_page), limits)?,
            shape: scratch::mla_shape(config),
            step_rows_max: rows,
            hidden_size: config.hidden_size,
            vocab_size: config.vocab_size,
            eps: config.rms_norm_eps,
        })
    }

    /// Loads the draft heads; recorded passes then show their logits.
    pub(super) fn load_drafts(&mut self, backend: &mut B, checkpoint: &Checkpoint) -> Result<()> {
        self.drafts = Some(Drafts::load(backend, checkpoint, self.step_rows_max)?);
        Ok(())
    }

    /// One pass over a step's rows. With a recorder, intermediate results are copied on the way.
    pub(super) fn forward(
        &mut self,
        backend: &mut B,
        step: &Step,
        sampled: &mut Vec<Sampled>,
        mut recorder: Option<&mut Recorder>,
    ) -> Result<()> {
        // The logits alone need no copies of what comes before them.
        let mut inner = recorder.as_deref_mut().filter(|recorder| recorder.all);
        let rows = step.n_row();
        let watch = if inner.is_some() { Watch::Everything } else { Watch::Outcome };
        backend.begin(&mut self.plan, step, watch)?;
        backend.embed(&mut self.scratch.x, &self.weights.embed, &self.plan);
        let first_norm =
            self.weights.layers.first().map_or(&self.weights.norm, |layer| &layer.input_norm);
        backend.rms_norm(&mut self.scratch.y, &self.scratch.x, first_norm, self.eps, rows);
        self.record_stream(backend, 0, rows, inner.as_deref_mut())?;
        for layer in 0..self.weights.layers.len() {
            attention::attention(self, backend, layer, step, inner.as_deref_mut())?;
            self.add_norm(backend, Norm::Post(layer), rows);
            ffn::ffn(self, backend, layer, rows, inner.as_deref_mut())?;
            self.add_norm(backend, Norm::After(layer), rows);
            self.record_stream(backend, layer + 1, rows, inner.as_deref_mut())?;
        }
        if let Some(recorder) = inner {
            recorder.take(backend, "hidden.final", &self.scratch.y, self.hidden_size, rows)?;
            drafts::record(self, backend, rows, recorder)?;
        }
        self.finish(backend, step, sampled, recorder)
    }

    /// See [`super::Model::experts_touched`]; shared experts are no choice and not counted.
    pub(super) fn experts_touched(&self, backend: &B) -> u64 {
        self.mixture.as_ref().map_or(0, |mixture| backend.touched(&mixture.routing))
    }

    /// `x += delta`, then the norm of what comes next.
    fn add_norm(&mut self, backend: &mut B, norm: Norm, rows: usize) {
        let weight = match norm {
            Norm::Post(layer) => &self.weights.layers[layer].post_norm,
            Norm::After(layer) => self
                .weights
                .layers
                .get(layer + 1)
                .map_or(&self.weights.norm, |next| &next.input_norm),
        };
        let s = &mut self.scratch;
        backend.add_rms_norm(&mut s.y, &mut s.x, &s.delta, weight, self.eps, rows);
    }

    fn record_stream(
        &self,
        backend: &B,
        at: usize,
        rows: usize,
        recorder: Option<&mut Recorder>,
    ) -> Result<()> {
        let Some(recorder) = recorder else { return Ok(()) };
        recorder.take(backend, &format!("hidden.{at}"), &self.scratch.x, self.hidden_size, rows)
    }

    /// Logits of the rows that want a token, and the draw.
    fn finish(
        &mut self,
        backend: &mut B,
        step: &Step,
        sampled: &mut Vec<Sampled>,
        recorder: Option<&mut Recorder>,
    ) -> Result<()> {
        sampled.clear();
        let n_sample = step.samples.len();
        if n_sample == 0 {
            return Ok(());
        }
        let s = &mut self.scratch;
        backend.gather_rows(&mut s.last, &s.y, self.hidden_size, &self.plan);
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embed);
        backend.linear(&mut s.logits, &s.last, head, n_sample);
        if let Some(recorder) = recorder {
            recorder.take(backend, "logits", &s.logits, self.vocab_size, n_sample)?;
        }
        backend.sample(sampled, &mut s.logits, self.vocab_size, &self.plan, step)
    }
}

/// Which norm follows an addition to the stream.
#[derive(Clone, Copy)]
enum Norm {
    /// Between a layer's attention and its MLP.
    Post(usize),
    /// After a layer: the next one's input norm, or the final norm.
    After(usize),
}
