//! The binary: the only place that reads the command line, the environment and signals (`signals.rs`). What it reads
//! travels on as values; what goes wrong comes back as one sentence and an exit status: 2 for a wrong command line, 1 for
//! the rest.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod embedded;
mod signals;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use hadal_engine::backend::cpu::Isa;
use tokio::runtime::Runtime;
use tokio::signal::unix::SignalKind;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use args::{Cli, Command, ComputeArgs};
use commands::unfinished::Unfinished;
use commands::{
    Failure, Outcome, bench, chat, convert, inspect, logits, plan, run, selftest, serve, verify,
};
use signals::{shutdown, tidy_at_signals};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // Help and version come here too, with their own status. Where nobody reads, nobody is told.
            let _ = message.print();
            return ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(2));
        }
    };
    let (status, problem) = match begin(cli) {
        Ok(()) | Err(Failure::ReaderGone) => return ExitCode::SUCCESS,
        Err(Failure::Usage(problem)) => (2, problem),
        Err(Failure::Failed(problem)) => (1, problem),
    };
    commands::tell(format_args!("hadal: {problem}"));
    ExitCode::from(status)
}

fn begin(cli: Cli) -> Outcome {
    let level = log_level(environment("HADAL_LOG")?.as_deref())?;
    let is_coloured = std::io::stderr().is_terminal() && environment("NO_COLOR")?.is_none();
    // Only a second call could fail.
    let _ = tracing::subscriber::set_global_default(log(level, is_coloured, std::io::stderr));
    let isa = environment("HADAL_ISA")?;
    let isa = isa
        .map(|name| args::isa(&name).map_err(|problem| usage("HADAL_ISA", &name, &problem)))
        .transpose()?;
    dispatch(cli, isa)
}

/// Log lines, with a terminal's colours or plain.
fn log<W>(level: LevelFilter, is_coloured: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_writer(writer)
        .with_max_level(level)
        .with_ansi(is_coloured)
        .with_target(false)
        .finish()
}

fn dispatch(cli: Cli, isa: Option<Isa>) -> Outcome {
    let unfinished = Unfinished::default();
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            let stopped = runtime()?.block_on(async {
                let stop = shutdown(unfinished.clone())?;
                serve::run(&args, &unfinished, stop).await
            });
            // A load that is under way ends with the process.
            unfinished.give_up();
            stopped
        }
        Command::Chat(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            let interrupted = async || {
                // A terminal that sends no signals cannot interrupt.
                if tokio::signal::ctrl_c().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            if args.compute.quant_cache {
                // Once it is loaded, Ctrl-C at a terminal is for the answer alone.
                tidy_at_signals(unfinished.clone(), |signal| {
                    signal != SignalKind::interrupt() || !std::io::stdin().is_terminal()
                });
            }
            chat::run(&args, &runtime()?, &unfinished, interrupted)
        }
        Command::Run(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            tidy_a_cache(&args.compute, &unfinished);
            run::run(&args, &runtime()?, &unfinished)
        }
        Command::Inspect(args) => inspect::run(&args),
        Command::Plan(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            plan::run(&args)
        }
        Command::Convert(args) => {
            tidy_at_signals(unfinished.clone(), |_| true);
            convert::run(&args, &unfinished)
        }
        Command::Verify(args) => verify::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Logits(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            tidy_a_cache(&args.compute, &unfinished);
            logits::run(&args, &unfinished)
        }
        Command::Bench(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            tidy_a_cache(&args.compute, &unfinished);
            bench::run(&args, &unfinished)
        }
    }
}

fn runtime() -> Result<Runtime, Failure> {
    Runtime::new()
        .map_err(|problem| Failure::Failed(format!("cannot start the runtime: {problem}")))
}

/// Of a command that only loads, a signal may leave a cache half made, and nothing else.
fn tidy_a_cache(compute: &ComputeArgs, unfinished: &Unfinished) {
    if compute.quant_cache {
        tidy_at_signals(unfinished.clone(), |_| true);
    }
}

/// A variable of the environment; one that is empty is not set.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn environment(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::Usage(format!("{name} is not UTF-8")))
        }
    }
}

fn usage(name: &str, value: &str, problem: &str) -> Failure {
    Failure::Usage(format!("{name} is `{value}`: {problem}"))
}

/// `HADAL_LOG`: off, error, warn (the default), info, debug or trace.
fn log_level(name: Option<&str>) -> Result<LevelFilter, Failure> {
    let Some(name) = name else { return Ok(LevelFilter::WARN) };
    name.parse()
        .map_err(|_| usage("HADAL_LOG", name, "wanted off, error, warn, info, debug or trace"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What one warning looks like.
    fn logged(is_coloured: bool) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let writer = move || Lines(Arc::clone(&sink));
        let log = log(LevelFilter::WARN, is_coloured, writer);
        tracing::subscriber::with_default(log, || tracing::warn!("the disk is full"));
        let lines = lines.lock().unwrap();
        String::from_utf8(lines.clone()).unwrap()
    }

    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_is_no_terminal_has_no_escapes() {
        let plain = logged(false);
        assert!(plain.contains("WARN") && plain.contains("the disk is full"), "{plain}");
        assert!(!plain.contains('\u{1b}'), "{plain:?}");
        assert!(logged(true).contains('\u{1b}'));
    }

    #[test]
    fn log_levels_have_names() {
        assert_eq!(log_level(None), Ok(LevelFilter::WARN));
        assert_eq!(log_level(Some("debug")), Ok(LevelFilter::DEBUG));
        let Err(Failure::Usage(problem)) = log_level(Some("loud")) else { panic!("was taken") };
        assert!(problem.contains("HADAL_LOG") && problem.contains("loud"), "{problem}");
    }
}
