//! Running generations by task id, so that one request can end another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::app::App;
use crate::generate::Cancel;

/// Which routes a generation was begun by: the older ones cancel only their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Current,
    Older,
}

/// Running generations by task id.
#[derive(Default)]
pub(crate) struct Generations {
    next: AtomicU64,
    running: Mutex<HashMap<String, (Form, Cancel)>>,
}

impl Generations {
    /// A new task id, known until the guard goes.
    pub(crate) fn enter(app: &Arc<App>, form: Form, cancel: Cancel) -> Task {
        // Unguessable, so that one client cannot stop another's answer by counting.
        let id = format!(
            "{:x}-{:016x}",
            app.generations.next.fetch_add(1, Ordering::Relaxed),
            crate::generate::random()
        );
        app.generations.lock().insert(id.clone(), (form, cancel));
        Task { id, app: Arc::clone(app) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Form, Cancel)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends one generation; `false` when there is none of that id and form.
    pub(crate) fn cancel(&self, id: &str, form: Form) -> bool {
        match self.lock().get(id) {
            Some((of, cancel)) if *of == form => {
                cancel.cancel();
                true
            }
            _ => false,
        }
    }

    /// Ends all, when draining takes too long.
    pub(crate) fn cancel_all(&self) {
        self.lock().values().for_each(|(_, cancel)| cancel.fail());
    }
}

/// A running generation's place in the table.
pub(crate) struct Task {
    pub(crate) id: String,
    app: Arc<App>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.app.generations.lock().remove(&self.id);
    }
}
