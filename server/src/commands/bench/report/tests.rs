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
            device: "cpu".into(),
            device_why: "asked for".into(),
            isa: "avx512",
            activations: "f32",
            threads: 1,
            generation: hadal_engine::checkpoint::GenerationConfig::default(),
            warning: None,
        },
        machine: Machine {
            small_pages: spread(8e9),
            huge_pages: spread(10e9),
            arithmetic: vec![(Arithmetic::F32, spread(100e9)), (Arithmetic::Int8, spread(400e9))],
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
    assert_eq!((json["clock"].as_str(), json["arithmetic"].as_str()), (Some("cpu"), Some("f32")));
    for key in ["model", "threads", "isa", "step_rows", "load_seconds", "peak_rss_bytes", "runs"] {
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
    assert_eq!(arithmetic("bfloat16", "int8", "amx"), Arithmetic::AmxBf16);
    assert_eq!(arithmetic("bfloat16", "bf16", "avx512"), Arithmetic::Bf16);
    assert_eq!(arithmetic("bfloat16", "bf16-rounded", "avx512"), Arithmetic::Bf16);
    assert_eq!(arithmetic("bfloat16", "bf16-rounded", "amx"), Arithmetic::AmxBf16);
    assert_eq!(arithmetic("bfloat16", "bf16", "avx2"), Arithmetic::F32);
    assert_eq!(arithmetic("bfloat16", "f32", "avx512"), Arithmetic::F32);
    assert_eq!(arithmetic("bfloat16", "bf16", "avx512-vnni"), Arithmetic::F32, "widened");
    assert_eq!(arithmetic("Q4_0", "bf16", "avx512"), Arithmetic::F32, "decoded in registers");
    assert_eq!(arithmetic("Q4_0", "int8", "avx512"), Arithmetic::Int8);
    assert_eq!(arithmetic("float16", "int8", "avx512"), Arithmetic::F32);
    assert_eq!(arithmetic("float8_e4m3", "int8", "avx512"), Arithmetic::Bf16);
    assert_eq!(arithmetic("float8_e4m3", "f32", "avx512"), Arithmetic::F32);
    assert_eq!(arithmetic("float8_e4m3", "bf16", "amx"), Arithmetic::F32, "factors");
}

#[test]
fn nothing_measured_is_no_share() {
    assert_eq!(share(1.0, 0.0), 0.0);
    assert_eq!(share(1.0, 4.0), 0.25);
}
