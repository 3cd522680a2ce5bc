//! One model's place: what it is doing, and who is using it.

use std::sync::Arc;

use hadal_engine::Progress;
use tokio::sync::watch;

use super::{Loaded, Problem};

/// What a model is doing.
#[derive(Clone)]
pub(crate) enum State {
    NotLoaded,
    Loading(Progress),
    Loaded(Arc<Loaded>),
    /// No longer for new requests; running ones finish.
    Unloading,
    Failed(Problem),
}

/// One model's place.
pub(crate) struct Slot {
    state: watch::Sender<State>,
    users: watch::Sender<usize>,
    /// How often users and who waits were asked to let go: forced unloads.
    revocations: watch::Sender<u64>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::NotLoaded),
            users: watch::Sender::new(0),
            revocations: watch::Sender::new(0),
        }
    }
}

impl Slot {
    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Takes the load upon the caller; `false` when it is somebody else's, or done.
    pub(super) fn begin(&self) -> bool {
        self.state.send_if_modified(|state| {
            let is_ours = matches!(state, State::NotLoaded | State::Failed(_));
            if is_ours {
                *state = State::Loading(Progress::default());
            }
            is_ours
        })
    }

    pub(super) fn progress(&self, progress: Progress) {
        // Not when the load was given up.
        self.end_loading(|| State::Loading(progress));
    }

    fn finish(&self, loaded: Loaded) {
        let mut loaded = Some(Arc::new(loaded));
        self.end_loading(|| loaded.take().map_or(State::NotLoaded, State::Loaded));
        // Given up meanwhile: nobody else has seen it.
        if let Some(unwanted) = loaded.and_then(Arc::into_inner) {
            unwanted.end();
            self.finish_unloading();
        }
    }

    fn fail(&self, problem: Problem) {
        if !self.end_loading(|| State::Failed(problem)) {
            self.finish_unloading();
        }
    }

    /// Puts another state in the place of loading; `false` when the load was given up.
    fn end_loading(&self, next: impl FnOnce() -> State) -> bool {
        self.state.send_if_modified(|state| {
            let is_wanted = matches!(state, State::Loading(_));
            if is_wanted {
                *state = next();
            }
            is_wanted
        })
    }

    /// Gives a load up: who waits for it is told at once, its memory goes when the loading thread is done. `false`
    /// when nothing is loading.
    pub(super) fn give_up_loading(&self) -> bool {
        let is_given_up = self.end_loading(|| State::Unloading);
        if is_given_up {
            self.revoke();
        }
        is_given_up
    }

    /// Waits for the end of a load or an unload.
    pub(super) async fn settled(&self) -> Result<(), Problem> {
        let mut states = self.state.subscribe();
        let settled =
            states.wait_for(|state| !matches!(state, State::Loading(_) | State::Unloading)).await;
        match settled.as_deref() {
            Ok(State::Failed(problem)) => Err(problem.clone()),
            // The sender lives in `self`, so waiting itself cannot fail.
            _ => Ok(()),
        }
    }

    /// The loaded model, kept while the lease lives.
    pub(super) fn lease(self: Arc<Self>) -> Option<Lease> {
        let (mut leased, mut revocations) = (None, 0);
        // Under the state's own lock: an unload that comes after sees the user, one that came before is seen here.
        self.state.send_if_modified(|state| {
            if let State::Loaded(loaded) = state {
                self.users.send_modify(|n| *n += 1);
                leased = Some(Arc::clone(loaded));
                revocations = self.revocations();
            }
            false
        });
        let slot = Arc::clone(&self);
        leased.map(|loaded| Lease { loaded: Some(loaded), slot, revocations })
    }

    /// Takes the unload upon the caller, and with `force` asks all users to let go; `None` when the model is not loaded.
    pub(super) fn begin_unloading(&self, force: bool) -> Option<Arc<Loaded>> {
        let mut taken = None;
        self.state.send_if_modified(|state| match std::mem::replace(state, State::Unloading) {
            State::Loaded(loaded) => {
                taken = Some(loaded);
                if force {
                    self.revoke();
                }
                true
            }
            other => {
                *state = other;
                false
            }
        });
        taken
    }

    /// Asks all who use the model now, or wait for it, to let go.
    fn revoke(&self) {
        self.revocations.send_modify(|n| *n += 1);
    }

    /// How often users were asked to let go.
    pub(super) fn revocations(&self) -> u64 {
        *self.revocations.borrow()
    }

    /// Waits until users are asked to let go once more.
    pub(super) async fn revoked_since(&self, revocations: u64) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.revocations.subscribe().wait_for(|n| *n != revocations).await;
    }

    pub(super) fn finish_unloading(&self) {
        self.state.send_replace(State::NotLoaded);
    }

    /// Puts an error in the place of a model whose thread has ended by itself; `false` when it has not.
    pub(super) fn discard_lost(&self, problem: Problem) -> bool {
        self.state.send_if_modified(|state| {
            let is_lost = matches!(state, State::Loaded(loaded) if !loaded.handle.is_alive());
            if is_lost {
                *state = State::Failed(problem);
            }
            is_lost
        })
    }

    /// Waits until nobody uses the model.
    pub(super) async fn unused(&self) {
        let _ = self.users.subscribe().wait_for(|n| *n == 0).await;
    }
}

/// A loaded model in use.
pub(crate) struct Lease {
    loaded: Option<Arc<Loaded>>,
    slot: Arc<Slot>,
    /// When it was taken, counted in revocations.
    revocations: u64,
}

impl Lease {
    pub(crate) fn loaded(&self) -> &Arc<Loaded> {
        match &self.loaded {
            Some(loaded) => loaded,
            None => unreachable!("taken by drop alone"),
        }
    }

    /// Waits until the model is wanted back.
    pub(crate) async fn revoked(&self) {
        self.slot.revoked_since(self.revocations).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The model first: who waits for the count must find no other owner.
        self.loaded = None;
        self.slot.users.send_modify(|n| *n = n.saturating_sub(1));
    }
}

/// A load that somebody has begun; whoever loses it without an end, a panic included, fails it.
pub(super) struct LoadGuard(pub(super) Option<Arc<Slot>>);

impl LoadGuard {
    /// The load's end.
    pub(super) fn end(mut self, result: Result<Loaded, Problem>) {
        let Some(slot) = self.0.take() else { return };
        match result {
            Ok(loaded) => slot.finish(loaded),
            Err(problem) => slot.fail(problem),
        }
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.fail(Problem::Unusable("loading the model failed: a bug in the engine".into()));
        }
    }
}
