//! How large the latent cache becomes: what is asked for, else what the memory leaves.

use std::fs::read_to_string;

use crate::cache::pages::{PAGES_MAX, pages_for};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::step::PAGE_TOKENS;

/// What a model takes beside its cache, and what a page of that costs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Footprint {
    /// Weights, scratch and text.
    pub(super) beside_bytes: u64,
    pub(super) page_bytes: u64,
}

/// Pages of the latent cache. `free_bytes` is `None` where the system does not say.
///
/// Unless `limits.cache_bytes` decides: every sequence at its longest, but no more than a quarter of the free memory
/// (we are not alone here) nor than weights and scratch leave, and no less than one sequence at its longest and a
/// page beside it.
pub(super) fn choose_pages(
    limits: &Limits,
    footprint: Footprint,
    free_bytes: Option<u64>,
) -> Result<usize> {
    let page_bytes = footprint.page_bytes.max(1);
    let beside = footprint.beside_bytes;
    let context = pages_for(limits.context_tokens_max) as u64;
    let n_page = if let Some(bytes) = limits.cache_bytes {
        if bytes < page_bytes {
            return Err(Error::Setting {
                name: "cache-bytes",
                got: bytes.to_string(),
                want: format!("at least {page_bytes}, one page of {PAGE_TOKENS} tokens"),
            });
        }
        bytes / page_bytes
    } else {
        let room = free_bytes.map_or(0, |free| free.saturating_sub(beside).min(free / 4));
        (room / page_bytes).min(context * limits.sequences_max as u64).max(context + 1)
    };
    Ok(n_page.min(PAGES_MAX as u64) as usize)
}

/// The same on a card. A card's memory is nobody's to swap and mostly there for models: all that weights and scratch leave
/// but a sixteenth, for what the driver takes itself and for pieces that fit nowhere.
pub(super) fn choose_card_pages(
    limits: &Limits,
    footprint: Footprint,
    free_bytes: u64,
) -> Result<usize> {
    if limits.cache_bytes.is_some() {
        return choose_pages(limits, footprint, Some(free_bytes));
    }
    let context = pages_for(limits.context_tokens_max) as u64;
    let room = (free_bytes - free_bytes / 16).saturating_sub(footprint.beside_bytes);
    let all = context.saturating_mul(limits.sequences_max as u64);
    // A context that the card cannot hold whole is cut to what it can; a page is the least there can be.
    let n_page = (room / footprint.page_bytes.max(1)).min(all.max(context + 1)).max(1);
    Ok(n_page.min(PAGES_MAX as u64) as usize)
}

/// Whether what is needed is free.
///
/// # Errors
/// [`Error::Memory`] when it is not.
pub(super) fn check(needed_bytes: u64, free_bytes: Option<u64>, is_on_card: bool) -> Result<()> {
    match free_bytes {
        Some(free_bytes) if free_bytes < needed_bytes => Err(Error::Memory {
            what: if is_on_card {
                "the model on the card, with its weights, scratch and latent cache,"
            } else {
                "the model with its weights, scratch and latent cache"
            },
            needed_bytes,
            free_bytes,
        }),
        _ => Ok(()),
    }
}

/// Bytes that can be used without swapping, under the limit of the container we are in; `None` where the system
/// does not say. Mapped weights count as free: the system can drop their pages and read them again.
pub(super) fn free_bytes() -> Option<u64> {
    let system = meminfo_available(&read_to_string("/proc/meminfo").ok()?)?;
    let read = |name| read_to_string(format!("/sys/fs/cgroup/memory.{name}")).unwrap_or_default();
    let container = container_room(&read("max"), &read("current"), &read("stat"));
    Some(container.map_or(system, |room| room.min(system)))
}

fn meminfo_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What a control group still allows: its limit less what it uses, files it could drop not counted.
fn container_room(max: &str, current: &str, stat: &str) -> Option<u64> {
    let max: u64 = max.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let files = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    let dropped = files("active_file ").unwrap_or(0) + files("inactive_file ").unwrap_or(0);
    Some(max.saturating_sub(current.saturating_sub(dropped)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOOTPRINT: Footprint = Footprint { beside_bytes: 600, page_bytes: 10 };

    fn limits(cache_bytes: Option<u64>) -> Limits {
        Limits { sequences_max: 4, context_tokens_max: 640, cache_bytes, ..Limits::default() }
    }

    #[test]
    fn pages_are_for_all_sequences_but_a_quarter_of_the_memory_and_one_context_at_least() {
        let choose = |free| choose_pages(&limits(None), FOOTPRINT, free).unwrap();
        assert_eq!(choose(Some(1 << 30)), 40);
        assert_eq!(choose(Some(1000)), 25);
        assert_eq!(choose(Some(720)), 12);
        assert_eq!(choose(Some(710)), 11);
        assert_eq!(choose(None), 11);
    }

    #[test]
    fn what_does_not_fit_says_what_is_needed_and_free() {
        // A page less than one context and a page are not chosen, so this cannot fit.
        assert_eq!(choose_pages(&limits(None), FOOTPRINT, Some(709)).unwrap(), 11);
        let error = check(710, Some(709), false).unwrap_err().to_string();
        let want = "the model with its weights, scratch and latent cache needs 710 bytes, 709 bytes are free";
        assert_eq!(error, want);
        check(710, Some(710), false).unwrap();
        check(710, None, false).unwrap();
    }

    #[test]
    fn a_size_that_is_asked_for_is_cut_to_whole_pages() {
        assert_eq!(choose_pages(&limits(Some(69)), FOOTPRINT, Some(660)).unwrap(), 6);
        let error = choose_pages(&limits(Some(9)), FOOTPRINT, None).unwrap_err().to_string();
        assert_eq!(error, "`cache-bytes` is 9, wanted at least 10, one page of 64 tokens");
    }

    #[test]
    fn on_a_card_pages_take_what_is_left_but_a_sixteenth() {
        let choose = |free| choose_card_pages(&limits(None), FOOTPRINT, free).unwrap();
        assert_eq!(choose(1 << 30), 40);
        assert_eq!(choose(800), 15);
        assert_eq!(choose(600), 1);
        assert_eq!(choose_card_pages(&limits(Some(69)), FOOTPRINT, 660).unwrap(), 6);
    }

    #[test]
    fn free_memory_is_read_from_the_system_and_the_container() {
        let meminfo = "MemTotal:  100 kB\nMemAvailable:   42 kB\nBuffers: 1 kB\n";
        assert_eq!(meminfo_available(meminfo), Some(42 * 1024));
        assert_eq!(meminfo_available("MemTotal: 100 kB\n"), None);
        let stat = "anon 300\nfile 200\ninactive_file 150\nactive_file 50\n";
        assert_eq!(container_room("1000\n", "500\n", stat), Some(700));
        assert_eq!(container_room("max\n", "500\n", stat), None);
        assert_eq!(container_room("", "", ""), None);
    }
}
