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
    /// Users are asked to let go: a forced unload.
    is_revoked: watch::Sender<bool>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::NotLoaded),
            users: watch::Sender::new(0),
            is_revoked: watch::Sender::new(false),
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
        self.state.send_replace(State::Loading(progress));
    }

    fn finish(&self, loaded: Loaded) {
        self.state.send_replace(State::Loaded(Arc::new(loaded)));
    }

    fn fail(&self, problem: Problem) {
        self.state.send_replace(State::Failed(problem));
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
        let mut leased = None;
        // Under the state's own lock: an unload that comes after sees the user, one that came before is seen here.
        self.state.send_if_modified(|state| {
            if let State::Loaded(loaded) = state {
                self.users.send_modify(|n| *n += 1);
                leased = Some(Arc::clone(loaded));
            }
            false
        });
        leased.map(|loaded| Lease { loaded: Some(loaded), slot: Arc::clone(&self) })
    }

    /// Takes the unload upon the caller; `None` when the model is not loaded.
    pub(super) fn begin_unloading(&self) -> Option<Arc<Loaded>> {
        let mut taken = None;
        self.state.send_if_modified(|state| match std::mem::replace(state, State::Unloading) {
            State::Loaded(loaded) => {
                taken = Some(loaded);
                true
            }
            other => {
                *state = other;
                false
            }
        });
        taken
    }

    /// Asks all users to let go.
    pub(super) fn revoke(&self) {
        self.is_revoked.send_replace(true);
    }

    pub(super) fn finish_unloading(&self) {
        self.is_revoked.send_replace(false);
        self.state.send_replace(State::NotLoaded);
    }

    /// Forgets a model whose thread has ended by itself.
    pub(super) fn discard_lost(&self) {
        self.state.send_if_modified(|state| {
            let is_lost = matches!(state, State::Loaded(loaded) if !loaded.handle.is_alive());
            if is_lost {
                *state = State::NotLoaded;
            }
            is_lost
        });
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
        // The sender lives as long as the slot, so this cannot fail.
        let _ = self.slot.is_revoked.subscribe().wait_for(|is_revoked| *is_revoked).await;
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
