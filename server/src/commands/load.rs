//! Loads a model for a command of its own: progress on standard error, no registry, no HTTP.

use std::time::Instant;

use hadal_engine::checkpoint::{Source, TextFiles};
use hadal_engine::text::Text;
use hadal_engine::{DeviceChoice, Engine, Limits, LoadOptions, Progress};
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use super::unfinished::Unfinished;
use crate::args::Compute;

/// Loads a model and its text side with a progress bar, which shows on a terminal only.
pub(crate) fn load(
    source: &Source,
    compute: Compute,
    limits: Limits,
    unfinished: &Unfinished,
) -> Result<(Engine, Text), Failure> {
    let options = options(compute, limits);
    let (engine, text) = load_beside(source, options, unfinished, Text::open)?;
    Ok((engine, text?))
}

/// A model alone, with options of one's own.
pub(crate) fn load_with(
    source: &Source,
    options: LoadOptions,
    unfinished: &Unfinished,
) -> Result<Engine, Failure> {
    load_beside(source, options, unfinished, |_| ()).map(|(engine, ())| engine)
}

/// A model, and what `read` makes of its text side meanwhile.
fn load_beside<T: Send>(
    source: &Source,
    options: LoadOptions,
    unfinished: &Unfinished,
    read: impl FnOnce(&TextFiles) -> T + Send,
) -> Result<(Engine, T), Failure> {
    let bar = bar();
    let _making = unfinished.begin_cache(source, options.cpu.quant);
    let mut show = |progress: Progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    };
    let is_asked = options.device != DeviceChoice::Cpu;
    let loaded = Engine::load_beside(source, options, &mut show, read);
    bar.finish_and_clear();
    let (engine, made) = loaded?;
    // Who did not ask for anything else gets the processor.
    if is_asked {
        super::tell(format_args!("on {}: {}", engine.info.device, engine.info.device_why));
    }
    if let Some(warning) = &engine.info.warning {
        super::tell(format_args!("warning: {warning}"));
    }
    Ok((engine, made))
}

/// A clock that begins now, and nobody to hear the counters.
pub(crate) fn options(compute: Compute, limits: Limits) -> LoadOptions {
    let start = Instant::now();
    let Compute { cpu, device } = compute;
    LoadOptions {
        limits,
        cpu,
        device,
        now: Box::new(move || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)),
        on_stats: Box::new(|_| {}),
    }
}

/// The bar on standard error.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("loading {bar:30} {bytes}/{total_bytes}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_does_not_go_back() {
        let options = options(Compute::plain(), Limits::default());
        let first = (options.now)();
        assert!((options.now)() >= first);
    }

    #[test]
    fn what_cannot_be_loaded_is_a_failure_with_its_path() {
        let source = Source::Directory("no-such-folder".into());
        let problem = load(&source, Compute::plain(), Limits::default(), &Unfinished::default());
        let problem = problem.err();
        let Some(Failure::Failed(problem)) = problem else { panic!("{problem:?}") };
        assert!(problem.contains("no-such-folder"), "{problem}");
    }
}
