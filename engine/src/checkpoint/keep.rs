//! How a backend keeps a checkpoint's matrices: as they lie, copied, in another format, in another order.
//!
//! One rule for the backend and for the plan of its memory.

use super::Target;
use super::part::{is_layer_matrix, last_word};
use crate::quant::{DType, narrow, panels};

/// What a backend does with matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a choice of its own, in any mixture")]
pub struct Keep {
    /// Writes them in another format.
    pub quant: Option<Target>,
    /// Writes those that it quantises and products read whole into panels.
    pub packs_encoded: bool,
    /// Writes those that are stored in blocks and products read whole into panels.
    pub packs_stored: bool,
    /// Writes those that are stored as bf16 and products read whole in twelve bits a number.
    pub narrows: bool,
    /// Counts the halves of `kv_b_proj` among what products read whole: see [`Keep::for_heads`].
    pub packs_halves: bool,
    /// Copies the others that products read.
    pub copies: bool,
}

/// Where a matrix is, and in what order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where it lies.
    Stored,
    /// In memory of our own, row after row.
    Copied,
    /// In memory of our own, in panels of sixteen rows.
    Panels,
    /// The same of bf16, twelve bits a number.
    Narrow,
}

/// How one matrix is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its format.
    pub dtype: DType,
    /// Where it is.
    pub place: Place,
}

impl From<Option<Target>> for Keep {
    fn from(quant: Option<Target>) -> Self {
        Self { quant, ..Self::default() }
    }
}

impl Keep {
    /// The same for a model whose heads have `latent` and `value` rows in the halves of `kv_b_proj`: products read halves
    /// whole where each head begins at a whole panel.
    #[must_use]
    pub fn for_heads(self, latent: usize, value: usize) -> Self {
        let packs_halves = [latent, value].iter().all(|rows| rows.is_multiple_of(panels::OUTS));
        Self { packs_halves, ..self }
    }

    /// How a tensor of this name, format and shape is kept.
    pub fn of(self, name: &str, stored: DType, shape: &[usize]) -> Kept {
        let &[n_out, dim] = shape else {
            return Kept { dtype: stored, place: Place::Stored };
        };
        let dtype = self.quant.map_or(stored, |target| target.dtype_of(name, stored, shape));
        let packs = if dtype == stored { self.packs_stored } else { self.packs_encoded };
        let narrows = self.narrows && (stored, dtype) == (DType::Bf16, DType::Bf16);
        let narrows = narrows && narrow::is_smaller(n_out, dim);
        let place = if narrows && is_product(name) && !is_expansion(name) {
            Place::Narrow
        } else if packs && panels::Layout::of(dtype).is_some() && self.is_read_whole(name) {
            Place::Panels
        } else if dtype != stored || self.copies && is_product(name) {
            Place::Copied
        } else {
            Place::Stored
        };
        Kept { dtype, place }
    }

    /// Whether nothing but products reads it: attention takes single rows of what the latent is expanded with whole.
    fn is_read_whole(self, name: &str) -> bool {
        is_product(name) && (!is_expansion(name) || self.packs_halves && is_half(name))
    }
}

impl Kept {
    /// Bytes of `[n_out, dim]`, factors of other tensors and strays of twelve bits left out; `None` when it is no whole
    /// number of blocks, or too large.
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let (dim, outer) = shape.split_last()?;
        let n_out = outer.iter().product();
        match self.place {
            Place::Panels => panels::bytes(self.dtype, n_out, *dim),
            Place::Narrow => narrow::bytes(n_out, *dim),
            Place::Stored | Place::Copied => self.dtype.row_bytes(*dim)?.checked_mul(n_out),
        }
    }
}

/// Whether matrix products read it, other than an embedding or a router.
fn is_product(name: &str) -> bool {
    is_layer_matrix(name) || name == "lm_head.weight"
}

/// A half of `kv_b_proj`, the key's turned round.
fn is_half(name: &str) -> bool {
    matches!(last_word(name), "k_b_proj" | "v_b_proj")
}

/// What the latent is expanded with, under any of its names.
pub(super) fn is_expansion(name: &str) -> bool {
    matches!(last_word(name), "kv_b_proj" | "k_b_proj" | "v_b_proj" | "k_up_proj" | "v_up_proj")
}
