//! SIGTERM and SIGINT: a server stops by itself, a command ends at once, and neither leaves anything half made.

use std::sync::mpsc::channel;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::commands::Failure;
use crate::commands::unfinished::Unfinished;

/// Ends at the first SIGTERM or SIGINT; the second one ends the process at once.
pub(crate) fn shutdown(
    unfinished: Unfinished,
) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
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
            unfinished.give_up();
            // 128 + SIGINT, as shells report it.
            std::process::exit(130);
        });
    })
}

/// Removes what is half made at SIGTERM or SIGINT and ends the process, as it would end anyway. When nothing is being
/// made, `ends` says whether the signal ends it.
pub(crate) fn tidy_at_signals(
    unfinished: Unfinished,
    ends: impl Fn(SignalKind) -> bool + Send + 'static,
) {
    let (ready, is_ready) = channel::<()>();
    std::thread::spawn(move || {
        // Without, the process ends as it would anyway, and the next one tidies up.
        let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
        let kind = runtime.block_on(async {
            let kinds = (SignalKind::terminate(), SignalKind::interrupt());
            let (Ok(mut terminate), Ok(mut interrupt)) = (signal(kinds.0), signal(kinds.1)) else {
                return None;
            };
            drop(ready);
            loop {
                let kind = tokio::select! {
                    _ = terminate.recv() => kinds.0,
                    _ = interrupt.recv() => kinds.1,
                };
                if unfinished.give_up() || ends(kind) {
                    return Some(kind);
                }
            }
        });
        if let Some(kind) = kind {
            // As shells report a process that a signal has ended.
            std::process::exit(128 + kind.as_raw_value());
        }
    });
    // Until it listens or has given up, which both drop the sender.
    let _ = is_ready.recv();
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
