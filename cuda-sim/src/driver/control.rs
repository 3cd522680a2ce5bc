//! What a test says to the driver and asks of it, beside the driver's own entry points.

use std::ffi::{CStr, c_char};
use std::fmt::Write;

use super::config::Config;
use super::{CURRENT, Driver, call, code, lock};
use crate::Class;

/// Throws all cards away and configures the driver anew; see [`Config`] for the text. The next `cuInit` makes the cards.
///
/// # Safety
/// `text` is null, for the default, or a text that ends in a zero byte. Nothing that the old cards gave out is used again.
#[unsafe(no_mangle)]
unsafe extern "C" fn hadal_sim_configure(text: *const c_char) -> u32 {
    call(|driver| {
        let text = if text.is_null() {
            ""
        } else {
            // SAFETY: by this function's contract.
            unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| code::INVALID_VALUE)?
        };
        match Config::parse(text) {
            Ok(config) => {
                *driver = Driver { config: Some(config), ..Driver::default() };
                CURRENT.set(0);
                Ok(())
            }
            Err(what) => {
                driver.message = what;
                Err(code::INVALID_VALUE)
            }
        }
    })
}

/// Bytes of device memory that are allocated on all cards: what a test holds against zero when it has dropped everything.
#[unsafe(no_mangle)]
extern "C" fn hadal_sim_live_bytes() -> u64 {
    let guard = lock();
    guard.iter().flat_map(|driver| &driver.cards).map(|card| card.device.memory.live().1).sum()
}

/// Copies a text that ends in a zero byte, and tells how many bytes the whole has without it.
///
/// # Safety
/// `to` is valid for `room` bytes.
unsafe fn copy_text(text: &str, to: *mut c_char, room: usize) -> usize {
    let n = text.len().min(room.saturating_sub(1));
    if room > 0 && !to.is_null() {
        // SAFETY: `n` and one more byte are within `room`.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), n);
            to.add(n).write(0);
        }
    }
    text.len()
}

/// Words of the last refusal or fault: the code alone says little.
///
/// # Safety
/// `to` is valid for `room` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn hadal_sim_message(to: *mut c_char, room: usize) -> usize {
    let guard = lock();
    let text = guard.as_ref().map_or("", |driver| driver.message.as_str());
    // SAFETY: by this function's contract.
    unsafe { copy_text(text, to, room) }
}

/// Counts of all launches, a line a kernel and card: JSON objects.
///
/// # Safety
/// `to` is valid for `room` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn hadal_sim_report(to: *mut c_char, room: usize) -> usize {
    let guard = lock();
    let mut text = String::new();
    for (n, card) in guard.iter().flat_map(|driver| &driver.cards).enumerate() {
        for (kernel, c) in &card.counters {
            let _ = writeln!(
                text,
                "{{\"card\":{n},\"kernel\":\"{kernel}\",\"launches\":{},\"blocks\":{},\"instructions\":{},\"mma\":{},\
                 \"global_read_bytes\":{},\"global_write_bytes\":{},\"read_sectors\":{},\"read_sectors_ideal\":{},\
                 \"write_sectors\":{},\"write_sectors_ideal\":{},\"shared_wavefronts\":{},\
                 \"shared_wavefronts_ideal\":{},\"local_bytes\":{},\"barriers\":{}}}",
                c.launches,
                c.blocks,
                c.instructions_total(),
                c.instructions(Class::Mma),
                c.global_read_bytes,
                c.global_write_bytes,
                c.global_read_sectors,
                c.global_read_sectors_ideal,
                c.global_write_sectors,
                c.global_write_sectors_ideal,
                c.shared_wavefronts,
                c.shared_wavefronts_ideal,
                c.local_bytes,
                c.barriers,
            );
        }
        let _ = writeln!(text, "{{\"card\":{n},\"graph_launches\":{}}}", card.n_graph_launches);
    }
    // SAFETY: by this function's contract.
    unsafe { copy_text(&text, to, room) }
}
