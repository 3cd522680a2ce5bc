//! `kv_b_proj` out of its halves: other readers know the one matrix alone, and take a model whose halves they do not
//! find for one without trained weights.

use crate::checkpoint::encode::{Encoded, Place, encode};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::Result;
use crate::quant::DType;

const WHOLE: &str = ".kv_b_proj.weight";
const KEY: &str = ".k_b_proj.weight";
const VALUE: &str = ".v_b_proj.weight";

/// The halves of one layer, as GGUF has them.
pub(super) struct Halves {
    /// `[heads * rank, nope]`: each head's turned round.
    key: Tensor,
    /// `[heads * v, rank]`.
    value: Tensor,
    /// Rows of the key, and of the value, in a head's part of the whole.
    nope: usize,
    v: usize,
    rank: usize,
    heads: usize,
}

impl Halves {
    /// Those that make `whole`; `None` where the whole is there itself, or they are not what the sizes ask for.
    pub(super) fn of(checkpoint: &Checkpoint, whole: &str) -> Option<Self> {
        let (key, value) = names(whole)?;
        if checkpoint.has(whole) {
            return None;
        }
        let (key, value) = (checkpoint.tensor(&key).ok()?, checkpoint.tensor(&value).ok()?);
        let c = &checkpoint.config;
        let (heads, rank) = (c.num_attention_heads, c.kv_lora_rank);
        let (nope, v) = (c.qk_nope_head_dim, c.v_head_dim);
        let fits = key.shape == [heads * rank, nope] && value.shape == [heads * v, rank];
        fits.then_some(Self { key, value, nope, v, rank, heads })
    }

    /// Of the whole: each head's key rows, then its value rows.
    pub(super) fn shape(&self) -> Vec<usize> {
        vec![self.heads * (self.nope + self.v), self.rank]
    }

    /// Stored bytes of both.
    pub(super) fn stored_bytes(&self) -> usize {
        self.key.bytes.len() + self.value.bytes.len()
    }

    /// Rows `first..first + n` of the whole, widened.
    pub(super) fn rows(&self, first: usize, n: usize) -> Vec<f32> {
        let (nope, v, rank) = (self.nope, self.v, self.rank);
        let mut out = vec![0.0; n * rank];
        let mut turned = vec![0.0; rank * nope];
        let mut at_hand = None;
        for (row, out) in (first..first + n).zip(out.chunks_exact_mut(rank)) {
            let (head, row) = (row / (nope + v), row % (nope + v));
            if row >= nope {
                self.value.decode_rows(head * v + row - nope, out);
                continue;
            }
            if at_hand != Some(head) {
                self.key.decode_rows(head * rank, &mut turned);
                at_hand = Some(head);
            }
            for (x, of_rank) in out.iter_mut().zip(turned.chunks_exact(nope)) {
                *x = of_rank[row];
            }
        }
        out
    }

    /// The same in another format; `whole` is the name that errors give.
    ///
    /// # Errors
    /// As of [`Tensor::encode_rows`].
    pub(super) fn encode_rows(
        &self,
        whole: &str,
        first: usize,
        n: usize,
        to: DType,
    ) -> Result<Encoded> {
        let place = Place { name: whole, path: self.key.bytes.path(), first };
        encode(&self.rows(first, n), self.rank, to, place)
    }
}

/// What the halves of a matrix are called; `None` for a name that has none.
pub(super) fn names(whole: &str) -> Option<(String, String)> {
    let at = whole.strip_suffix(WHOLE)?;
    Some((format!("{at}{KEY}"), format!("{at}{VALUE}")))
}

/// What a half is a half of.
pub(super) fn whole(half: &str) -> Option<String> {
    let at = half.strip_suffix(KEY).or_else(|| half.strip_suffix(VALUE))?;
    Some(format!("{at}{WHOLE}"))
}

/// Whether a tensor is a half.
pub(super) fn is_half(name: &str) -> bool {
    is_key(name) || name.ends_with(VALUE)
}

/// Whether a tensor is the key's half.
pub(super) fn is_key(name: &str) -> bool {
    name.ends_with(KEY)
}
