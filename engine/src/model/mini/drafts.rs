//! Draft heads: each guesses a later token from the final hidden state, all in parallel. Head `d` at position `i`
//! guesses token `i + 2 + d`:
//!
//! ```text
//! logits_d = output_heads.d  rms_norm(projections.d x + bias_d; layer_norms.d)
//! ```
//!
//! Nothing drafts with them yet: they are kept in the checkpoint, and traces show what they compute.

use super::Mini;
use crate::backend::{Backend, Role};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::config::Architecture;
use crate::error::Result;
use crate::model::loader::Loader;
use crate::model::record::Recorder;

/// Their norms' epsilon, whatever `rms_norm_eps` says.
const EPS: f32 = 1e-6;

/// The heads and room for one's logits.
pub(super) struct Drafts<B: Backend> {
    heads: Vec<DraftHead<B>>,
    /// `[R, V]`.
    logits: B::Buf,
}

struct DraftHead<B: Backend> {
    /// `[D, D]`.
    projection: B::Weight,
    /// `[R, D]`: the bias for every row.
    bias: B::Buf,
    /// `[D]`.
    norm: B::Buf,
    /// `[V, D]`; `None`: the embedding.
    output: Option<B::Weight>,
}

impl<B: Backend> Drafts<B> {
    /// Loads every head; steps have at most `rows` rows.
    pub(super) fn load(backend: &mut B, checkpoint: &Checkpoint, rows: usize) -> Result<Self> {
        let config = &checkpoint.config;
        let Architecture::Mini(mini) = config.architecture else {
            return Ok(Self { heads: Vec::new(), logits: backend.alloc(0, 0, Role::Sum)? });
        };
        let logits = backend.alloc(rows, config.vocab_size, Role::Sum)?;
        let mut progress = |_, _| {};
        let mut loader = Loader::new(backend, checkpoint, &mut progress);
        let mut heads = Vec::new();
        for d in 0..mini.n_draft_heads {
            let bias = checkpoint.tensor(&format!("mtp_head.projections.{d}.bias"))?.to_f32();
            heads.push(DraftHead {
                projection: loader.matrix(&format!("mtp_head.projections.{d}.weight"))?,
                bias: loader.backend.rows(&bias.repeat(rows), config.hidden_size)?,
                norm: loader.vector(&format!("mtp_head.layer_norms.{d}.weight"))?,
                output: if config.tie_word_embeddings {
                    None
                } else {
                    Some(loader.matrix(&format!("mtp_head.output_heads.{d}.weight"))?)
                },
            });
        }
        Ok(Self { heads, logits })
    }
}

/// Every head's logits of all rows, as `mtp.d.logits`. Reads the final hidden state in `y` and leaves it.
pub(super) fn record<B: Backend>(
    net: &mut Mini<B>,
    backend: &mut B,
    rows: usize,
    recorder: &mut Recorder,
) -> Result<()> {
    let (s, Some(drafts)) = (&mut net.scratch, &mut net.drafts) else { return Ok(()) };
    for (d, head) in drafts.heads.iter().enumerate() {
        // The stream is of no more use in this step.
        backend.linear(&mut s.x, &s.y, &head.projection, rows);
        backend.add_rms_norm(&mut s.shared, &mut s.x, &head.bias, &head.norm, EPS, rows);
        let output = head.output.as_ref().unwrap_or(&net.weights.embed);
        backend.linear(&mut drafts.logits, &s.shared, output, rows);
        let name = format!("mtp.{d}.logits");
        recorder.take(backend, &name, &drafts.logits, net.vocab_size, rows)?;
    }
    Ok(())
}
