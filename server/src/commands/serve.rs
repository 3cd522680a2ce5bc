//! `hadal serve`: the listener, the models and the chat page, until a signal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hadal_engine::backend::cpu::Cpu;
use hadal_engine::backend::cuda::Device;
use hadal_engine::checkpoint::Source;
use hadal_engine::{DeviceChoice, Progress};
use hadal_server::models::{EngineLoader, Loaded, Loader, StatsCell};
use hadal_server::{App, AppOptions, HttpLimits};
use tokio::net::TcpListener;

use super::locate::locate;
use super::unfinished::Unfinished;
use super::{Failure, Outcome, tell};
use crate::args::{ComputeArgs, LimitArgs, ModelArgs};
use crate::embedded;

/// Flags of `hadal serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The model.
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// How to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Bounds of a model.
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// The listener.
    #[command(flatten)]
    pub(crate) http: HttpArgs,
}

/// The listener, its keys and its limits.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Listening")]
pub(crate) struct HttpArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 5001)]
    pub(crate) port: u16,
    /// A key that requests must carry; repeat it for several
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Vec<String>,
    /// A file of keys, one a line; empty lines and lines that begin with # do not count
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// A web origin that may call the API from a browser; repeat it for several
    #[arg(long, value_name = "ORIGIN", value_parser = hadal_server::cors_origin)]
    pub(crate) cors_origin: Vec<String>,
    /// Largest request head, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(8..=1024))]
    pub(crate) head_kib: u64,
    /// Seconds in which a request's head must arrive
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = seconds())]
    pub(crate) head_timeout: u64,
    /// Largest request body, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) body_mib: u64,
    /// Seconds in which a request's body must arrive
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = seconds())]
    pub(crate) body_timeout: u64,
    /// Seconds after which a connection without a request is closed
    #[arg(long, value_name = "SECONDS", default_value_t = 75, value_parser = seconds())]
    pub(crate) idle_timeout: u64,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) connections: u64,
    /// Seconds that running answers may take to finish when the server is told to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) drain_timeout: u64,
}

fn seconds() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..=3600)
}

/// The engine, which says what cache it may be writing.
struct Noted {
    engine: EngineLoader,
    unfinished: Unfinished,
}

impl Loader for Noted {
    fn check(&self, source: &Source) -> hadal_engine::Result<()> {
        self.engine.check(source)
    }

    fn load(
        &self,
        source: &Source,
        progress: &mut dyn FnMut(Progress),
        stats: Arc<StatsCell>,
    ) -> hadal_engine::Result<Loaded> {
        let _making = self.unfinished.begin_cache(source, self.engine.cpu.quant);
        let loaded = self.engine.load(source, progress, stats)?;
        let info = &loaded.info;
        if self.engine.device != DeviceChoice::Cpu {
            tell(format_args!("on {}: {}", info.device, info.device_why));
        }
        Ok(loaded)
    }
}

/// Binds, says where, and serves until `stop` ends.
pub(crate) async fn run(
    args: &ServeArgs,
    unfinished: &Unfinished,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Outcome {
    let keys = keys(&args.http)?;
    // Wrong settings are refused here, not by the first request.
    let (limits, cpu) = (args.limits.limits(), args.compute.options());
    limits.check()?;
    Cpu::new(&cpu)?;
    let device = args.compute.device;
    if let DeviceChoice::Cuda(ordinal) = device {
        Device::open(ordinal)?;
    }
    let located = locate(&args.model)?;
    let beside = match &located.source {
        Source::Directory(path) | Source::File(path) => Some((located.name.clone(), path.clone())),
        Source::Embedded(_) => None,
    };
    let listener = bind(&args.http).await?;
    let address = listener
        .local_addr()
        .map_err(|problem| Failure::Failed(format!("cannot listen: {problem}")))?;
    if keys.is_empty() && !address.ip().is_loopback() {
        tell(format_args!(
            "warning: {address} can be reached from other machines, and no --api-key is set"
        ));
    }
    let app = App::new(AppOptions {
        root: args.model.root().to_owned(),
        default_model: located.name,
        embedded: Some(embedded::FILES),
        beside,
        loader: Arc::new(Noted {
            engine: EngineLoader { limits, cpu, device },
            unfinished: unfinished.clone(),
        }),
        api_keys: keys,
        cors_origins: args.http.cors_origin.clone(),
        http: http_limits(&args.http),
        drain_timeout: Duration::from_secs(args.http.drain_timeout),
    });
    app.load_default();
    tell(format_args!("listening on http://{address}"));
    hadal_server::run(listener, app, stop)
        .await
        .map_err(|problem| Failure::Failed(format!("the listener failed: {problem}")))
}

fn http_limits(http: &HttpArgs) -> HttpLimits {
    let bytes = |count: u64, shift: u32| usize::try_from(count << shift).unwrap_or(usize::MAX);
    HttpLimits {
        head_bytes: bytes(http.head_kib, 10),
        head_timeout: Duration::from_secs(http.head_timeout),
        body_bytes: bytes(http.body_mib, 20),
        body_timeout: Duration::from_secs(http.body_timeout),
        idle_timeout: Duration::from_secs(http.idle_timeout),
        connections: usize::try_from(http.connections).unwrap_or(usize::MAX),
    }
}

async fn bind(http: &HttpArgs) -> Result<TcpListener, Failure> {
    TcpListener::bind((http.host.as_str(), http.port)).await.map_err(|problem| {
        let hint = match problem.kind() {
            std::io::ErrorKind::AddrInUse => {
                ": something else listens there; --port takes another, 0 any that is free"
            }
            std::io::ErrorKind::PermissionDenied => {
                ": ports below 1024 want privileges; --port takes another"
            }
            _ => "",
        };
        Failure::Failed(format!(
            "cannot listen on {} port {}: {problem}{hint}",
            http.host, http.port
        ))
    })
}

/// Keys from the flags and the file.
fn keys(http: &HttpArgs) -> Result<Vec<String>, Failure> {
    let mut keys = http.api_key.clone();
    if let Some(path) = &http.api_key_file {
        let text = std::fs::read_to_string(path).map_err(|problem| Failure::file(path, problem))?;
        let lines =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let before = keys.len();
        keys.extend(lines.map(str::to_owned));
        // An empty file must not turn the lock off.
        if keys.len() == before {
            return Err(Failure::file(path, "holds no key"));
        }
    }
    // A header cannot carry these, so such a key would lock everybody out.
    if let Some(key) =
        keys.iter().find(|key| key.is_empty() || key.chars().any(|c| !c.is_ascii_graphic()))
    {
        return Err(Failure::Usage(format!(
            "a key of {} bytes is not made of printable ASCII without spaces",
            key.len()
        )));
    }
    Ok(keys)
}
