//! A server on a port of its own, over a checkpoint root of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hadal_server::models::Loader;
use hadal_server::{App, AppOptions, HttpLimits};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{Answer, Call};
use crate::scripted::{PATIENCE, Script, ScriptedLoader, golden};

/// A running server.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// What the scripted engine does and saw.
    pub script: Arc<Script>,
    /// The checkpoint root.
    pub root: TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<std::io::Result<()>>,
}

/// What a server is made with, but for script and loader.
pub struct Setup {
    /// Bounds.
    pub http: HttpLimits,
    /// Keys.
    pub keys: Vec<String>,
    /// Origins.
    pub origins: Vec<String>,
    /// Drain time.
    pub drain: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            http: HttpLimits::default(),
            keys: Vec::new(),
            origins: Vec::new(),
            drain: Duration::from_secs(5),
        }
    }
}

/// Copies a golden checkpoint under a name.
pub fn copy_model(root: &Path, name: &str) {
    let to = root.join(name);
    std::fs::create_dir_all(&to).unwrap();
    for file in std::fs::read_dir(golden("v3-tied-f32")).unwrap() {
        let file = file.unwrap();
        let skip = file.file_name().to_str().is_some_and(|name| name.starts_with("golden"));
        if !skip {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

impl Server {
    /// Over a script, with the models `sft/demo`, `pretrain/base`, `rl/grpo` and `world/one`.
    pub async fn scripted(script: Script) -> Self {
        Self::with(script, Setup::default()).await
    }

    /// Over a script and a setup.
    pub async fn with(script: Script, setup: Setup) -> Self {
        let script = Arc::new(script);
        let loader = Arc::new(ScriptedLoader(Arc::clone(&script)));
        Self::start(loader, script, setup).await
    }

    /// Over any loader.
    pub async fn start(loader: Arc<dyn Loader>, script: Arc<Script>, setup: Setup) -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["sft/demo", "pretrain/base", "rl/grpo", "world/one"] {
            copy_model(root.path(), name);
        }
        let app = App::new(AppOptions {
            root: root.path().to_owned(),
            default_model: "sft/demo".into(),
            embedded: None,
            beside: None,
            loader,
            api_keys: setup.keys,
            cors_origins: setup.origins,
            http: setup.http,
            drain_timeout: setup.drain,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(hadal_server::run(listener, app, async move {
            // A dropped sender stops the server too.
            let _ = stopped.await;
        }));
        Self { address, script, root, stop: Some(stop), running }
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Answer {
        Call::new("GET", path).send(self.address).await
    }

    /// `POST` with JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Call::new("POST", path).json(body).send(self.address).await
    }

    /// Loads a model and waits until it is loaded.
    pub async fn load(&self, name: &str) {
        self.post(&format!("/api/models/{name}/load"), &serde_json::json!({})).await;
        self.until(&format!("/api/models/{name}/status"), |answer| answer.json()["loaded"] == true)
            .await;
    }

    /// Asks again and again until the answer is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{path} stays {}", answer.body);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Tells the server to stop.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has stopped.
    pub async fn stopped(self) {
        tokio::time::timeout(PATIENCE, self.running)
            .await
            .expect("stops in time")
            .unwrap()
            .unwrap();
    }
}

/// Waits until something holds.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
