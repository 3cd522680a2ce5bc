//! `hadal selftest`: every kernel's own checks on a real card, and a report that can be pasted where it helps.

use clap::Args;
use hadal_engine::DeviceChoice;
use hadal_engine::backend::cuda::{self, Depth, Shrink};

use super::target::print_text;
use super::{Failure, Outcome, tell};
use crate::args::device;

/// Checks between two lines of progress.
const PROGRESS_CHECKS: usize = 100;

/// Flags of `hadal selftest`.
#[derive(Debug, Args)]
pub(crate) struct SelftestArgs {
    /// The card: cuda, or cuda:N for the card of that number
    #[arg(long, value_name = "DEVICE", default_value = "cuda", value_parser = device)]
    pub(crate) device: DeviceChoice,
    /// Run one check in ten
    #[arg(long)]
    pub(crate) quick: bool,
}

/// Checks and prints; fails when a check does.
pub(crate) fn run(args: &SelftestArgs) -> Outcome {
    let ordinal = match args.device {
        DeviceChoice::Cuda(ordinal) => ordinal,
        DeviceChoice::Auto => 0,
        DeviceChoice::Cpu => {
            return Err(Failure::Usage("kernels are checked on a card: --device cuda".into()));
        }
    };
    let depth = if args.quick { Depth::OneIn(10) } else { Depth::All };
    let report = cuda::report(ordinal, depth, Shrink::NONE, &mut |done, of| {
        if done.is_multiple_of(PROGRESS_CHECKS) || done == of {
            tell(format_args!("{done} of {of} checks"));
        }
    })?;
    let failed = report.failures.len();
    let head = format!("hadal {} selftest\n", env!("CARGO_PKG_VERSION"));
    let tail = format!("\n{} checks, {failed} failures\n", report.n_check);
    print_text(&(head + &report.text + &tail))?;
    if failed > 0 {
        return Err(Failure::Failed(format!("{failed} checks failed")));
    }
    Ok(())
}
