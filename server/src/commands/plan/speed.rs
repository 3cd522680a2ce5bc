//! How fast decoding can be, by what memory allows.

use super::super::target::size;

/// What decoding reads, and how fast that can be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Speed {
    pub(super) batch: f64,
    /// Weights that a step reads.
    pub(super) weight_bytes: f64,
    /// Latent cache that a step reads with every sequence at its longest.
    pub(super) cache_bytes: f64,
    /// Unknown of a card that is not asked.
    pub(super) bandwidth: Option<f64>,
}

impl Speed {
    /// Tokens a second of all sequences, while they are short.
    pub(super) fn short(&self) -> Option<f64> {
        Some(self.batch * self.bandwidth? / self.weight_bytes)
    }

    /// The same with every sequence at its longest.
    pub(super) fn long(&self) -> Option<f64> {
        Some(self.batch * self.bandwidth? / (self.weight_bytes + self.cache_bytes))
    }

    /// For a person.
    pub(super) fn as_text(self) -> String {
        let weights = size(self.weight_bytes as u64);
        let (Some(bandwidth), Some(short), Some(long)) =
            (self.bandwidth, self.short(), self.long())
        else {
            return format!(
                "\ndecoding reads {weights} of weights a step; --bandwidth GB/S says what the card's memory allows\n"
            );
        };
        format!(
            "\ndecoding, at most, by what memory allows ({:.1} GB/s, {weights} of weights a step)\n  \
             short conversations        {short:>10.1} tokens/s\n  \
             all at full length         {long:>10.1} tokens/s\n",
            bandwidth / 1e9,
        )
    }
}
