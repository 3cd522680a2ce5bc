//! How tokens are drawn: the flags of `chat` and `run`, what `/set` changes, and where defaults come from.

use std::hash::{BuildHasher, Hasher, RandomState};

use clap::Args;
use hadal_engine::Sampling;
use hadal_engine::checkpoint::GenerationConfig;

/// How to draw. What is not given comes from the checkpoint, else from the chat page's defaults.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// 0 always takes the likeliest token; higher is more varied (0 to 5)
    #[arg(long, value_name = "T", value_parser = |s: &str| number(s, 0.0, 5.0))]
    pub(crate) temperature: Option<f32>,
    /// Draw from the likeliest tokens that together have this probability (above 0, to 1; 1 is off)
    #[arg(long, value_name = "P", value_parser = |s: &str| number(s, f32::MIN_POSITIVE, 1.0))]
    pub(crate) top_p: Option<f32>,
    /// Draw from this many likeliest tokens; 0 is off
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Leave out tokens below this share of the likeliest one's probability (0 to 1; 0 is off)
    #[arg(long, value_name = "P", value_parser = |s: &str| number(s, 0.0, 1.0))]
    pub(crate) min_p: Option<f32>,
    /// Makes tokens that were used less likely (above 0, to 10; 1 is off)
    #[arg(long, value_name = "R", value_parser = |s: &str| number(s, f32::MIN_POSITIVE, 10.0))]
    pub(crate) repetition_penalty: Option<f32>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_tokens: u32,
    /// Same seed, same prompt, same answer [default: another one each time]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// The chat page's defaults, for what neither the flags nor the checkpoint say.
const TEMPERATURE: f32 = 0.7;
const TOP_P: f32 = 0.9;
const TOP_K: u32 = 50;
const REPETITION: f32 = 1.1;

impl SamplingArgs {
    /// As the engine wants it: the flags, else the checkpoint's own defaults, else the chat page's.
    pub(crate) fn resolve(&self, checkpoint: &GenerationConfig) -> Sampling {
        Sampling {
            temperature: self.temperature.or(checkpoint.temperature).unwrap_or(TEMPERATURE),
            top_k: self.top_k.or(checkpoint.top_k).unwrap_or(TOP_K),
            top_p: self.top_p.or(checkpoint.top_p).unwrap_or(TOP_P),
            min_p: self.min_p.unwrap_or(0.0),
            repetition: self
                .repetition_penalty
                .or(checkpoint.repetition_penalty)
                .unwrap_or(REPETITION),
            // The standard library seeds its hash maps from the system's randomness; one such seed is enough here.
            seed: self.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()),
            ..Sampling::greedy()
        }
    }
}

/// A number between two bounds, both allowed.
pub(crate) fn number(text: &str, low: f32, high: f32) -> Result<f32, String> {
    match text.trim().parse::<f32>() {
        Ok(value) if (low..=high).contains(&value) => Ok(value),
        _ if low == f32::MIN_POSITIVE => Err(format!("wanted a number above 0, up to {high}")),
        _ => Err(format!("wanted a number from {low} to {high}")),
    }
}

/// `/set`: the flags' names, with the flags' ranges.
pub(crate) fn set(sampling: &mut SamplingArgs, rest: &str) -> Result<(), String> {
    let (name, value) = rest.split_once(char::is_whitespace).ok_or("wanted /set NAME VALUE")?;
    let value = value.trim();
    let whole = |what: &str| value.parse::<u64>().map_err(|_| format!("{name}: wanted {what}"));
    let ranged =
        |low, high| number(value, low, high).map_err(|problem| format!("{name}: {problem}"));
    match name.replace('_', "-").as_str() {
        "temperature" => sampling.temperature = Some(ranged(0.0, 5.0)?),
        "top-p" => sampling.top_p = Some(ranged(f32::MIN_POSITIVE, 1.0)?),
        "min-p" => sampling.min_p = Some(ranged(0.0, 1.0)?),
        "repetition-penalty" => {
            sampling.repetition_penalty = Some(ranged(f32::MIN_POSITIVE, 10.0)?);
        }
        "top-k" => {
            let k = u32::try_from(whole("a whole number, 0 for off")?);
            sampling.top_k = Some(k.map_err(|_| format!("{name}: wanted at most {}", u32::MAX))?);
        }
        "max-tokens" => match u32::try_from(whole("a whole number from 1 to 1000000")?) {
            Ok(n @ 1..=1_000_000) => sampling.max_tokens = n,
            _ => return Err(format!("{name}: wanted a whole number from 1 to 1000000")),
        },
        "seed" => sampling.seed = Some(whole("a whole number")?),
        _ => return Err(format!("no setting `{name}`; /help lists them")),
    }
    Ok(())
}

/// `/set` alone.
pub(crate) fn shown(sampling: &SamplingArgs) -> String {
    fn or_default<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(|| "the model's".into(), |value| value.to_string())
    }
    format!(
        "temperature {}, top-p {}, top-k {}, min-p {}, repetition-penalty {}, max-tokens {}, seed {}\n",
        or_default(sampling.temperature),
        or_default(sampling.top_p),
        or_default(sampling.top_k),
        or_default(sampling.min_p),
        or_default(sampling.repetition_penalty),
        sampling.max_tokens,
        sampling.seed.map_or_else(|| "another each time".into(), |seed| seed.to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_names_of_the_flags() {
        let mut sampling = SamplingArgs { max_tokens: 512, ..SamplingArgs::default() };
        for setting in [
            "temperature 0.5",
            "top_k  7",
            "min-p 0.1",
            "max-tokens 9",
            "seed 3",
            "repetition-penalty 1",
        ] {
            set(&mut sampling, setting).unwrap();
        }
        let all = shown(&sampling);
        let want = "temperature 0.5, top-p the model's, top-k 7, min-p 0.1, repetition-penalty 1, max-tokens 9, seed 3\n";
        assert_eq!(all, want);
    }

    #[test]
    fn values_out_of_range_change_nothing_and_say_what_is_wanted() {
        let mut sampling = SamplingArgs::default();
        for wrong in [
            "temperature -1",
            "temperature nan",
            "top-p 0",
            "top-k 4294967296",
            "max-tokens 0",
            "seed x",
        ] {
            let problem = set(&mut sampling, wrong).unwrap_err();
            assert!(problem.contains("wanted"), "{problem}");
        }
        assert!(set(&mut sampling, "colour 1").unwrap_err().contains("no setting"));
        assert!(set(&mut sampling, "seed").unwrap_err().contains("NAME VALUE"));
        assert_eq!(shown(&sampling), shown(&SamplingArgs::default()));
    }

    #[test]
    fn flags_come_before_the_checkpoint_and_the_checkpoint_before_the_page() {
        let checkpoint = GenerationConfig {
            temperature: Some(0.3),
            top_p: Some(0.8),
            ..GenerationConfig::default()
        };
        let args =
            SamplingArgs { temperature: Some(0.0), seed: Some(5), ..SamplingArgs::default() };
        let sampling = args.resolve(&checkpoint);
        assert_eq!(
            (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed),
            (0.0, 0.8, 50, 5)
        );
        let other = SamplingArgs::default();
        assert_ne!(other.resolve(&checkpoint).seed, other.resolve(&checkpoint).seed);
    }
}
