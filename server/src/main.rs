//! The binary: the only place that reads the command line, the environment and signals. What it reads travels on as
//! values; what goes wrong comes back as one sentence and an exit status: 2 for a wrong command line, 1 for the rest.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod embedded;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use hadal_engine::backend::cpu::Isa;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use args::{Cli, Command};
use commands::{Failure, Outcome, bench, chat, convert, inspect, logits, plan, run, serve, verify};

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
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            runtime()?.block_on(async { serve::run(&args, shutdown()?).await })
        }
        Command::Chat(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            let interrupted = async || {
                // A terminal that sends no signals cannot interrupt.
                if tokio::signal::ctrl_c().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            chat::run(&args, &runtime()?, interrupted)
        }
        Command::Run(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            run::run(&args, &runtime()?)
        }
        Command::Inspect(args) => inspect::run(&args),
        Command::Plan(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            plan::run(&args)
        }
        Command::Convert(args) => convert::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Logits(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            logits::run(&args)
        }
        Command::Bench(mut args) => {
            args.compute.isa = args.compute.isa.or(isa);
            bench::run(&args)
        }
    }
}

fn runtime() -> Result<Runtime, Failure> {
    Runtime::new()
        .map_err(|problem| Failure::Failed(format!("cannot start the runtime: {problem}")))
}

/// Ends at the first SIGTERM or SIGINT; the second one ends the process at once.
fn shutdown() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let listen = |kind| {
        signal(kind)
            .map_err(|problem| Failure::Failed(format!("cannot listen for signals: {problem}")))
    };
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("stopping: running answers may finish, a second signal ends them");
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            // 128 + SIGINT, as shells report it; nothing is left to be tidied up.
            std::process::exit(130);
        });
    })
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
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
