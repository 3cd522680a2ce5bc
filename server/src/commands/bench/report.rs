//! Numbers to tables and JSON, and the arithmetic of what a step must read.

use std::fmt::Write;

use hadal_engine::ModelInfo;
use hadal_engine::checkpoint::{Checkpoint, Loaded, Part, Target};
use serde_json::{Value, json};

/// Median, minimum and maximum of repeated measurements.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of any number of values; of none it is zero.
    pub(super) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self::default();
        };
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Self { median: f64::midpoint(low, high), min, max }
    }

    /// The same through a function that keeps or turns the order.
    pub(super) fn map(self, f: impl Fn(f64) -> f64) -> Self {
        let (a, b) = (f(self.min), f(self.max));
        Self { median: f(self.median), min: a.min(b), max: a.max(b) }
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

/// Bytes of the weights, by when they are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weights {
    /// Read in every step: attention, dense layers, shared experts, routers, head.
    always: f64,
    /// One routed expert, in all its layers.
    expert: f64,
    experts: f64,
    chosen: f64,
}

impl Weights {
    /// From a checkpoint's own tensors, as they are kept.
    pub(crate) fn of(checkpoint: &Checkpoint, quant: Option<Target>) -> Self {
        let config = &checkpoint.config;
        let (mut always, mut experts) = (0.0, 0.0);
        for Loaded { name, bytes, .. } in checkpoint.loaded(quant) {
            if Part::of(name, None) == Part::RoutedExperts {
                experts += bytes as f64;
            } else if Part::of(name, None) != Part::Embedding || config.tie_word_embeddings {
                always += bytes as f64;
            }
        }
        let route = config.moe.as_ref().map(|moe| moe.route);
        let n_expert = route.map_or(0.0, |route| route.n_routed_experts as f64);
        let chosen = route.map_or(0.0, |route| route.num_experts_per_tok as f64);
        Self { always, expert: experts / n_expert.max(1.0), experts: n_expert, chosen }
    }

    /// What a decode step of `batch` sequences must read, when routing is uniform: an expert is left out by one
    /// sequence with probability `1 - K/E`, by all of them with that to the power of the batch. The latent cache
    /// comes on top and is small at the lengths measured here.
    pub(crate) fn bytes_per_step(&self, batch: f64) -> f64 {
        if self.experts == 0.0 {
            return self.always;
        }
        let touched = self.experts * (1.0 - (1.0 - self.chosen / self.experts).powf(batch));
        self.always + self.expert * touched
    }
}

/// One batch size.
pub(super) struct Decode {
    pub(super) batch: u32,
    pub(super) tokens_per_second: Spread,
    pub(super) bytes_per_step: f64,
}

impl Decode {
    /// Bytes a second that the steps must have read.
    fn read_per_second(&self) -> f64 {
        self.bytes_per_step * self.tokens_per_second.median / f64::from(self.batch)
    }
}

/// Everything that was measured.
pub(super) struct Report {
    pub(super) model: String,
    pub(super) info: ModelInfo,
    pub(super) runs: u32,
    pub(super) prompt_tokens: u32,
    pub(super) answer_tokens: u32,
    pub(super) load_seconds: Spread,
    pub(super) bandwidth: Spread,
    pub(super) prompt_per_second: Spread,
    pub(super) first_token_seconds: Spread,
    pub(super) decode: Vec<Decode>,
    pub(super) peak_rss_bytes: Option<u64>,
}

impl Report {
    /// For a person.
    pub(super) fn tables(&self) -> String {
        let (info, mut out) = (&self.info, String::new());
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{}: {}, {:.1} M parameters, {} ({:.1} MB), {} threads, {}, {} activations, median of {} runs\n",
            self.model,
            info.architecture,
            info.parameters as f64 / 1e6,
            info.dtype,
            info.weight_bytes as f64 / 1e6,
            info.threads,
            info.isa,
            info.activations,
            self.runs,
        );
        let _ = writeln!(out, "{:34} {:>10} {:>10} {:>10}", "", "median", "min", "max");
        let mut row = |name: &str, spread: Spread| {
            let Spread { median, min, max } = spread;
            let _ = writeln!(out, "{name:34} {median:10.2} {min:10.2} {max:10.2}");
        };
        row("memory read, GB/s", self.bandwidth.map(|x| x / 1e9));
        row("load, s", self.load_seconds);
        row(&format!("prompt of {}, tokens/s", self.prompt_tokens), self.prompt_per_second);
        row(
            &format!("first token after {}, ms", self.prompt_tokens),
            self.first_token_seconds.map(|x| x * 1e3),
        );
        for decode in &self.decode {
            row(&format!("decode, batch {}, tokens/s", decode.batch), decode.tokens_per_second);
        }
        let _ = writeln!(out, "\n{:34} {:>10} {:>10} {:>10}", "", "MB a step", "GB/s", "of memory");
        for decode in &self.decode {
            let (step, read) = (decode.bytes_per_step / 1e6, decode.read_per_second());
            let name = format!("weights read, batch {}", decode.batch);
            let _ = writeln!(
                out,
                "{name:34} {step:10.1} {:10.2} {:9.0} %",
                read / 1e9,
                100.0 * self.share(read)
            );
        }
        if let Some(bytes) = self.peak_rss_bytes {
            let _ = writeln!(out, "\npeak memory of this process {:.1} MB", bytes as f64 / 1e6);
        }
        out
    }

    /// For a program.
    pub(super) fn json(&self) -> Value {
        let decode = |decode: &Decode| {
            json!({
                "batch": decode.batch,
                "tokens_per_second": decode.tokens_per_second.json(),
                "weight_bytes_per_step": decode.bytes_per_step,
                "share_of_memory_bandwidth": self.share(decode.read_per_second()),
            })
        };
        json!({
            "model": self.model,
            "architecture": self.info.architecture,
            "parameters": self.info.parameters,
            "dtype": self.info.dtype,
            "weight_bytes": self.info.weight_bytes,
            "threads": self.info.threads,
            "isa": self.info.isa,
            "activations": self.info.activations,
            "runs": self.runs,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "memory_read_bytes_per_second": self.bandwidth.json(),
            "load_seconds": self.load_seconds.json(),
            "prompt_tokens_per_second": self.prompt_per_second.json(),
            "first_token_seconds": self.first_token_seconds.json(),
            "decode": self.decode.iter().map(decode).collect::<Vec<_>>(),
            "peak_rss_bytes": self.peak_rss_bytes,
        })
    }

    fn share(&self, bytes_per_second: f64) -> f64 {
        if self.bandwidth.median > 0.0 { bytes_per_second / self.bandwidth.median } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_its_middle_ones() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of(&[]), Spread::default());
    }

    #[test]
    fn a_map_that_turns_the_order_keeps_min_below_max() {
        let rate = Spread { median: 2.0, min: 1.0, max: 4.0 }.map(|x| 4.0 / x);
        assert_eq!(rate, Spread { median: 2.0, min: 1.0, max: 4.0 });
    }

    #[test]
    fn experts_are_touched_once_however_many_sequences_choose_them() {
        let weights = Weights { always: 100.0, expert: 10.0, experts: 8.0, chosen: 2.0 };
        assert_eq!(weights.bytes_per_step(1.0), 120.0);
        assert_eq!(weights.bytes_per_step(2.0), 135.0);
        assert!((weights.bytes_per_step(1000.0) - 180.0).abs() < 1e-9);
        let dense = Weights { experts: 0.0, chosen: 0.0, expert: 0.0, ..weights };
        assert_eq!(dense.bytes_per_step(4.0), 100.0);
    }

    #[test]
    fn a_step_reads_what_the_sequences_together_need() {
        let decode =
            Decode { batch: 4, tokens_per_second: Spread::of(&[8.0]), bytes_per_step: 1e9 };
        // Two steps a second.
        assert_eq!(decode.read_per_second(), 2e9);
    }
}
