//! The card of a test: a simulated one, whose driver library is opened before anything looks for a real one, or a real one.

use std::io::Write as _;

use hadal_engine::backend::cuda::count;

use super::session::Session;

/// The profiles of cards that are simulated.
pub(crate) const PROFILES: [&str; 4] = ["a100", "rtx4090", "h100", "rtx5090"];

/// The card, until it is dropped.
pub(crate) struct Card {
    /// None of a real one.
    session: Option<Session>,
}

/// Takes the card, configured by a line of text; `None`, said aloud, where this build has no kernels for it.
pub(crate) fn card(config: &str) -> Option<Card> {
    let session = Session::new(config);
    match count() {
        Err(why) if why.0.contains("no CUDA kernels") => {
            // Past the capture of tests that pass: a run in which nothing was shown should not look like another.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: {}; tools/cuda-toolchain.sh installs a compiler",
                why.0
            );
            None
        }
        _ => Some(Card { session: Some(session) }),
    }
}

impl Card {
    /// The first card of the machine; `None`, said aloud, where there is none. Only for processes in which no simulated one
    /// was taken.
    pub(crate) fn real() -> Option<Self> {
        match count() {
            Ok(_) => Some(Self { session: None }),
            Err(why) => {
                let _ = writeln!(std::io::stderr(), "skipped: no device: {}", why.0);
                None
            }
        }
    }

    /// Throws all cards away and makes new ones.
    pub(crate) fn configure(&self, config: &str) {
        let session = self.session.as_ref().expect("a real card cannot be configured");
        assert_eq!(session.configure(config), 0, "{}", self.message());
    }

    /// Words of the last fault.
    pub(crate) fn message(&self) -> String {
        self.session.as_ref().map_or(String::new(), Session::message)
    }

    /// Bytes that are taken on all cards; of a real one nobody counts them.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.session.as_ref().map_or(0, Session::live_bytes)
    }

    /// Passes that cards began from a recording; `None` on a real one, which does not say.
    pub(crate) fn graph_launches(&self) -> Option<usize> {
        let report = self.session.as_ref()?.report();
        let each = report.lines().filter_map(|line| line.split_once("\"graph_launches\":"));
        Some(each.filter_map(|(_, n)| n.trim_end_matches('}').parse::<usize>().ok()).sum())
    }
}
