//! Everything that was measured, and as JSON.

use hadal_engine::ModelInfo;
use hadal_engine::backend::cpu::peak::Arithmetic;
use serde_json::{Map, Value, json};

use super::machine::Machine;
use super::spread::Spread;
use super::work::Work;

/// A speed and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Figure {
    /// Tokens a second.
    pub(super) per_second: Spread,
    /// Bytes and operations of a step, or of a whole prompt.
    pub(super) work: Work,
    /// Tokens that came of it.
    pub(super) tokens_per_work: f64,
    /// Routed experts read for it, over all layers.
    pub(super) touched: f64,
    /// How many there would be if every expert were as likely.
    pub(super) touched_if_uniform: f64,
    /// What others took of the machine meanwhile.
    pub(super) others: Option<f64>,
}

impl Figure {
    /// Bytes and operations a second.
    pub(super) fn rate(&self) -> Work {
        let per_second = self.per_second.median / self.tokens_per_work;
        Work { bytes: self.work.bytes * per_second, flops: self.work.flops * per_second }
    }
}

/// One size of prompt.
pub(super) struct Prompt {
    pub(super) tokens: u32,
    pub(super) first_token_seconds: Spread,
    pub(super) figure: Figure,
}

/// One batch of sequences of one length.
pub(super) struct Decode {
    pub(super) batch: u32,
    pub(super) context: u32,
    pub(super) figure: Figure,
}

/// Everything that was measured.
pub(super) struct Report {
    pub(super) model: String,
    pub(super) info: ModelInfo,
    pub(super) machine: Machine,
    pub(super) clock: &'static str,
    pub(super) runs: u32,
    pub(super) answer_tokens: u32,
    pub(super) step_rows: usize,
    pub(super) load_seconds: Spread,
    pub(super) prompts: Vec<Prompt>,
    pub(super) decodes: Vec<Decode>,
    pub(super) peak_rss_bytes: Option<u64>,
}

impl Report {
    /// The instruction that most of this model's products are made of, as far as its weights and inputs say.
    pub(super) fn arithmetic(&self) -> Arithmetic {
        arithmetic(self.info.dtype, self.info.activations, self.info.isa)
    }

    /// For a program.
    pub(super) fn json(&self) -> Value {
        let prompt = |prompt: &Prompt| {
            let mut object = self.figure(&prompt.figure);
            object.insert("tokens".into(), prompt.tokens.into());
            object.insert("first_token_seconds".into(), prompt.first_token_seconds.json());
            object
        };
        let decode = |decode: &Decode| {
            let mut object = self.figure(&decode.figure);
            object.insert("batch".into(), decode.batch.into());
            object.insert("context".into(), decode.context.into());
            object
        };
        let peaks = self.machine.arithmetic.iter();
        let peaks: Map<String, Value> =
            peaks.map(|(it, peak)| (it.name().to_owned(), peak.json())).collect();
        json!({
            "model": self.model,
            "architecture": self.info.architecture,
            "parameters": self.info.parameters,
            "dtype": self.info.dtype,
            "weight_bytes": self.info.weight_bytes,
            "threads": self.info.threads,
            "device": self.info.device,
            "isa": self.info.isa,
            "activations": self.info.activations,
            "clock": self.clock,
            "runs": self.runs,
            "answer_tokens": self.answer_tokens,
            "step_rows": self.step_rows,
            "limits": {
                "memory_read_bytes_per_second": {
                    "pages_4k": self.machine.small_pages.json(),
                    "pages_2m": self.machine.huge_pages.json(),
                },
                "operations_per_second": peaks,
            },
            "arithmetic": self.arithmetic().name(),
            "load_seconds": self.load_seconds.json(),
            "prompt": self.prompts.iter().map(prompt).collect::<Vec<_>>(),
            "decode": self.decodes.iter().map(decode).collect::<Vec<_>>(),
            "peak_rss_bytes": self.peak_rss_bytes,
        })
    }

    /// What prompts and batches have in common.
    fn figure(&self, figure: &Figure) -> Map<String, Value> {
        let (rate, machine) = (figure.rate(), &self.machine);
        let of_peaks = machine.arithmetic.iter();
        let of_peaks: Map<String, Value> = of_peaks
            .map(|(it, peak)| (it.name().to_owned(), share(rate.flops, peak.median).into()))
            .collect();
        let object = json!({
            "tokens_per_second": figure.per_second.json(),
            "tokens_per_work": figure.tokens_per_work,
            "bytes": figure.work.bytes,
            "operations": figure.work.flops,
            "experts_touched": figure.touched,
            "experts_touched_if_uniform": figure.touched_if_uniform,
            "bytes_per_second": rate.bytes,
            "operations_per_second": rate.flops,
            "share_of_memory_read": {
                "pages_4k": share(rate.bytes, machine.small_pages.median),
                "pages_2m": share(rate.bytes, machine.huge_pages.median),
            },
            "share_of_operations": of_peaks,
            "others_share_of_machine": figure.others,
        });
        if let Value::Object(object) = object { object } else { Map::new() }
    }
}

/// A part of a whole that may not have been measured.
pub(super) fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// See [`Report::arithmetic`].
fn arithmetic(dtype: &str, activations: &str, isa: &str) -> Arithmetic {
    match (dtype, activations, isa) {
        ("bfloat16", "bf16" | "bf16-rounded" | "int8", "amx") => Arithmetic::AmxBf16,
        ("bfloat16" | "float8_e4m3", "bf16" | "bf16-rounded" | "int8", "avx512") => {
            Arithmetic::Bf16
        }
        (dtype, "int8", _) if dtype.starts_with('Q') => Arithmetic::Int8,
        _ => Arithmetic::F32,
    }
}

#[cfg(test)]
mod tests;
