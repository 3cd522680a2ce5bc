//! The models by name: found, loaded once for all who ask, shared, unloaded.

mod loader;
mod slot;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hadal_engine::checkpoint::{self, Found, Source};

pub use loader::{EngineLoader, Loaded, Loader, StatsCell};
pub(crate) use slot::{Lease, State};

use crate::app::EmbeddedFiles;
use slot::Slot;

/// The name of the model inside the binary.
const EMBEDDED_NAME: &str = "sft/demo";
/// How long a listing is used again: a page that polls must not read every header each time.
const LISTING_AGE: Duration = Duration::from_millis(500);

/// Why a model cannot be had.
#[derive(Debug, Clone)]
pub(crate) enum Problem {
    /// No model of that name.
    Unknown(String),
    /// There is one, and it cannot be served.
    Unusable(String),
    /// Not enough memory now.
    Memory(String),
}

impl Problem {
    pub(crate) fn sentence(&self) -> &str {
        let (Self::Unknown(text) | Self::Unusable(text) | Self::Memory(text)) = self;
        text
    }
}

/// The models by name.
pub(crate) struct Models {
    root: PathBuf,
    default: String,
    embedded: Option<EmbeddedFiles>,
    beside: Option<(String, PathBuf)>,
    loader: Arc<dyn Loader>,
    listing: Mutex<Option<(Instant, Arc<Vec<Found>>)>>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl Models {
    pub(crate) fn new(
        root: PathBuf,
        default: String,
        embedded: Option<EmbeddedFiles>,
        beside: Option<(String, PathBuf)>,
        loader: Arc<dyn Loader>,
    ) -> Self {
        let (listing, slots) = (Mutex::default(), Mutex::default());
        Self { root, default, embedded, beside, loader, listing, slots }
    }

    pub(crate) fn default_name(&self) -> &str {
        &self.default
    }

    /// A name as requests give it: missing and empty mean the default.
    pub(crate) fn resolve<'a>(&'a self, name: Option<&'a str>) -> &'a str {
        name.filter(|name| !name.is_empty()).unwrap_or(&self.default)
    }

    /// All models there are, sorted by name. Reads headers: call it on a blocking thread.
    pub(crate) fn list(&self) -> Arc<Vec<Found>> {
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, found)) = &*listing
            && at.elapsed() < LISTING_AGE
        {
            return Arc::clone(found);
        }
        let mut found = checkpoint::discover(&self.root);
        if let Some((name, path)) = &self.beside
            && !found.iter().any(|model| model.name == *name)
        {
            found.push(checkpoint::describe_folder(name, path));
        }
        if let Some(files) = self.embedded
            && !found.iter().any(|model| model.name == EMBEDDED_NAME)
        {
            found.push(inside(files));
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let found = Arc::new(found);
        *listing = Some((Instant::now(), Arc::clone(&found)));
        found
    }

    /// A model by name, among the ones that are there.
    pub(crate) async fn find(self: &Arc<Self>, name: &str) -> Result<Found, Problem> {
        let models = Arc::clone(self);
        let listing = tokio::task::spawn_blocking(move || models.list()).await;
        let found =
            listing.ok().and_then(|list| list.iter().find(|model| model.name == name).cloned());
        found.ok_or_else(|| {
            Problem::Unknown(format!("no model `{name}`: GET /api/models lists those there are"))
        })
    }

    /// Where a found model's files are.
    fn source(&self, found: &Found) -> Source {
        match self.embedded {
            Some(files) if found.path.as_os_str() == BUILTIN_PATH => Source::Embedded(files),
            _ => Source::Directory(found.path.clone()),
        }
    }

    fn slot(&self, name: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(name.to_owned()).or_default())
    }

    /// What a model is doing.
    pub(crate) fn state(&self, name: &str) -> State {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(name).map_or(State::NotLoaded, |slot| slot.state())
    }

    /// Loaded models with their names.
    pub(crate) fn loaded(&self) -> Vec<(String, Arc<Loaded>)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = |(name, slot): (&String, &Arc<Slot>)| match slot.state() {
            State::Loaded(loaded) => Some((name.clone(), loaded)),
            _ => None,
        };
        slots.iter().filter_map(loaded).collect()
    }

    /// Whether the model can be loaded now: its files are whole and the memory is there. A loaded one can.
    pub(crate) async fn check(self: &Arc<Self>, found: &Found) -> Result<(), Problem> {
        if let Err(reason) = &found.summary {
            return Err(Problem::Unusable(format!(
                "model `{}` cannot be served: {reason}",
                found.name
            )));
        }
        if matches!(self.state(&found.name), State::Loaded(_) | State::Loading(_)) {
            return Ok(());
        }
        let (loader, source) = (Arc::clone(&self.loader), self.source(found));
        let checked = tokio::task::spawn_blocking(move || loader.check(&source)).await;
        match checked {
            Ok(result) => result.map_err(|error| problem(&found.name, &error)),
            Err(_) => Err(Problem::Unusable(format!("checking model `{}` failed", found.name))),
        }
    }

    /// Starts loading a model unless it is loaded or loading; all who ask share one load.
    pub(crate) fn start_loading(self: &Arc<Self>, found: &Found) {
        let slot = self.slot(&found.name);
        if !slot.begin() {
            return;
        }
        let (loader, source, name) =
            (Arc::clone(&self.loader), self.source(found), found.name.clone());
        let stats = Arc::new(StatsCell::default());
        tokio::task::spawn_blocking(move || {
            tracing::info!("loading `{name}`");
            let mut progress = |progress| slot.progress(progress);
            match loader.load(&source, &mut progress, stats) {
                Ok(loaded) => slot.finish(loaded),
                Err(error) => {
                    let problem = problem(&name, &error);
                    tracing::warn!("{}", problem.sentence());
                    slot.fail(problem);
                }
            }
        });
    }

    /// The loaded model, loading it first when it is not; it stays while the lease lives.
    pub(crate) async fn lease(self: &Arc<Self>, name: &str) -> Result<Lease, Problem> {
        let found = self.find(name).await?;
        loop {
            if let Some(lease) = self.lease_if_loaded(name) {
                return Ok(lease);
            }
            self.start_loading(&found);
            let slot = self.slot(name);
            slot.settled().await?;
        }
    }

    /// The loaded model, when it is. One whose thread was lost is unloaded, so that the next request loads it anew.
    pub(crate) fn lease_if_loaded(self: &Arc<Self>, name: &str) -> Option<Lease> {
        let lease = self.slot(name).lease()?;
        if lease.loaded().handle.is_alive() {
            return Some(lease);
        }
        drop(lease);
        self.slot(name).discard_lost();
        None
    }

    /// Unloads: new requests wait for another load, running ones finish, or end now with `force`. Memory is given back
    /// when this returns. `false`: it was not loaded.
    pub(crate) async fn unload(&self, name: &str, force: bool) -> bool {
        let slot = self.slot(name);
        let Some(loaded) = slot.begin_unloading() else { return false };
        if force {
            let handle = loaded.handle.clone();
            // Sends on a bounded channel, which may wait for a step to end.
            let _ = tokio::task::spawn_blocking(move || handle.cancel_all()).await;
        }
        slot.unused().await;
        if let Some(loaded) = Arc::into_inner(loaded) {
            let _ = tokio::task::spawn_blocking(move || loaded.end()).await;
        }
        slot.finish_unloading();
        tracing::info!("unloaded `{name}`");
        true
    }
}

/// How the embedded model's path is shown.
const BUILTIN_PATH: &str = "builtin:sft/demo";

/// The model inside the binary.
fn inside(files: EmbeddedFiles) -> Found {
    let weights = files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
    Found {
        name: EMBEDDED_NAME.to_owned(),
        path: PathBuf::from(BUILTIN_PATH),
        size_bytes: weights.map(|(_, bytes)| bytes.len() as u64).sum(),
        modified: SystemTime::UNIX_EPOCH,
        format: "safetensors",
        summary: checkpoint::describe(&Source::Embedded(files)),
    }
}

fn problem(name: &str, error: &hadal_engine::Error) -> Problem {
    let sentence = format!("model `{name}` cannot be loaded: {error}");
    match error.kind() {
        hadal_engine::ErrorKind::Memory => Problem::Memory(sentence),
        _ => Problem::Unusable(sentence),
    }
}
