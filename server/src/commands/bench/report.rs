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
        ("bfloat16", "bf16", "amx") => Arithmetic::AmxBf16,
        ("bfloat16", "bf16" | "int8", "avx512" | "amx") => Arithmetic::Bf16,
        (dtype, "int8", _) if dtype.starts_with('Q') => Arithmetic::Int8,
        _ => Arithmetic::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::tables;

    fn spread(median: f64) -> Spread {
        Spread { median, min: median, max: median }
    }

    fn report() -> Report {
        let figure = Figure {
            per_second: spread(8.0),
            work: Work { bytes: 1e9, flops: 5e9 },
            tokens_per_work: 4.0,
            touched: 60.0,
            touched_if_uniform: 61.5,
            others: Some(0.25),
        };
        Report {
            model: "sft/demo".into(),
            info: ModelInfo {
                architecture: "deepseek_v3".into(),
                parameters: 1_000_000,
                dtype: "Q8_0",
                context_length: 64,
                vocab_size: 10,
                weight_bytes: 2_000_000,
                cache_bytes: 0,
                n_page: 1,
                scratch_bytes: 0,
                isa: "avx512",
                activations: "f32",
                threads: 1,
                generation: hadal_engine::checkpoint::GenerationConfig::default(),
                warning: None,
            },
            machine: Machine {
                small_pages: spread(8e9),
                huge_pages: spread(10e9),
                arithmetic: vec![
                    (Arithmetic::F32, spread(100e9)),
                    (Arithmetic::Int8, spread(400e9)),
                ],
            },
            clock: "cpu",
            runs: 3,
            answer_tokens: 32,
            step_rows: 128,
            load_seconds: spread(0.5),
            prompts: vec![Prompt { tokens: 64, first_token_seconds: spread(0.125), figure }],
            decodes: vec![Decode { batch: 4, context: 2048, figure }],
            peak_rss_bytes: Some(3_000_000),
        }
    }

    #[test]
    fn json_has_every_figure_with_its_work_and_its_shares() {
        let json = report().json();
        let decode = &json["decode"][0];
        assert_eq!((decode["batch"].as_u64(), decode["context"].as_u64()), (Some(4), Some(2048)));
        // Two steps a second.
        assert_eq!(decode["bytes_per_second"], 2e9);
        assert_eq!(decode["operations_per_second"], 10e9);
        assert_eq!(decode["share_of_memory_read"], json!({ "pages_4k": 0.25, "pages_2m": 0.2 }));
        assert_eq!(decode["share_of_operations"], json!({ "f32": 0.1, "int8": 0.025 }));
        assert_eq!(decode["experts_touched"], 60.0);
        assert_eq!(decode["others_share_of_machine"], 0.25);
        let prompt = &json["prompt"][0];
        assert_eq!(prompt["tokens"], 64);
        assert_eq!(prompt["first_token_seconds"]["median"], 0.125);
        assert_eq!(json["limits"]["memory_read_bytes_per_second"]["pages_2m"]["median"], 10e9);
        assert_eq!(json["limits"]["operations_per_second"]["int8"]["median"], 400e9);
        assert_eq!(
            (json["clock"].as_str(), json["arithmetic"].as_str()),
            (Some("cpu"), Some("f32"))
        );
        for key in
            ["model", "threads", "isa", "step_rows", "load_seconds", "peak_rss_bytes", "runs"]
        {
            assert!(!json[key].is_null(), "{key}");
        }
    }

    #[test]
    fn tables_name_every_figure_and_the_peak_they_are_shares_of() {
        let text = tables::tables(&report());
        for part in [
            "processor's time",
            "decode 4 at 2048",
            "prompt 64",
            "of f32",
            "25 %",
            "int8, GFLOP/s",
            "first token after 64, ms",
            "peak memory of this process 3.0 MB",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
    }

    #[test]
    fn the_peak_is_that_of_weights_and_inputs() {
        assert_eq!(arithmetic("bfloat16", "bf16", "amx"), Arithmetic::AmxBf16);
        assert_eq!(arithmetic("bfloat16", "bf16", "avx512"), Arithmetic::Bf16);
        assert_eq!(arithmetic("bfloat16", "bf16", "avx2"), Arithmetic::F32);
        assert_eq!(arithmetic("bfloat16", "f32", "avx512"), Arithmetic::F32);
        assert_eq!(arithmetic("Q4_0", "bf16", "avx512"), Arithmetic::F32, "decoded in registers");
        assert_eq!(arithmetic("Q4_0", "int8", "avx512"), Arithmetic::Int8);
        assert_eq!(arithmetic("float16", "int8", "avx512"), Arithmetic::F32);
    }

    #[test]
    fn nothing_measured_is_no_share() {
        assert_eq!(share(1.0, 0.0), 0.0);
        assert_eq!(share(1.0, 4.0), 0.25);
    }
}
