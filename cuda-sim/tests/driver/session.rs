//! The library as tests open it, and what they ask of it beside the driver's own entry points. One test at a time has the
//! driver: the library is the process's. Tests of a backend include this file, too.

use std::ffi::{CString, c_char};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::{Library, Symbol};

static TURN: Mutex<()> = Mutex::new(());
static LIBRARY: OnceLock<Library> = OnceLock::new();

/// A configured driver, until it is dropped.
pub(crate) struct Session {
    _turn: MutexGuard<'static, ()>,
}

fn library() -> &'static Library {
    LIBRARY.get_or_init(|| {
        let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        // SAFETY: the library runs nothing when it is opened.
        unsafe { Library::new(folder.join("libcuda_sim.so")) }.unwrap()
    })
}

// Methods, although the card is the process's: only who has the turn may ask.
#[allow(clippy::unused_self, reason = "having a session is the permission")]
impl Session {
    /// Takes the driver, configured by a line of text.
    pub(crate) fn new(config: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let session = Self { _turn: turn };
        assert_eq!(session.configure(config), 0, "{}", session.message());
        session
    }

    /// Throws all cards away and makes new ones; gives the driver's code.
    pub(crate) fn configure(&self, config: &str) -> u32 {
        let text = CString::new(config).unwrap();
        // SAFETY: the symbol's signature, and a text with its end.
        unsafe {
            let configure: Symbol<'_, unsafe extern "C" fn(*const c_char) -> u32> =
                library().get(b"hadal_sim_configure").unwrap();
            configure(text.as_ptr())
        }
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

    /// Words of the last refusal or fault.
    pub(crate) fn message(&self) -> String {
        Self::text(b"hadal_sim_message")
    }

    /// Counts of all launches.
    pub(crate) fn report(&self) -> String {
        Self::text(b"hadal_sim_report")
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
