//! How long kernels take on a card, at shapes of released models, beside what the card could do at best.

use hadal_kernels::check::{Measure, Model, Shrink, Traffic, measures};
use hadal_kernels::{Card as _, geometry};

use super::device::{Device, Peaks};
use super::selftest::CheckCard;
use crate::error::Result;

/// Launches of which the median counts.
const LAUNCHES: u32 = 11;
/// Where nothing depends on the number.
const LAUNCHES_SHRUNK: u32 = 3;

/// Times every kernel that fits the card, one line for each launch; what failed.
///
/// A launch is timed alone, by events around it, with nothing of its input in a cache. `shrink` divides the shapes, for
/// a card whose times mean nothing.
///
/// # Errors
/// What the device refuses before the first launch.
pub fn time_kernels(
    ordinal: usize,
    shrink: Shrink,
    line: &mut dyn FnMut(&str),
) -> Result<Vec<String>> {
    let device = Device::open(ordinal)?;
    line(device.name());
    let peaks = device.peaks();
    Ok(times(&mut CheckCard::new(device), peaks, shrink, line))
}

/// The same on a card that is open.
pub(super) fn times(
    card: &mut CheckCard,
    peaks: Option<Peaks>,
    shrink: Shrink,
    line: &mut dyn FnMut(&str),
) -> Vec<String> {
    let at_best = peaks.map_or("not known".into(), |peaks| {
        format!(
            "{:.2} TB/s, {:.0} TFLOP/s of bf16, {:.0} TFLOP/s of f32",
            peaks.bytes_per_s / 1e12,
            peaks.mma_per_s / 1e12,
            peaks.f32_per_s / 1e12
        )
    });
    line(&format!("at best, by its clocks: {at_best}; median of {LAUNCHES} launches, caches cold"));
    if shrink != Shrink::NONE {
        line(&format!("rows, heads and widths divided by {}: rates are not told", shrink.0));
    }
    let mut failures = Vec::new();
    for measure in measures() {
        let name = measure.kernel.entry();
        if !geometry::fits(measure.kernel, &card.caps()) {
            line(&format!("{name:28} skipped: not for this card"));
            continue;
        }
        let launched: Vec<&Model> =
            measure.models.iter().filter(|model| model.is_launched()).collect();
        let mut tell = |shape: &str, traffic: &Traffic, seconds| match seconds {
            Ok(seconds) => {
                let rates = match shrink {
                    Shrink::NONE => rates(traffic, seconds, peaks),
                    _ => String::new(),
                };
                line(&format!("{name:28} {shape:26} {:9.1} us{rates}", seconds * 1e6));
            }
            Err(why) => {
                line(&format!("{name:28} {shape:26} failed: {why}"));
                failures.push(format!("{name}, {shape}: {why}"));
            }
        };
        for model in &launched {
            tell(model.name, &model.traffic, seconds(card, &measure, Some(model), shrink));
        }
        if launched.is_empty() {
            tell(&measure.shape, &measure.traffic, seconds(card, &measure, None, shrink));
        }
    }
    failures
}

/// Seconds of a launch, or why there are none.
fn seconds(
    card: &mut CheckCard,
    measure: &Measure,
    model: Option<&Model>,
    shrink: Shrink,
) -> std::result::Result<f64, String> {
    let n = if shrink == Shrink::NONE { LAUNCHES } else { LAUNCHES_SHRUNK };
    let timed = match model {
        Some(model) => measure.time_model(card, n, model, shrink),
        None => measure.time(card, n),
    };
    let seconds = timed.map_err(|why| why.to_string())?;
    seconds.ok_or_else(|| "the shape is one of another kernel".into())
}

/// Bytes and operations a second, and the share of what is possible of the one that takes longer.
fn rates(traffic: &Traffic, seconds: f64, peaks: Option<Peaks>) -> String {
    if seconds <= 0.0 {
        return String::new();
    }
    let (bytes, flops) = (traffic.memory_bytes as f64, traffic.flops as f64);
    let share = peaks.map_or(String::new(), |peaks| {
        let rate = if traffic.is_mma { peaks.mma_per_s } else { peaks.f32_per_s };
        let floor = (bytes / peaks.bytes_per_s).max(flops / rate);
        format!(" {:4.0} % of the best", 100.0 * floor / seconds)
    });
    format!(" {:8.0} GB/s {:8.2} TFLOP/s{share}", bytes / seconds / 1e9, flops / seconds / 1e12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_side_that_takes_longer() {
        let peaks = Peaks { bytes_per_s: 1e12, mma_per_s: 100e12, f32_per_s: 10e12 };
        let traffic = |memory_bytes, flops, is_mma| Traffic {
            memory_bytes,
            flops,
            is_mma,
            ..Traffic::default()
        };
        let of_memory = rates(&traffic(1_000_000, 1_000_000, true), 2e-6, Some(peaks));
        assert_eq!(of_memory, "      500 GB/s     0.50 TFLOP/s   50 % of the best");
        let of_mma = rates(&traffic(1000, 100_000_000, true), 4e-6, Some(peaks));
        assert!(of_mma.ends_with("  25 % of the best"), "{of_mma}");
        let of_f32 = rates(&traffic(1000, 10_000_000, false), 4e-6, Some(peaks));
        assert!(of_f32.ends_with("  25 % of the best"), "{of_f32}");
        assert!(!rates(&traffic(1, 1, false), 1.0, None).contains('%'));
        assert_eq!(rates(&traffic(1, 1, false), 0.0, Some(peaks)), "");
    }
}
