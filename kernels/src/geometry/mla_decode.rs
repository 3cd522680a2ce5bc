//! Launches of `mla_decode.cu`.

use super::Grid;
use crate::abi::MlaDecodeParams;
use crate::{Caps, Kernel, PAGE_TOKENS};

/// Least tokens of a split.
const SPLIT_TOKENS_MIN: usize = 256;
/// Most splits of a context.
const SPLITS_MAX: usize = 32;
/// Widest latent and rotary part of a cache row that the kernel takes.
pub const LATENT_MAX: u32 = 512;
/// Widest rotary key that all heads share.
pub const ROPE_MAX: u32 = 64;
/// Two bytes, 8 numbers apart from the next power's multiple.
const PITCH_BYTES: u32 = 2 * (LATENT_MAX + ROPE_MAX + 8);
/// Tokens of a tile.
const TOKENS: u32 = 32;

/// Parts that a context of so many tokens is cut in: a function of nothing else.
pub fn n_split(context: usize) -> usize {
    let even = context.div_ceil(SPLITS_MAX).next_multiple_of(PAGE_TOKENS);
    context.div_ceil(even.max(SPLIT_TOKENS_MIN))
}

/// Most splits of any context up to this one: what `part` and `lse` need room for.
pub fn n_split_max(context_max: usize) -> usize {
    // Longer splits of a longer context can be fewer.
    context_max.div_ceil(SPLIT_TOKENS_MIN).min(SPLITS_MAX)
}

/// Queries, two tiles of tokens, weights, and an exchange of maxima.
pub(super) fn shared_bytes(heads: u32) -> u32 {
    (heads + 2 * TOKENS) * PITCH_BYTES + heads * (TOKENS + 8) * 2 + heads * 4 * 4
}

/// Heads of a block: more of them read a context once, where a card has the memory.
pub fn heads(n_head: u32, caps: &Caps) -> u32 {
    if n_head > 16 && caps.shared_optin_bytes >= shared_bytes(64) { 64 } else { 16 }
}

/// Attention over each split. Rows are the grid's z.
pub fn decode(params: &MlaDecodeParams, heads: u32) -> (Kernel, Grid) {
    let kernel = if heads == 64 { Kernel::MlaDecode64 } else { Kernel::MlaDecode16 };
    let blocks = [params.n_head.div_ceil(heads), params.n_split_max, params.n_row];
    (kernel, Grid { blocks, threads: heads * 8, shared_bytes: shared_bytes(heads) })
}

/// The merge of splits, after [`decode`]; rows of one split are done.
pub fn combine(params: &MlaDecodeParams) -> (Kernel, Grid) {
    let blocks = [params.n_head, params.n_row, 1];
    (Kernel::MlaCombine, Grid { blocks, threads: 128, shared_bytes: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_as_many_as_their_rule_says() {
        let of = [1, 256, 257, 4096, 8192, 8193, 163_840].map(n_split);
        assert_eq!(of, [1, 1, 2, 16, 32, 26, 32]);
        let most = (1..20_000).map(n_split).max();
        assert_eq!(most, Some(n_split_max(20_000)));
        assert!((1..9000).all(|context| n_split(context) <= n_split_max(context)));
    }

    #[test]
    fn what_is_said_to_fit_every_card_does() {
        assert!(shared_bytes(16) <= 99 << 10 && shared_bytes(64) <= 163 << 10);
    }
}
