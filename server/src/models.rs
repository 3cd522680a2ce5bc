//! The models by name: found, loaded once for all who ask, shared, unloaded.

mod loader;
mod paths;
mod slot;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hadal_engine::ErrorKind;
use hadal_engine::checkpoint::{self, Found, Known, Source};

pub use loader::{EngineLoader, Loaded, Loader, StatsCell};
pub(crate) use slot::{Lease, State};

use crate::app::EmbeddedFiles;
use paths::Paths;
use slot::{LoadGuard, Slot};

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
    /// Its files are not what they must be. They may be still on their way: a later listing knows better.
    Defect(String),
    /// Not enough memory now.
    Memory(String),
    /// Its load was given up while it was waited for.
    Withdrawn(String),
}

impl Problem {
    pub(crate) fn sentence(&self) -> &str {
        let (Self::Unknown(text)
        | Self::Unusable(text)
        | Self::Defect(text)
        | Self::Memory(text)
        | Self::Withdrawn(text)) = self;
        text
    }
}

/// When models were last listed, and what was found; with what listings have read.
type Listing = (Option<(Instant, Arc<Vec<Found>>)>, Known);

/// Whether a model's files are whole, as far as its headers tell.
pub(crate) fn usable(found: &Found) -> Result<(), Problem> {
    found.summary.as_ref().map(|_| ()).map_err(|reason| {
        Problem::Defect(format!("model `{}` cannot be served: {reason}", found.name))
    })
}

/// The models by name.
pub(crate) struct Models {
    root: PathBuf,
    default: String,
    embedded: Option<EmbeddedFiles>,
    beside: Option<(String, PathBuf)>,
    paths: Arc<Paths>,
    loader: Arc<dyn Loader>,
    listing: Mutex<Listing>,
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
        let paths = Arc::new(Paths::new(root.clone(), beside.clone()));
        Self { root, default, embedded, beside, paths, loader, listing, slots }
    }

    /// A sentence of the engine as clients may read it: without the disk's layout above the models.
    pub(crate) fn shown(&self, sentence: &str) -> String {
        self.paths.hide(sentence)
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
        let (last, known) = &mut *listing;
        if let Some((at, found)) = last
            && at.elapsed() < LISTING_AGE
        {
            return Arc::clone(found);
        }
        let mut found = checkpoint::discover_again(&self.root, known);
        if let Some((name, path)) = &self.beside
            && !found.iter().any(|model| model.name == *name)
        {
            found.push(checkpoint::describe_path(name, path));
        }
        if let Some(files) = self.embedded
            && !found.iter().any(|model| model.name == EMBEDDED_NAME)
        {
            found.push(inside(files));
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let found = Arc::new(found);
        *last = Some((Instant::now(), Arc::clone(&found)));
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
            _ => found.source(),
        }
    }

    fn slot(&self, name: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(name.to_owned()).or_default())
    }

    /// A model's place, if it was ever asked for: names from clients make none.
    fn known_slot(&self, name: &str) -> Option<Arc<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// What a model is doing.
    pub(crate) fn state(&self, name: &str) -> State {
        self.known_slot(name).map_or(State::NotLoaded, |slot| match slot.state() {
            State::Loaded(loaded) if !loaded.handle.is_alive() => {
                drop(loaded);
                discard_lost(name, &slot);
                slot.state()
            }
            state => state,
        })
    }

    /// Loaded models with their names.
    pub(crate) fn loaded(&self) -> Vec<(String, Arc<Loaded>)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = |(name, slot): (&String, &Arc<Slot>)| match slot.state() {
            State::Loaded(loaded) if loaded.handle.is_alive() => Some((name.clone(), loaded)),
            _ => None,
        };
        slots.iter().filter_map(loaded).collect()
    }

    /// Whether there is memory for the model; a loaded one has it. What else is wrong with it, loading tells.
    pub(crate) async fn check_memory(self: &Arc<Self>, found: &Found) -> Result<(), Problem> {
        // One that is being unloaded still holds what it is about to give back.
        let has_memory = matches!(
            self.state(&found.name),
            State::Loaded(_) | State::Loading(_) | State::Unloading
        );
        if has_memory || found.summary.is_err() {
            return Ok(());
        }
        let (loader, source) = (Arc::clone(&self.loader), self.source(found));
        match tokio::task::spawn_blocking(move || loader.check(&source)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::Memory => {
                Err(problem(&found.name, &error, &self.paths))
            }
            _ => Ok(()),
        }
    }

    /// Starts loading a model and does not wait. One that is being unloaded is loaded after that.
    pub(crate) fn load(self: &Arc<Self>, found: &Found) {
        self.start_loading(found);
        if matches!(self.state(&found.name), State::Unloading) {
            let (models, name) = (Arc::clone(self), found.name.clone());
            // Who asked hears of the end from the status.
            tokio::spawn(async move { drop(models.lease(&name).await) });
        }
    }

    /// Starts loading a model unless somebody else has; all who ask share one load.
    fn start_loading(self: &Arc<Self>, found: &Found) {
        let slot = self.slot(&found.name);
        if !slot.begin() {
            return;
        }
        let guard = LoadGuard(Some(Arc::clone(&slot)));
        let name = found.name.clone();
        if let Err(problem) = usable(found) {
            return guard.end(Err(problem));
        }
        let paths = Arc::clone(&self.paths);
        let (loader, source) = (Arc::clone(&self.loader), self.source(found));
        let load = move || {
            tracing::info!("loading `{name}`");
            let mut progress = |progress| slot.progress(progress);
            let result = loader.load(&source, &mut progress, Arc::new(StatsCell::default()));
            if let Err(error) = &result {
                tracing::warn!("model `{name}` cannot be loaded: {error}");
            }
            guard.end(result.map_err(|error| problem(&name, &error, &paths)));
        };
        // Not one of the runtime's threads: a server that stops must not wait for a load that takes minutes. One that
        // cannot start drops the guard, which fails the load.
        let thread = std::thread::Builder::new().name("hadal-load".to_owned()).spawn(load);
        if let Err(error) = thread {
            tracing::error!("cannot start a thread to load a model: {error}");
        }
    }

    /// The loaded model, loading it first when it is not; it stays while the lease lives.
    pub(crate) async fn lease(self: &Arc<Self>, name: &str) -> Result<Lease, Problem> {
        /// A model that is unloaded or lost as soon as it is there is not loaded forever.
        const LOADS_MAX: usize = 8;
        if let Some(lease) = self.lease_if_loaded(name) {
            return Ok(lease);
        }
        let found = self.find(name).await?;
        let slot = self.slot(name);
        for _ in 0..LOADS_MAX {
            let revocations = slot.revocations();
            self.start_loading(&found);
            tokio::select! {
                biased;
                () = slot.revoked_since(revocations) => {
                    let sentence = format!("model `{name}` was unloaded while it was loading");
                    return Err(Problem::Withdrawn(sentence));
                }
                settled = slot.settled() => settled?,
            }
            if let Some(lease) = self.lease_if_loaded(name) {
                return Ok(lease);
            }
        }
        Err(Problem::Unusable(format!("model `{name}` was unloaded each time it was loaded")))
    }

    /// The loaded model, when it is. One whose thread was lost is unloaded, so that the next request loads it anew.
    pub(crate) fn lease_if_loaded(&self, name: &str) -> Option<Lease> {
        let slot = self.known_slot(name)?;
        let lease = Arc::clone(&slot).lease()?;
        if lease.loaded().handle.is_alive() {
            return Some(lease);
        }
        drop(lease);
        discard_lost(name, &slot);
        None
    }

    /// Unloads: new requests wait for another load, running ones finish, or end now with `force`. Memory is given back
    /// when this returns. `false`: it was not loaded. With `force`, a load that is under way is given up too.
    pub(crate) async fn unload(&self, name: &str, force: bool) -> bool {
        let Some(slot) = self.known_slot(name) else { return false };
        if force && slot.give_up_loading() {
            // The loading thread drops what it has loaded; it hears of this when it is done, not before.
            let _ = slot.settled().await;
            tracing::info!("gave up loading `{name}`");
            return true;
        }
        let Some(loaded) = slot.begin_unloading(force) else { return false };
        let name = name.to_owned();
        // A task of its own: an unload that was begun is ended, whether or not the client waits for it.
        let unloading = tokio::spawn(async move {
            slot.unused().await;
            let loaded = alone(loaded).await;
            let _ = tokio::task::spawn_blocking(move || loaded.end()).await;
            slot.finish_unloading();
            tracing::info!("unloaded `{name}`");
        });
        let _ = unloading.await;
        true
    }
}

/// The model without other owners: nobody uses it any more, but a status may be looking at it this very moment.
async fn alone(mut loaded: Arc<Loaded>) -> Loaded {
    loop {
        match Arc::try_unwrap(loaded) {
            Ok(loaded) => return loaded,
            Err(shared) => loaded = shared,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
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
        modified: binary_modified(),
        format: "safetensors",
        summary: checkpoint::describe(&Source::Embedded(files)),
    }
}

/// When the binary was written.
fn binary_modified() -> SystemTime {
    let binary = std::env::current_exe().and_then(std::fs::metadata);
    binary.and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A model whose thread has ended by itself is in error until somebody asks for it again.
fn discard_lost(name: &str, slot: &Slot) {
    let sentence = format!("model `{name}` was lost; the next request loads it again");
    if slot.discard_lost(Problem::Unusable(sentence)) {
        tracing::error!("model `{name}` was lost");
    }
}

fn problem(name: &str, error: &hadal_engine::Error, paths: &Paths) -> Problem {
    let error_shown = paths.hide(&error.to_string());
    let sentence = format!("model `{name}` cannot be loaded: {error_shown}");
    match error.kind() {
        ErrorKind::Memory => Problem::Memory(sentence),
        _ => Problem::Unusable(sentence),
    }
}
