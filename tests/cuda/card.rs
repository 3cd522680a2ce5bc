//! The simulated card: a driver library that is opened before anything looks for a real one.

use std::ffi::{CString, c_char};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::{Library, Symbol};

static TURN: Mutex<()> = Mutex::new(());
static LIBRARY: OnceLock<Library> = OnceLock::new();

/// The profiles of cards that are simulated.
pub(crate) const PROFILES: [&str; 4] = ["a100", "rtx4090", "h100", "rtx5090"];

/// A configured driver, until it is dropped.
pub(crate) struct Card {
    _turn: MutexGuard<'static, ()>,
}

fn library() -> &'static Library {
    LIBRARY.get_or_init(|| {
        let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        // SAFETY: the library runs nothing when it is opened.
        unsafe { Library::new(folder.join("libcuda_sim.so")) }.unwrap()
    })
}

/// Takes the card, configured by a line of text; `None`, said aloud, where this build has no kernels for it.
pub(crate) fn card(config: &str) -> Option<Card> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let card = Card { _turn: turn };
    card.configure(config);
    match hadal_engine::backend::cuda::count() {
        Err(why) if why.0.contains("no CUDA kernels") => {
            println!("skipped: {}", why.0);
            None
        }
        _ => Some(card),
    }
}

// Methods, although the card is the process's: only who has the turn may ask.
#[allow(clippy::unused_self, reason = "having the card is the permission")]
impl Card {
    /// Throws all cards away and makes new ones.
    pub(crate) fn configure(&self, config: &str) {
        let text = CString::new(config).unwrap();
        // SAFETY: the symbol's signature, and a text with its end.
        let code = unsafe {
            let configure: Symbol<'_, unsafe extern "C" fn(*const c_char) -> u32> =
                library().get(b"hadal_sim_configure").unwrap();
            configure(text.as_ptr())
        };
        assert_eq!(code, 0, "{}", self.message());
    }

    fn text(symbol: &[u8]) -> String {
        let mut room = vec![0u8; 1 << 16];
        // SAFETY: the symbol's signature, and as much room as it is told.
        let n = unsafe {
            let copy: Symbol<'_, unsafe extern "C" fn(*mut c_char, usize) -> usize> =
                library().get(symbol).unwrap();
            copy(room.as_mut_ptr().cast(), room.len())
        };
        room.truncate(n);
        String::from_utf8(room).unwrap()
    }

    /// Words of the last fault.
    pub(crate) fn message(&self) -> String {
        Self::text(b"hadal_sim_message")
    }

    /// Bytes that are taken on all cards.
    pub(crate) fn live_bytes(&self) -> u64 {
        // SAFETY: the symbol's signature.
        unsafe {
            let live: Symbol<'_, unsafe extern "C" fn() -> u64> =
                library().get(b"hadal_sim_live_bytes").unwrap();
            live()
        }
    }
}
