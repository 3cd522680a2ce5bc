//! Entry points: the driver itself, devices, contexts, error words.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use super::card::Card;
use super::config::Config;
use super::{CURRENT, Outcome, call, code, on_card, put, ready};
use crate::profile::{
    BLOCK_THREADS_MAX, BLOCK_Z_MAX, GRID_X_MAX, GRID_YZ_MAX, Profile, SHARED_DEFAULT_BYTES,
    SHARED_RESERVED_BYTES,
};

/// The variable that configures the library where no code does: a server that a test starts as a process.
const VARIABLE: &str = "HADAL_SIM";

/// The CUDA version the driver claims: 13.0.
const DRIVER_VERSION: c_int = 13_000;

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> u32 {
    call(|driver| {
        if driver.initialised {
            return Ok(());
        }
        if driver.config.is_none() {
            #[allow(
                clippy::disallowed_methods,
                reason = "a library that is loaded by its name is told no other way"
            )]
            let text = std::env::var(VARIABLE).unwrap_or_default();
            match Config::parse(&text) {
                Ok(config) => driver.config = Some(config),
                Err(what) => {
                    eprintln!("cuda-sim: {VARIABLE}: {what}");
                    return Err(code::INVALID_VALUE);
                }
            }
        }
        let config = driver.config.clone().unwrap_or_default();
        if config.devices.is_empty() {
            return Err(code::NO_DEVICE);
        }
        driver.cards = config.devices.iter().map(|profile| Card::new(profile, &config)).collect();
        driver.initialised = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> u32 {
    // SAFETY: the caller's pointer, by the entry point's contract.
    call(|_| unsafe { put(version, DRIVER_VERSION) })
}

/// Runs with the card of a device's number.
fn on_device(device: c_int, f: impl FnOnce(&mut Card) -> Outcome) -> u32 {
    ready(|driver| {
        let at = usize::try_from(device).map_err(|_| code::INVALID_DEVICE)?;
        f(driver.cards.get_mut(at).ok_or(code::INVALID_DEVICE)?)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> u32 {
    // SAFETY: the caller's pointer.
    ready(|driver| unsafe { put(count, driver.cards.len() as c_int) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> u32 {
    // SAFETY: the caller's pointer.
    on_device(ordinal, |_| unsafe { put(device, ordinal) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) -> u32 {
    on_device(device, |card| {
        let text = card.device.profile().name.as_bytes();
        let Some(room) = usize::try_from(len).ok().filter(|len| *len > 0 && !name.is_null()) else {
            return Err(code::INVALID_VALUE);
        };
        let n = text.len().min(room - 1);
        // SAFETY: the caller gives `len` bytes, and `n` is less.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), n);
            name.add(n).write(0);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) -> u32 {
    // SAFETY: the caller's pointer.
    on_device(device, |card| unsafe {
        let mut bytes = *b"cuda-sim card 00";
        bytes[14] += card.device.profile().major as u8;
        bytes[15] += device as u8;
        put(uuid, bytes)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> u32 {
    // SAFETY: the same contract.
    unsafe { cuDeviceGetUuid(uuid, device) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> u32 {
    // SAFETY: the caller's pointer.
    on_device(device, |card| unsafe { put(bytes, card.device.memory.capacity() as usize) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    device: c_int,
) -> u32 {
    on_device(device, |card| match attribute_of(card.device.profile(), attribute) {
        // SAFETY: the caller's pointer.
        Some(found) => unsafe { put(value, found as c_int) },
        None => {
            card.message = format!("device attribute {attribute} is not simulated");
            Err(code::INVALID_VALUE)
        }
    })
}

/// Attributes by `CUdevice_attribute`'s numbers. What is not here is not known, and is refused.
fn attribute_of(p: &Profile, attribute: c_int) -> Option<u32> {
    Some(match attribute {
        1..=3 => BLOCK_THREADS_MAX,
        4 => BLOCK_Z_MAX,
        5 => GRID_X_MAX,
        6 | 7 => GRID_YZ_MAX,
        8 => SHARED_DEFAULT_BYTES,
        // Constant memory.
        9 => 64 << 10,
        // Lanes of a warp.
        10 => 32,
        // Registers of a block, and of a multiprocessor.
        12 | 82 => 64 << 10,
        13 => p.clock_khz,
        16 => p.multiprocessors,
        // Integrated, managed memory, concurrent managed access: none.
        18 | 83 | 89 => 0,
        // Concurrent kernels, unified addresses, stream priorities, cooperative launches, memory pools.
        31 | 41 | 78 | 95 | 115 => 1,
        36 => p.memory_khz,
        37 => p.bus_bits,
        38 => p.l2_bytes,
        39 => p.threads_per_sm,
        // Copy engines.
        40 => 2,
        75 => p.major,
        76 => p.minor,
        81 => p.shared_per_sm_bytes,
        97 => p.shared_optin_bytes,
        106 => p.blocks_per_sm,
        111 => SHARED_RESERVED_BYTES,
        _ => return None,
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut u64, device: c_int) -> u32 {
    on_device(device, |card| {
        card.retained += 1;
        // SAFETY: the caller's pointer.
        unsafe { put(context, device as u64 + 1) }
    })
}

/// The last release takes the context away, and all that is in it. What was still allocated stays in the leak report.
#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> u32 {
    on_device(device, |card| {
        card.retained = card.retained.checked_sub(1).ok_or(code::INVALID_CONTEXT)?;
        if card.retained == 0 && card.failed.is_none() {
            // The driver finishes what is in the streams.
            card.synchronize_all()?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(context: *mut u64) -> u32 {
    // SAFETY: the caller's pointer.
    ready(|_| unsafe { put(context, CURRENT.get()) })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: u64) -> u32 {
    ready(|driver| {
        if context as usize > driver.cards.len() {
            return Err(code::INVALID_CONTEXT);
        }
        CURRENT.set(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(_flags: c_uint) -> u32 {
    on_card(|_| Ok(()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> u32 {
    // SAFETY: the caller's pointers.
    on_card(|_| unsafe { put(least, 0).and_then(|()| put(greatest, -5)) })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> u32 {
    on_card(|card| {
        card.outside_capture()?;
        card.synchronize_all()
    })
}

/// A code's name and words.
fn words(error: u32) -> Option<(&'static CStr, &'static CStr)> {
    Some(match error {
        code::SUCCESS => (c"CUDA_SUCCESS", c"no error"),
        code::INVALID_VALUE => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        code::OUT_OF_MEMORY => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        code::NOT_INITIALIZED => (c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
        code::NO_DEVICE => (c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
        code::INVALID_DEVICE => (c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        code::INVALID_IMAGE => (c"CUDA_ERROR_INVALID_IMAGE", c"device kernel image is invalid"),
        code::INVALID_CONTEXT => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        code::NO_BINARY_FOR_GPU => (
            c"CUDA_ERROR_NO_BINARY_FOR_GPU",
            c"no kernel image is available for execution on the device",
        ),
        code::INVALID_PTX => (c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
        code::INVALID_HANDLE => (c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
        code::NOT_FOUND => (c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        code::NOT_READY => (c"CUDA_ERROR_NOT_READY", c"device not ready"),
        code::ILLEGAL_ADDRESS => {
            (c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered")
        }
        code::LAUNCH_TIMEOUT => {
            (c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the launch timed out and was terminated")
        }
        code::ASSERT => (c"CUDA_ERROR_ASSERT", c"device-side assert triggered"),
        code::MISALIGNED_ADDRESS => (c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address"),
        code::LAUNCH_FAILED => (c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
        code::CAPTURE_UNSUPPORTED => (
            c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
            c"operation not permitted when stream is capturing",
        ),
        code::CAPTURE_INVALIDATED => (
            c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
            c"operation failed due to a previous error during capture",
        ),
        code::CAPTURE_UNMATCHED => {
            (c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", c"capture was not initiated in this stream")
        }
        code::CAPTURE_UNJOINED => {
            (c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", c"capturing stream has unjoined work")
        }
        code::CAPTURE_IMPLICIT => (
            c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
            c"operation would make the legacy stream depend on a capturing blocking stream",
        ),
        code::UNKNOWN => (c"CUDA_ERROR_UNKNOWN", c"unknown error"),
        _ => return None,
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(error: u32, text: *mut *const c_char) -> u32 {
    call(|_| match words(error) {
        // SAFETY: the caller's pointer.
        Some((name, _)) => unsafe { put(text, name.as_ptr()) },
        None => Err(code::INVALID_VALUE),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(error: u32, text: *mut *const c_char) -> u32 {
    call(|_| match words(error) {
        // SAFETY: the caller's pointer.
        Some((_, words)) => unsafe { put(text, words.as_ptr()) },
        None => Err(code::INVALID_VALUE),
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStart() -> u32 {
    on_card(|_| Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStop() -> u32 {
    on_card(|_| Ok(()))
}

/// Contexts of one's own are not simulated: every caller shares a card's primary one.
#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy_v2(_context: *mut c_void) -> u32 {
    code::INVALID_CONTEXT
}
