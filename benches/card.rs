//! Every CUDA kernel on a real card, at shapes of released models: microseconds, bytes and operations a second, and the
//! share of what the card could do at best. Where there is no card: one line that says why.

#![allow(clippy::print_stdout, reason = "this is what a bench is for")]

use std::process::ExitCode;

use hadal_benches::is_measured;
use hadal_engine::backend::cuda::{Shrink, count, time_kernels};

/// What shapes are divided by to see that everything runs.
const ONCE: Shrink = Shrink(64);

fn main() -> ExitCode {
    if let Err(why) = count() {
        println!("skipped: no device: {}", why.0);
        return ExitCode::SUCCESS;
    }
    let shrink = if is_measured() { Shrink::NONE } else { ONCE };
    match time_kernels(0, shrink, &mut |line| println!("{line}")) {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            println!("{} launches failed", failures.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
