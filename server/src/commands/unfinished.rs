//! Folders that a command is making, so that they can be removed when a signal ends the process before they are whole.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hadal_engine::checkpoint::{Quant, Source, cache_folder, give_up};

/// The folders that are being made now: converted checkpoints, and caches of quantised weights.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unfinished(Arc<Mutex<Vec<PathBuf>>>);

/// One of them, until it is dropped.
pub(crate) struct Making {
    all: Unfinished,
    out: PathBuf,
}

impl Unfinished {
    /// A folder that will be made.
    pub(crate) fn begin(&self, out: &Path) -> Making {
        self.folders().push(out.to_owned());
        Making { all: self.clone(), out: out.to_owned() }
    }

    /// The cache that loading may write.
    pub(crate) fn begin_cache(&self, source: &Source, quant: Option<Quant>) -> Option<Making> {
        let quant = quant.filter(|quant| quant.cache)?;
        Some(self.begin(&cache_folder(source, quant.target)?))
    }

    /// Removes them all; whether there were any.
    pub(crate) fn give_up(&self) -> bool {
        let folders = std::mem::take(&mut *self.folders());
        for out in &folders {
            give_up(out);
        }
        !folders.is_empty()
    }

    fn folders(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut folders = self.all.folders();
        if let Some(at) = folders.iter().position(|out| *out == self.out) {
            folders.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use hadal_engine::checkpoint::Target;

    use super::*;

    #[test]
    fn what_is_being_made_is_given_up_and_what_is_made_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let partial = |name: &str| {
            let path = folder.path().join(format!(".{name}.partial-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("model.safetensors"), "half").unwrap();
            path
        };
        let (one, other) = (partial("one"), partial("other"));
        let all = Unfinished::default();
        let making = all.begin(&folder.path().join("one"));
        drop(all.begin(&folder.path().join("other")));
        assert!(all.give_up());
        assert!(!one.exists() && other.exists());
        assert!(!all.give_up(), "nothing is left to give up");
        drop(making);
    }

    #[test]
    fn only_a_load_that_keeps_a_cache_makes_one() {
        let all = Unfinished::default();
        let source = Source::Directory("m".into());
        let quant = |cache| Some(Quant { target: Target::Q8, cache });
        assert!(all.begin_cache(&source, None).is_none());
        assert!(all.begin_cache(&source, quant(false)).is_none());
        assert!(all.begin_cache(&Source::Embedded(&[]), quant(true)).is_none());
        let making = all.begin_cache(&source, quant(true)).unwrap();
        assert_eq!(making.out, Path::new("m/.hadal-q8"));
    }
}
