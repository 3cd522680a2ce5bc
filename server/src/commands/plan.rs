//! `hadal plan`: what memory a model will take on this machine, whether it fits, and how fast it can decode.
//!
//! The bytes are the account that loading itself keeps. The speed is what the memory allows: a decode step must read
//! the weights that its sequences choose and their latent cache, and cannot be faster than that.

mod speed;

use std::fmt::Write;

use clap::Args;
use hadal_engine::backend::cpu::Cpu;
use hadal_engine::checkpoint::open_planned;
use hadal_engine::{Limits, MemoryPlan};
use serde_json::{Value, json};

use super::bench::machine::read_bandwidth;
use super::bench::work::Sizes;
use super::target::{TargetArgs, print_json, print_text, size, unless_told};
use super::{Failure, Outcome};
use crate::args::ComputeArgs;
use speed::Speed;

/// Passes over memory that the bandwidth is the median of.
const BANDWIDTH_RUNS: u32 = 3;

/// Flags of `hadal plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The model.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Tokens of one conversation, prompt and answer [default: what the checkpoint was made for]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<usize>,
    /// Answers that run at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) batch: u32,
    /// Memory for the latent cache, in MiB [default: chosen from the memory that is free]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=(1 << 30)))]
    pub(crate) cache_mb: Option<u64>,
    /// Bytes a second that memory is read with, in GB/s [default: measured, of the processor]
    #[arg(long, value_name = "GB/S", value_parser = bandwidth)]
    pub(crate) bandwidth: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// How to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

fn bandwidth(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "wanted a number above 0".into())
}

/// Plans and prints; fails when the model does not fit.
pub(crate) fn run(args: &PlanArgs) -> Outcome {
    let (name, plan, why, speed) = made(args).map_err(|failure| unless_told(args.json, failure))?;
    if args.json {
        print_json(&as_json(&name, &plan, &why, speed))?;
    } else {
        print_text(&as_text(&name, &plan, &why, speed, args.compute.quant_cache))?;
    }
    plan.check().map_err(|problem| Failure::Failed(problem.to_string()))
}

/// Plans.
fn made(args: &PlanArgs) -> Result<(String, MemoryPlan, String, Speed), Failure> {
    let located = args.target.locate()?;
    let (limits, options) = (limits(args), args.compute.options());
    let (plan, why) = MemoryPlan::on(&located.source, &limits, &options, args.compute.device)?;
    let checkpoint = open_planned(&located.source, options.quant)?;
    let threads = Cpu::new(&options)?.threads();
    let bandwidth = match (args.bandwidth, &plan.card) {
        (Some(gb), _) => Some(gb * 1e9),
        (None, None) => Some(read_bandwidth(threads, BANDWIDTH_RUNS).median),
        // The machine's own memory says nothing of a card's.
        (None, Some(_)) => None,
    };
    let batch = f64::from(args.batch);
    let sizes = Sizes::of(&checkpoint, &options)?;
    let token_bytes = plan.page_bytes as f64 / hadal_engine::step::PAGE_TOKENS as f64;
    let speed = Speed {
        batch,
        weight_bytes: sizes.weight_bytes(batch, sizes.touched_if_uniform(batch)),
        cache_bytes: batch * plan.limits.context_tokens_max as f64 * token_bytes,
        bandwidth,
    };
    Ok((located.name, plan, why, speed))
}

fn limits(args: &PlanArgs) -> Limits {
    let limits = Limits::default();
    let batch = args.batch as usize;
    Limits {
        context_tokens_max: args.context.unwrap_or(limits.context_tokens_max),
        sequences_max: batch,
        step_rows_max: limits.step_rows_max.max(batch),
        cache_bytes: args.cache_mb.map(|mib| mib << 20),
        ..limits
    }
}

/// For a person; `has_cache`: quantised weights are kept beside the checkpoint.
fn as_text(name: &str, plan: &MemoryPlan, why: &str, speed: Speed, has_cache: bool) -> String {
    let mut out = String::new();
    let limits = &plan.limits;
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{name}: context of {} tokens, {} at once\n",
        limits.context_tokens_max, limits.sequences_max
    );
    let device = plan.card.as_deref().unwrap_or("cpu");
    let _ = writeln!(out, "  on {device}: {why}\n");
    let mut row = |what: &str, bytes: u64, note: &str| {
        let line = format!("  {what:26} {:>10}  {note}", size(bytes));
        let _ = writeln!(out, "{}", line.trim_end());
    };
    if plan.card.is_none() {
        let note = "used in place; the system can drop and read them again";
        row("weights, mapped", plan.mapped_bytes, note);
    }
    if plan.encoded_bytes > 0 {
        let note = if has_cache {
            "in a cache that the first load writes; where it cannot, in memory of our own"
        } else {
            "quantised or in another order, in memory of our own"
        };
        row("weights, resident", plan.encoded_bytes, note);
    }
    let note = if plan.card.is_some() { "to the card" } else { "norms and biases" };
    row("weights, copied", plan.copied_bytes, note);
    let full = if plan.cache_bytes < plan.cache_bytes_full {
        format!("shared; all at full length would take {}", size(plan.cache_bytes_full))
    } else {
        "every sequence at full length".to_owned()
    };
    row("latent cache", plan.cache_bytes, &full);
    row("scratch", plan.scratch_bytes, "");
    row("text", plan.text_bytes, "tokenizer and template, an estimate");
    row("needed", plan.needed_bytes(), if plan.card.is_some() { "on the card" } else { "" });
    match plan.free_bytes {
        Some(free) => {
            row("free now", free, if plan.check().is_ok() { "it fits" } else { "it does not fit" });
        }
        None => {
            let _ = writeln!(out, "  this system does not say how much memory is free");
        }
    }
    out.push_str(&speed.as_text());
    out
}

/// For a program.
fn as_json(name: &str, plan: &MemoryPlan, why: &str, speed: Speed) -> Value {
    json!({
        "model": name,
        "device": plan.card.as_deref().unwrap_or("cpu"),
        "device_why": why,
        "context_tokens": plan.limits.context_tokens_max,
        "batch": plan.limits.sequences_max,
        "bytes": {
            "weights_mapped": plan.mapped_bytes,
            "weights_resident": plan.encoded_bytes,
            "weights_copied": plan.copied_bytes,
            "cache": plan.cache_bytes,
            "scratch": plan.scratch_bytes,
            "text": plan.text_bytes,
            "needed": plan.needed_bytes(),
            "free": plan.free_bytes,
        },
        "cache_bytes_full": plan.cache_bytes_full,
        "cache_pages": plan.n_page,
        "fits": plan.check().is_ok(),
        "memory_read_bytes_per_second": speed.bandwidth,
        "weight_bytes_per_step": speed.weight_bytes,
        "cache_bytes_per_step": speed.cache_bytes,
        "decode_tokens_per_second_max": { "short": speed.short(), "full": speed.long() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: fn() -> MemoryPlan = || MemoryPlan {
        card: None,
        limits: Limits { context_tokens_max: 640, sequences_max: 4, ..Limits::default() },
        mapped_bytes: 1000,
        encoded_bytes: 0,
        copied_bytes: 20,
        cache_bytes: 300,
        n_page: 3,
        page_bytes: 100,
        cache_bytes_full: 4000,
        scratch_bytes: 50,
        text_bytes: 7,
        free_bytes: Some(1376),
    };

    #[test]
    fn the_parts_make_the_sum_and_a_byte_too_few_does_not_fit() {
        let speed =
            Speed { batch: 4.0, weight_bytes: 2e9, cache_bytes: 2e9, bandwidth: Some(20e9) };
        let json = as_json("m", &PLAN(), "asked for", speed);
        assert_eq!(
            (json["bytes"]["needed"].as_u64(), json["fits"].as_bool()),
            (Some(1377), Some(false))
        );
        assert_eq!(json["decode_tokens_per_second_max"], json!({ "short": 40.0, "full": 20.0 }));
        let text = as_text("m", &PLAN(), "asked for", speed, false);
        assert!(text.contains("does not fit") && text.contains("would take 4.0 kB"), "{text}");
        assert!(text.contains("40.0 tokens/s") && text.contains("20.0 tokens/s"), "{text}");
        let unknown = as_text("m", &PLAN(), "asked for", Speed { bandwidth: None, ..speed }, false);
        assert!(unknown.contains("--bandwidth") && !unknown.contains("tokens/s"), "{unknown}");
        let roomy = MemoryPlan { free_bytes: Some(1377), cache_bytes_full: 300, ..PLAN() };
        let text = as_text("m", &roomy, "asked for", speed, false);
        assert!(text.contains("it fits") && text.contains("full length"), "{text}");
    }

    #[test]
    fn a_bandwidth_is_a_positive_number() {
        assert_eq!(bandwidth("18.5"), Ok(18.5));
        for wrong in ["0", "-1", "nan", "inf", "fast"] {
            assert!(bandwidth(wrong).is_err(), "{wrong}");
        }
    }
}
