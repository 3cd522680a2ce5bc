//! Entry points: modules, functions, launches.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::card::{Card, handle};
use super::queue::Command;
use super::{code, fatbin, on_card, put};
use crate::exec::Grid;
use crate::fault::Error;
use crate::ptx::Module;

/// `CU_FUNC_ATTRIBUTE_*`.
const MAX_THREADS_PER_BLOCK: c_int = 0;
const SHARED_SIZE_BYTES: c_int = 1;
const CONST_SIZE_BYTES: c_int = 2;
const LOCAL_SIZE_BYTES: c_int = 3;
const PTX_VERSION: c_int = 5;
const BINARY_VERSION: c_int = 6;
const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
const PREFERRED_SHARED_CARVEOUT: c_int = 9;

fn load(card: &mut Card, image: &[u8]) -> Result<u64, u32> {
    card.outside_capture()?;
    let arch = card.device.profile().arch();
    let loaded = fatbin::choose(image, arch)
        .and_then(|ptx| Module::parse(&ptx))
        .and_then(|module| card.device.load(Arc::new(module)));
    match loaded {
        Ok(loaded) => {
            let module = handle();
            card.modules.insert(module, loaded);
            Ok(module)
        }
        Err(error) => {
            card.message = error.to_string();
            eprintln!("cuda-sim: {error}");
            Err(match error {
                Error::Ptx { .. } => code::INVALID_PTX,
                Error::Image(what) if what.starts_with("no code") => code::NO_BINARY_FOR_GPU,
                Error::OutOfMemory { .. } => code::OUT_OF_MEMORY,
                _ => code::INVALID_IMAGE,
            })
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(module: *mut u64, image: *const c_void) -> u32 {
    on_card(|card| {
        if image.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: the caller gives an image of one of the kinds that a driver takes.
        let bytes = unsafe { fatbin::image_bytes(image.cast()) }.map_err(|error| {
            card.message = error.to_string();
            code::INVALID_IMAGE
        })?;
        // SAFETY: the caller's pointer.
        load(card, bytes).and_then(|loaded| unsafe { put(module, loaded) })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut u64,
    image: *const c_void,
    _count: c_uint,
    _options: *const c_int,
    _values: *const *const c_void,
) -> u32 {
    // SAFETY: the same contract; options steer a compiler that is not here.
    unsafe { cuModuleLoadData(module, image) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoad(module: *mut u64, path: *const c_char) -> u32 {
    on_card(|card| {
        if path.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: the caller gives a text with its end.
        let path = unsafe { CStr::from_ptr(path) }.to_str().map_err(|_| code::INVALID_VALUE)?;
        let image = std::fs::read(path).map_err(|error| {
            card.message = format!("{path}: {error}");
            code::NOT_FOUND
        })?;
        // SAFETY: the caller's pointer.
        load(card, &image).and_then(|loaded| unsafe { put(module, loaded) })
    })
}

/// Waits for all work: what runs may be the module's.
#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: u64) -> u32 {
    on_card(|card| {
        card.synchronize_all()?;
        let loaded = card.modules.remove(&module).ok_or(code::INVALID_HANDLE)?;
        card.functions.retain(|_, (of, _)| *of != module);
        card.device.unload(&loaded).map_err(|_| code::UNKNOWN)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut u64,
    module: u64,
    name: *const c_char,
) -> u32 {
    on_card(|card| {
        let loaded = card.modules.get(&module).ok_or(code::INVALID_HANDLE)?;
        // SAFETY: the caller gives a text with its end.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| code::INVALID_VALUE)?;
        let Some(found) = loaded.function(name) else {
            card.message = format!("the module has no kernel `{name}`");
            return Err(code::NOT_FOUND);
        };
        let id = handle();
        card.functions.insert(id, (module, found));
        // SAFETY: the caller's pointer.
        unsafe { put(function, id) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetGlobal_v2(
    address: *mut u64,
    bytes: *mut usize,
    module: u64,
    name: *const c_char,
) -> u32 {
    on_card(|card| {
        let loaded = card.modules.get(&module).ok_or(code::INVALID_HANDLE)?;
        // SAFETY: the caller gives a text with its end.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| code::INVALID_VALUE)?;
        let (at, size) = loaded.global(name).ok_or(code::NOT_FOUND)?;
        // SAFETY: the caller's pointers, either of which may be null.
        unsafe {
            if !address.is_null() {
                put(address, at)?;
            }
            if bytes.is_null() { Ok(()) } else { put(bytes, size as usize) }
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: u64) -> u32 {
    on_card(|card| {
        let arch = card.device.profile().arch();
        let (_, function) = card.functions.get(&function).ok_or(code::INVALID_HANDLE)?;
        let kernel = &function.kernel;
        let found = match attribute {
            MAX_THREADS_PER_BLOCK => kernel.threads_max.unwrap_or(1024),
            SHARED_SIZE_BYTES => kernel.shared_bytes,
            CONST_SIZE_BYTES => 0,
            LOCAL_SIZE_BYTES => kernel.local_bytes,
            PTX_VERSION | BINARY_VERSION => arch,
            MAX_DYNAMIC_SHARED_SIZE_BYTES => function.dynamic_shared_max,
            // Registers are ptxas's to choose; no number here would mean anything.
            other => {
                card.message = format!("function attribute {other} is not simulated");
                return Err(code::INVALID_VALUE);
            }
        };
        // SAFETY: the caller's pointer.
        unsafe { put(value, found as c_int) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: u64, attribute: c_int, value: c_int) -> u32 {
    on_card(|card| {
        card.outside_capture()?;
        let most = card.device.profile().shared_optin_bytes;
        let (_, function) = card.functions.get_mut(&function).ok_or(code::INVALID_HANDLE)?;
        match attribute {
            MAX_DYNAMIC_SHARED_SIZE_BYTES => {
                let value = u32::try_from(value).map_err(|_| code::INVALID_VALUE)?;
                if u64::from(value) + u64::from(function.kernel.shared_bytes) > u64::from(most) {
                    card.message =
                        format!("{value} bytes of shared memory, the card has {most} a block");
                    return Err(code::INVALID_VALUE);
                }
                function.dynamic_shared_max = value;
                Ok(())
            }
            PREFERRED_SHARED_CARVEOUT => Ok(()),
            _ => Err(code::INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetCacheConfig(_function: u64, _config: c_int) -> u32 {
    on_card(|_| Ok(()))
}

/// What a launch is asked with.
struct Asked {
    function: u64,
    grid: Grid,
    stream: u64,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
}

/// # Safety
/// `params` points to as many pointers as the kernel has parameters, each to a parameter's value.
unsafe fn launch(asked: &Asked) -> u32 {
    on_card(|card| {
        let (_, function) = card.functions.get(&asked.function).ok_or(code::INVALID_HANDLE)?;
        if !asked.extra.is_null() {
            card.message = "a launch with packed parameters is not simulated".into();
            return Err(code::INVALID_VALUE);
        }
        let kernel = &function.kernel;
        if asked.params.is_null() && !kernel.params.is_empty() {
            return Err(code::INVALID_VALUE);
        }
        let mut bytes = vec![0u8; kernel.param_bytes];
        for (n, (at, len)) in kernel.params.iter().enumerate() {
            // SAFETY: one pointer a parameter, each valid for the parameter's bytes.
            let from =
                unsafe { std::slice::from_raw_parts((*asked.params.add(n)).cast::<u8>(), *len) };
            bytes[*at..at + len].copy_from_slice(from);
        }
        if let Err(error) = card.device.check_launch(function, asked.grid, bytes.len()) {
            card.message = error.to_string();
            eprintln!("cuda-sim: {error}");
            return Err(code::INVALID_VALUE);
        }
        let function = Box::new(function.clone());
        card.enqueue(asked.stream, Command::Launch { function, grid: asked.grid, params: bytes })
    })
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the driver's signature")]
unsafe extern "C" fn cuLaunchKernel(
    function: u64,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: u64,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> u32 {
    let grid = Grid {
        blocks: [grid_x, grid_y, grid_z],
        threads: [block_x, block_y, block_z],
        shared_bytes,
    };
    let stream = super::api_stream::resolve(stream);
    // SAFETY: the caller's contract is the same.
    unsafe { launch(&Asked { function, grid, stream, params, extra }) }
}

/// `CUlaunchConfig`.
#[repr(C)]
struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: u64,
    attributes: *const LaunchAttribute,
    n_attributes: c_uint,
}

/// `CUlaunchAttribute`: an id and 64 bytes.
#[repr(C)]
struct LaunchAttribute {
    id: c_int,
    pad: [u8; 4],
    value: [c_uint; 16],
}

/// `CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION`.
const CLUSTER: c_int = 4;

/// Overlap with the launch before is not simulated, so that attributes for it change nothing; clusters are refused.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernelEx(
    config: *const c_void,
    function: u64,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> u32 {
    if config.is_null() {
        return code::INVALID_VALUE;
    }
    // SAFETY: the caller gives a `CUlaunchConfig`.
    let config = unsafe { config.cast::<LaunchConfig>().read_unaligned() };
    for n in 0..config.n_attributes as usize {
        // SAFETY: as many attributes as the config says.
        let attribute = unsafe { config.attributes.add(n).read_unaligned() };
        let cluster = &attribute.value[..3];
        if attribute.id == CLUSTER && cluster.iter().any(|n| *n != 1) {
            return code::INVALID_VALUE;
        }
        let _ = attribute.pad;
    }
    let grid =
        Grid { blocks: config.grid, threads: config.block, shared_bytes: config.shared_bytes };
    let stream = super::api_stream::resolve(config.stream);
    // SAFETY: the caller's contract is the same.
    unsafe { launch(&Asked { function, grid, stream, params, extra }) }
}
