//! The report as tables, for a person.

use std::fmt::Write;

use super::report::{Figure, Report, share};
use super::spread::Spread;

/// All of it. Writing to a string cannot fail.
pub(super) fn tables(report: &Report) -> String {
    let mut out = String::new();
    head(&mut out, report);
    limits(&mut out, report);
    figures(&mut out, report);
    if let Some(bytes) = report.peak_rss_bytes {
        let _ = writeln!(out, "\npeak memory of this process {:.1} MB", bytes as f64 / 1e6);
    }
    out
}

fn head(out: &mut String, report: &Report) {
    let info = &report.info;
    let _ = writeln!(
        out,
        "{}: {}, {:.1} M parameters, {} ({:.1} MB)",
        report.model,
        info.architecture,
        info.parameters as f64 / 1e6,
        info.dtype,
        info.weight_bytes as f64 / 1e6,
    );
    let clock = if report.clock == "cpu" { "processor's time" } else { "time on the wall" };
    let threads = if info.threads == 1 { "thread" } else { "threads" };
    let _ = writeln!(
        out,
        "{} {threads}, {}, {} activations, {} rows a step, median of {} runs, {clock}\n",
        info.threads, info.isa, info.activations, report.step_rows, report.runs,
    );
}

/// What the machine gives, and single times.
fn limits(out: &mut String, report: &Report) {
    let _ = writeln!(out, "{:30} {:>9} {:>9} {:>9}", "", "median", "min", "max");
    let mut row = |name: &str, spread: Spread| {
        let Spread { median, min, max } = spread;
        let _ = writeln!(out, "{name:30} {median:9.2} {min:9.2} {max:9.2}");
    };
    let giga = |spread: Spread| spread.map(|x| x / 1e9);
    row("memory read, 4 KiB pages, GB/s", giga(report.machine.small_pages));
    row("memory read, 2 MiB pages, GB/s", giga(report.machine.huge_pages));
    for (arithmetic, peak) in &report.machine.arithmetic {
        row(&format!("{}, GFLOP/s", arithmetic.name()), giga(*peak));
    }
    row("load, s", report.load_seconds);
    for prompt in &report.prompts {
        let name = format!("first token after {}, ms", prompt.tokens);
        row(&name, prompt.first_token_seconds.map(|seconds| seconds * 1e3));
    }
}

fn figures(out: &mut String, report: &Report) {
    let arithmetic = report.arithmetic();
    let peak = report.machine.peak(arithmetic).unwrap_or(0.0);
    let of_peak = format!("of {}", arithmetic.name());
    let _ = writeln!(
        out,
        "\n{:20} {:>9} {:>9} {:>9} {:>9} {:>7} {:>6} {:>6} {:>9} {:>8} {:>11} {:>7}",
        "",
        "tokens/s",
        "min",
        "max",
        "MB",
        "GB/s",
        "of 4K",
        "of 2M",
        "GFLOP",
        "GFLOP/s",
        of_peak,
        "others"
    );
    let mut row = |name: &str, figure: &Figure| {
        let Spread { median, min, max } = figure.per_second;
        let (rate, machine) = (figure.rate(), &report.machine);
        let of = |part: f64, whole: f64| format!("{:.0} %", 100.0 * share(part, whole));
        let others = figure.others.map_or_else(String::new, |others| of(others, 1.0));
        let _ = writeln!(
            out,
            "{name:20} {median:9.2} {min:9.2} {max:9.2} {:9.1} {:7.2} {:>6} {:>6} {:9.3} {:8.2} {:>11} {others:>7}",
            figure.work.bytes / 1e6,
            rate.bytes / 1e9,
            of(rate.bytes, machine.small_pages.median),
            of(rate.bytes, machine.huge_pages.median),
            figure.work.flops / 1e9,
            rate.flops / 1e9,
            of(rate.flops, peak),
        );
    };
    for prompt in &report.prompts {
        row(&format!("prompt {}", prompt.tokens), &prompt.figure);
    }
    for decode in &report.decodes {
        let name = match decode.context {
            0 => format!("decode {}", decode.batch),
            context => format!("decode {} at {context}", decode.batch),
        };
        row(&name, &decode.figure);
    }
}
