//! What all requests share: models, running generations, keys, limits. An `Arc` handed down, no statics.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::generate::Encoders;
use crate::generations::Generations;
use crate::http::HttpLimits;
use crate::http::auth::Keys;
use crate::metrics::Metrics;
use crate::models::{Loader, Models};

/// A checkpoint's files inside the binary: (file name, bytes).
pub type EmbeddedFiles = &'static [(&'static str, &'static [u8])];

/// What a server is made with.
pub struct AppOptions {
    /// The checkpoint root.
    pub root: PathBuf,
    /// The model that requests without one mean.
    pub default_model: String,
    /// The model inside the binary, listed as `sft/demo` unless a folder of that name exists.
    pub embedded: Option<EmbeddedFiles>,
    /// A checkpoint outside the root that is served all the same, under its name.
    pub beside: Option<(String, PathBuf)>,
    /// How checkpoints become running models.
    pub loader: Arc<dyn Loader>,
    /// Keys of which each request must carry one; empty: none is asked for.
    pub api_keys: Vec<String>,
    /// Web origins that may call the API from a browser.
    pub cors_origins: Vec<String>,
    /// Bounds of connections and requests.
    pub http: HttpLimits,
    /// How long running answers may take to finish after the stop signal.
    pub drain_timeout: Duration,
}

/// What all requests share.
pub struct App {
    pub(crate) models: Arc<Models>,
    pub(crate) generations: Generations,
    pub(crate) encoders: Encoders,
    pub(crate) keys: Keys,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: HttpLimits,
    pub(crate) drain_timeout: Duration,
    is_draining: AtomicBool,
    /// Requests being answered, streams included.
    active: watch::Sender<usize>,
}

impl App {
    /// A server's state; nothing is loaded yet.
    pub fn new(options: AppOptions) -> Arc<Self> {
        let keys = Keys::new(&options.api_keys, options.cors_origins);
        Arc::new(Self {
            models: Arc::new(Models::new(
                options.root,
                options.default_model,
                options.embedded,
                options.beside,
                options.loader,
            )),
            generations: Generations::default(),
            encoders: Encoders::default(),
            keys,
            metrics: Arc::new(Metrics::default()),
            limits: options.http,
            drain_timeout: options.drain_timeout,
            is_draining: AtomicBool::new(false),
            active: watch::Sender::new(0),
        })
    }

    /// Starts loading the default model, if it is there.
    pub fn load_default(self: &Arc<Self>) {
        let app = Arc::clone(self);
        tokio::spawn(async move {
            let name = app.models.default_name().to_owned();
            if let Err(problem) = app.models.lease(&name).await {
                tracing::warn!("the default model `{name}` is not loaded: {}", problem.sentence());
            }
        });
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    pub(crate) fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Counts a request while the guard lives.
    pub(crate) fn activity(self: &Arc<Self>) -> Activity {
        self.active.send_modify(|n| *n += 1);
        Activity(Arc::clone(self))
    }

    /// Waits until no request is being answered.
    pub(crate) async fn quiet(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.active.subscribe().wait_for(|n| *n == 0).await;
    }
}

/// A request being answered.
pub(crate) struct Activity(Arc<App>);

impl Drop for Activity {
    fn drop(&mut self) {
        self.0.active.send_modify(|n| *n = n.saturating_sub(1));
    }
}
