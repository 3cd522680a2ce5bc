//! Entry points: device memory, pinned host memory, copies and fills.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use super::card::Card;
use super::queue::{Command, HostBytes};
use super::{Outcome, code, on_card, put};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32 {
    on_card(|card| {
        let memory = &card.device.memory;
        // SAFETY: the caller's pointers.
        unsafe {
            put(free, memory.free_bytes() as usize)
                .and_then(|()| put(total, memory.capacity() as usize))
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> u32 {
    on_card(|card| {
        card.outside_capture()?;
        // SAFETY: the caller's pointer.
        card.alloc(bytes as u64).and_then(|at| unsafe { put(address, at) })
    })
}

/// The address is there at once; its memory, too, which a caller on another stream must not count on.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: u64) -> u32 {
    on_card(|card| {
        card.outside_capture()?;
        if !card.streams.contains_key(&super::api_stream::resolve(stream)) {
            return Err(code::INVALID_HANDLE);
        }
        // SAFETY: the caller's pointer.
        card.alloc(bytes as u64).and_then(|at| unsafe { put(address, at) })
    })
}

/// Waits for all work, as the driver does, and takes the memory away.
#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> u32 {
    on_card(|card| {
        card.outside_capture()?;
        card.synchronize_all()?;
        free(card, address)
    })
}

fn free(card: &mut Card, address: u64) -> Outcome {
    card.device.free(address).map_err(|error| {
        card.message = error.to_string();
        code::INVALID_VALUE
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: u64, stream: u64) -> u32 {
    on_card(|card| {
        card.outside_capture()?;
        card.enqueue(super::api_stream::resolve(stream), Command::Free { address })
    })
}

/// Memory that a card may read at any time until a copy has been waited for. It begins with bytes that are no number.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(host: *mut *mut c_void, bytes: usize, _flags: c_uint) -> u32 {
    on_card(|card| {
        if bytes == 0 || bytes > 1 << 40 {
            return Err(code::INVALID_VALUE);
        }
        let mut words = vec![u64::MAX; bytes.div_ceil(8)];
        let at = words.as_mut_ptr();
        card.unpinned.remove(&(at as usize));
        card.pinned.insert(at as usize, words);
        // SAFETY: the caller's pointer.
        unsafe { put(host, at.cast()) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(host: *mut c_void) -> u32 {
    on_card(|card| match card.pinned.remove(&(host as usize)) {
        Some(_) => {
            card.unpinned.insert(host as usize);
            Ok(())
        }
        None => Err(code::INVALID_VALUE),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: u64,
) -> u32 {
    on_card(|card| {
        let stream = super::api_stream::resolve(stream);
        let late =
            card.is_pinned(from as usize, bytes) || card.captures.iter().any(|c| c.has(stream));
        let from = if late {
            HostBytes::Late { address: from as usize, len: bytes }
        } else {
            // SAFETY: the caller gives `bytes` bytes.
            HostBytes::Staged(Arc::new(unsafe { bytes_of(from, bytes) }.to_vec()))
        };
        card.enqueue(stream, Command::ToDevice { to, from })
    })
}

/// # Safety
/// `from` is valid for `bytes` bytes, or `bytes` is 0.
unsafe fn bytes_of<'a>(from: *const c_void, bytes: usize) -> &'a [u8] {
    if bytes == 0 {
        return &[];
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(from.cast(), bytes) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> u32 {
    on_card(|card| {
        card.outside_capture()?;
        // SAFETY: the caller gives `bytes` bytes.
        let from = HostBytes::Staged(Arc::new(unsafe { bytes_of(from, bytes) }.to_vec()));
        card.enqueue(0, Command::ToDevice { to, from })?;
        card.synchronize(0)
    })
}

/// To pinned memory when it runs; a copy to pageable memory has happened when the call returns.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: u64,
) -> u32 {
    on_card(|card| {
        let stream = super::api_stream::resolve(stream);
        let late = card.is_pinned(to as usize, bytes);
        let captured = card.captures.iter().any(|c| c.has(stream));
        card.enqueue(stream, Command::ToHost { to: to as usize, from, len: bytes })?;
        if late || captured { Ok(()) } else { card.synchronize(stream) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> u32 {
    on_card(|card| {
        card.outside_capture()?;
        card.enqueue(0, Command::ToHost { to: to as usize, from, len: bytes })?;
        card.synchronize(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) -> u32 {
    let command = Command::Copy { to, from, len: bytes as u64 };
    on_card(|card| card.enqueue(super::api_stream::resolve(stream), command))
}

/// Between memories of one card it does not wait for the host.
#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32 {
    on_card(|card| {
        card.outside_capture()?;
        card.enqueue(0, Command::Copy { to, from, len: bytes as u64 })
    })
}

fn fill(to: u64, pattern: Vec<u8>, count: usize, stream: u64) -> u32 {
    let command = Command::Fill { to, pattern, count: count as u64 };
    on_card(|card| card.enqueue(super::api_stream::resolve(stream), command))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: u64) -> u32 {
    fill(to, vec![value], count, stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: u64) -> u32 {
    fill(to, value.to_le_bytes().to_vec(), count, stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: u64) -> u32 {
    fill(to, value.to_le_bytes().to_vec(), count, stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> u32 {
    fill(to, vec![value], count, 0)
}

/// The default pool is the card's memory itself: there is nothing to set and nothing to trim.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut u64, device: c_int) -> u32 {
    // SAFETY: the caller's pointer.
    on_card(|_| unsafe { put(pool, 0x4000_0000 + device as u64) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetMemPool(pool: *mut u64, device: c_int) -> u32 {
    // SAFETY: the same contract.
    unsafe { cuDeviceGetDefaultMemPool(pool, device) }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAttribute(_pool: u64, _attribute: c_int, value: *const c_void) -> u32 {
    on_card(|_| if value.is_null() { Err(code::INVALID_VALUE) } else { Ok(()) })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolTrimTo(_pool: u64, _keep: usize) -> u32 {
    on_card(|_| Ok(()))
}
