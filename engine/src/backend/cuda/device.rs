//! One card behind its driver: memory, copies, launches, recorded passes. The only user of the driver.
//!
//! Everything runs on one stream, in the order it was asked for. A device without a card answers every question about
//! memory and does nothing else: it counts what a model would take.

// tidy: allow-long the driver's crate has this one home, and none of it is about anything else.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cudarc::driver::sys::{
    self, CUdevice_attribute as Attribute, CUfunction_attribute, CUgraphInstantiate_flags,
    CUresult, CUstreamCaptureMode,
};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaSlice, CudaStream, DriverError, result,
};
use cudarc::nvrtc::Ptx;
use hadal_kernels::{Caps, Family, Grid, Kernel, Params, geometry};

use crate::error::{Error, Result};

/// What the kernels are made for at least.
const ARCH_MIN: u32 = 80;
/// Memory is handed out in pieces of this many bytes.
const PIECE_BYTES: u64 = 512;

/// One card, or the account of one.
pub struct Device {
    card: Option<Card>,
    caps: Caps,
    name: String,
    /// Bytes asked for and not given back, in whole pieces; of an account, all that were asked for.
    asked_bytes: Cell<u64>,
}

/// A card that is there.
struct Card {
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    kernels: HashMap<Kernel, CudaFunction>,
}

/// Memory of a device, given back when it is dropped.
pub(super) struct Memory {
    at: u64,
    bytes: usize,
    held: Option<CudaSlice<u8>>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Whoever gives memory back last may be a thread that never asked the card for anything. A card that is lost has
        // nothing to take back.
        if let Some(held) = &self.held {
            let _ = held.context().bind_to_thread();
        }
    }
}

impl Memory {
    /// Its address, as kernels read it.
    pub(super) fn at<T>(&self) -> *const T {
        self.at as *const T
    }

    /// Its address, as kernels write it.
    pub(super) fn at_mut<T>(&self) -> *mut T {
        self.at as *mut T
    }

    /// Its size.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A recorded pass.
pub(super) struct Graph(CudaGraph);

// SAFETY: the driver asks that calls on a graph do not overlap, not that they come from one thread; whoever has the
// graph has it alone.
unsafe impl Send for Graph {}

/// What a card could do at best, by the clocks and widths that its driver tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Bytes a second of its memory.
    pub bytes_per_s: f64,
    /// Multiplications and additions a second: bf16 on tensor cores with sums in f32.
    pub mma_per_s: f64,
    /// The same in f32 without them.
    pub f32_per_s: f64,
}

/// Multiplications and additions that a multiprocessor does in a clock, bf16 on tensor cores and f32; from the data
/// sheets of cards of that capability. None where there is none at hand.
fn per_clock(arch: u32) -> Option<(f64, f64)> {
    match arch {
        80 => Some((2048.0, 128.0)),
        86 | 89 | 120 => Some((512.0, 256.0)),
        90 => Some((4096.0, 256.0)),
        _ => None,
    }
}

/// Two events between which something is timed, destroyed with it.
struct Stopwatch([sys::CUevent; 2]);

impl Stopwatch {
    fn new() -> std::result::Result<Self, DriverError> {
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let first = result::event::create(flags)?;
        match result::event::create(flags) {
            Ok(second) => Ok(Self([first, second])),
            Err(error) => {
                // SAFETY: it was made above and is used by nobody.
                let _ = unsafe { result::event::destroy(first) };
                Err(error)
            }
        }
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        for event in self.0 {
            // SAFETY: made by `new` and destroyed here alone.
            let _ = unsafe { result::event::destroy(event) };
        }
    }
}

/// Why there is no card to be had: a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoDevice(pub String);

/// How many cards the driver has.
///
/// # Errors
/// [`NoDevice`] where there is no driver, no card, or nothing in this build to run on one.
pub fn count() -> std::result::Result<usize, NoDevice> {
    if !hadal_kernels::HAVE_KERNELS {
        return Err(NoDevice("this build has no CUDA kernels".into()));
    }
    // The driver's crate looks for the library by its usual names, and panics where one is there and is none.
    let present = catch_unwind(|| {
        // SAFETY: opening the driver's library runs nothing but its own initialisation.
        unsafe { sys::is_culib_present() }
    });
    if !present.unwrap_or(false) {
        return Err(NoDevice("no CUDA driver is installed".into()));
    }
    match catch_unwind(CudaContext::device_count) {
        Ok(Ok(0)) => Err(NoDevice("the CUDA driver has no device".into())),
        Ok(Ok(n)) => Ok(usize::try_from(n).unwrap_or(0)),
        Ok(Err(error)) => Err(NoDevice(format!("the CUDA driver says: {}", words(error)))),
        Err(_) => Err(NoDevice("the CUDA driver is too old".into())),
    }
}

/// The driver's words for an error.
fn words(error: DriverError) -> String {
    let name = error.error_name().ok().map(|name| name.to_string_lossy().into_owned());
    let text = error.error_string().ok().map(|text| text.to_string_lossy().into_owned());
    match (text, name) {
        (Some(text), Some(name)) => format!("{text} ({name})"),
        (Some(text), None) | (None, Some(text)) => text,
        (None, None) => format!("error {}", error.0 as u32),
    }
}

impl Device {
    /// Opens card number `ordinal` and loads every kernel, so that nothing is loaded while a model runs.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn open(ordinal: usize) -> Result<Self> {
        let unnamed =
            |problem: String| Error::Device { device: format!("cuda:{ordinal}"), problem };
        let n = count().map_err(|why| unnamed(why.0))?;
        if ordinal >= n {
            return Err(unnamed(format!("there is no such device, the driver has {n}")));
        }
        // Entry points that an old driver lacks are a panic of the driver's crate.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_unguarded(ordinal)));
        opened.unwrap_or_else(|_| Err(unnamed("the CUDA driver is too old".into())))
    }

    fn open_unguarded(ordinal: usize) -> Result<Self> {
        let bare = |error: DriverError| Error::Device {
            device: format!("cuda:{ordinal}"),
            problem: words(error),
        };
        let context = CudaContext::new(ordinal).map_err(bare)?;
        let name = format!("cuda:{ordinal} ({})", context.name().map_err(bare)?);
        let named =
            |error: DriverError| Error::Device { device: name.clone(), problem: words(error) };
        let attribute = |which| context.attribute(which).map_err(named).map(|value| value as u32);
        let caps = Caps {
            arch: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? * 10
                + attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_optin_bytes: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
        };
        if caps.arch < ARCH_MIN {
            let problem = format!(
                "its compute capability is {}.{}, wanted {}.{} or later",
                caps.arch / 10,
                caps.arch % 10,
                ARCH_MIN / 10,
                ARCH_MIN % 10
            );
            return Err(Error::Device { device: name, problem });
        }
        // SAFETY: there is one stream, so there is no order between streams that events would have to keep.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(named)?;
        let kernels = kernels(&context, &caps).map_err(named)?;
        let card = Some(Card { stream, context, kernels });
        Ok(Self { card, caps, name, asked_bytes: Cell::new(0) })
    }

    /// The account of a card like this one: it gives addresses that are none and counts bytes.
    #[must_use]
    pub fn account(&self) -> Self {
        Self { card: None, caps: self.caps, name: self.name.clone(), asked_bytes: Cell::new(0) }
    }

    /// Whether this is an account alone, so that nobody need make what would be copied.
    pub(super) fn is_account(&self) -> bool {
        self.card.is_none()
    }

    /// What the choice of kernels depends on.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// `cuda:0 (NVIDIA H100)`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that were asked for, in whole pieces.
    pub fn asked_bytes(&self) -> u64 {
        self.asked_bytes.get()
    }

    /// Free bytes and bytes in all.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn memory(&self) -> Result<(u64, u64)> {
        let Some(card) = &self.card else { return Ok((0, 0)) };
        let (free, total) = card.context.mem_get_info().map_err(|error| self.error(error))?;
        Ok((free as u64, total as u64))
    }

    /// An error of this device.
    pub(super) fn problem(&self, problem: impl Into<String>) -> Error {
        Error::Device { device: self.name.clone(), problem: problem.into() }
    }

    fn error(&self, error: DriverError) -> Error {
        self.problem(words(error))
    }

    /// Memory of zeros.
    ///
    /// # Errors
    /// [`Error::Memory`] when there is not as much; [`Error::Device`].
    pub(super) fn zeros(&self, bytes: usize) -> Result<Memory> {
        let mut memory = self.room(bytes)?;
        if let (Some(card), Some(held)) = (&self.card, &mut memory.held) {
            card.stream.memset_zeros(held).map_err(|error| self.error(error))?;
        }
        Ok(memory)
    }

    /// Memory whose content is not defined, aligned to 256 bytes.
    ///
    /// # Errors
    /// As [`Device::zeros`].
    pub(super) fn room(&self, bytes: usize) -> Result<Memory> {
        // A driver gives no memory of no bytes.
        let bytes = bytes.max(1);
        let pieces = (bytes as u64).next_multiple_of(PIECE_BYTES);
        self.asked_bytes.set(self.asked_bytes.get().saturating_add(pieces));
        let Some(card) = &self.card else { return Ok(Memory { at: 0, bytes, held: None }) };
        // SAFETY: any bytes are bytes; who reads them before they are written is a kernel's business.
        let held = unsafe { card.stream.alloc::<u8>(bytes) }.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::Memory {
                what: "a part of the model on the card",
                needed_bytes: bytes as u64,
                free_bytes: self.memory().map_or(0, |(free, _)| free),
            },
            _ => self.error(error),
        })?;
        let at = {
            use cudarc::driver::DevicePtr;
            let (at, _nothing_to_wait_for) = held.device_ptr(&card.stream);
            at
        };
        Ok(Memory { at, bytes, held: Some(held) })
    }

    /// Copies bytes to `memory`, from byte `first` on. The bytes may change as soon as this returns.
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Internal`] where there is no room for them.
    pub(super) fn upload(&self, memory: &Memory, first: usize, bytes: &[u8]) -> Result<()> {
        self.inside(memory, first, bytes.len())?;
        let Some(card) = self.card.as_ref().filter(|_| !bytes.is_empty()) else { return Ok(()) };
        self.bind(card)?;
        // SAFETY: within the memory, by the check above. Memory that is not pinned is copied before the call returns.
        let copied = unsafe {
            result::memcpy_htod_async(memory.at + first as u64, bytes, card.stream.cu_stream())
        };
        copied.map_err(|error| self.error(error))
    }

    /// Copies bytes from `memory`, from byte `first` on, after everything that was asked for.
    ///
    /// # Errors
    /// As [`Device::upload`], and what went wrong on the card before.
    pub(super) fn download(&self, memory: &Memory, first: usize, bytes: &mut [u8]) -> Result<()> {
        self.inside(memory, first, bytes.len())?;
        let Some(card) = self.card.as_ref().filter(|_| !bytes.is_empty()) else { return Ok(()) };
        self.bind(card)?;
        // SAFETY: within the memory, by the check above, and waited for below.
        let copied = unsafe {
            result::memcpy_dtoh_async(bytes, memory.at + first as u64, card.stream.cu_stream())
        };
        copied.and_then(|()| card.stream.synchronize()).map_err(|error| self.error(error))
    }

    fn bind(&self, card: &Card) -> Result<()> {
        card.context.bind_to_thread().map_err(|error| self.error(error))
    }

    fn inside(&self, memory: &Memory, first: usize, n: usize) -> Result<()> {
        match first.checked_add(n) {
            Some(end) if end <= memory.bytes => Ok(()),
            _ => Err(Error::Internal {
                message: format!("{n} bytes from {first} on, of {} on {}", memory.bytes, self.name),
            }),
        }
    }

    /// Waits until everything that was asked for is done.
    ///
    /// # Errors
    /// What went wrong.
    pub(super) fn wait(&self) -> Result<()> {
        let Some(card) = &self.card else { return Ok(()) };
        card.stream.synchronize().map_err(|error| self.error(error))
    }

    /// Starts a kernel.
    ///
    /// # Safety
    /// `params` is the struct that the kernel takes, and its pointers cover the shapes in it.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(super) unsafe fn launch<P: Params>(
        &self,
        (kernel, grid): (Kernel, Grid),
        params: &P,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_bytes(kernel, grid, params.bytes()) }
    }

    /// The same with the bytes of the struct.
    ///
    /// # Safety
    /// As of [`Device::launch`].
    pub(super) unsafe fn launch_bytes(
        &self,
        kernel: Kernel,
        grid: Grid,
        params: &[u8],
    ) -> Result<()> {
        let Some(card) = &self.card else { return Ok(()) };
        let function = card.kernels.get(&kernel).ok_or_else(|| {
            self.problem(format!("kernel `{}` does not run on this card", kernel.entry()))
        })?;
        self.bind(card)?;
        let [x, y, z] = grid.blocks;
        let mut arguments = [params.as_ptr().cast_mut().cast()];
        // SAFETY: the driver copies the struct, whose size is the kernel's, before it returns; the rest is the caller's
        // promise.
        let launched = unsafe {
            result::launch_kernel(
                function_handle(function),
                (x, y, z),
                (grid.threads, 1, 1),
                grid.shared_bytes,
                card.stream.cu_stream(),
                &mut arguments,
            )
        };
        launched.map_err(|error| {
            self.problem(format!("cannot start kernel `{}`: {}", kernel.entry(), words(error)))
        })
    }

    /// What the card could do at best; none of an account, and of a card that is newer than this build.
    pub fn peaks(&self) -> Option<Peaks> {
        let attribute = |which| {
            let value = self.card.as_ref()?.context.attribute(which).ok()?;
            (value > 0).then_some(f64::from(value))
        };
        let (mma, f32) = per_clock(self.caps.arch)?;
        let clock = 1e3 * attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
        let memory_clock = 1e3 * attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
        let bus_bits = attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
        let clocks = clock * f64::from(self.caps.multiprocessors);
        Some(Peaks {
            // Both edges of the clock carry a bit.
            bytes_per_s: 2.0 * memory_clock * bus_bits / 8.0,
            mma_per_s: clocks * mma,
            f32_per_s: clocks * f32,
        })
    }

    /// Seconds of a launch by the card's own clock: the median of `n`, each after twice its second-level cache, or a
    /// sixteenth of what is free, has been written over.
    ///
    /// # Safety
    /// As of [`Device::launch`].
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Memory`].
    pub(super) unsafe fn time_bytes(
        &self,
        kernel: Kernel,
        grid: Grid,
        params: &[u8],
        n: u32,
    ) -> Result<f64> {
        let Some(card) = &self.card else { return Ok(0.0) };
        self.bind(card)?;
        let cache = card.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
        let cache = cache.map_err(|error| self.error(error))?.max(0) as u64;
        let over = self.room((2 * cache).min(self.memory()?.0 / 16) as usize)?;
        let timed = Stopwatch::new().map_err(|error| self.error(error))?;
        let stream = card.stream.cu_stream();
        let mut seconds = Vec::new();
        for _ in 0..n.max(1) {
            // SAFETY: all of the memory, which nobody else has.
            let wiped = unsafe { result::memset_d8_async(over.at, 1, over.bytes, stream) };
            // SAFETY: an event of this context that is destroyed behind this.
            let record = |event| unsafe { result::event::record(event, stream) };
            wiped.and_then(|()| record(timed.0[0])).map_err(|error| self.error(error))?;
            // SAFETY: the caller's promise.
            unsafe { self.launch_bytes(kernel, grid, params)? };
            record(timed.0[1])
                .and_then(|()| card.stream.synchronize())
                // SAFETY: both have been recorded on the one stream, and waited for.
                .and_then(|()| unsafe { result::event::elapsed(timed.0[0], timed.0[1]) })
                .map(|milliseconds| seconds.push(f64::from(milliseconds) / 1e3))
                .map_err(|error| self.error(error))?;
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }

    /// From here on nothing runs: what is launched is recorded.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(super) fn begin_recording(&self) -> Result<()> {
        let Some(card) = &self.card else { return Ok(()) };
        // Other threads may load models meanwhile: this one's calls alone are held to what recording allows.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        card.stream.begin_capture(mode).map_err(|error| self.error(error))
    }

    /// Ends a recording. `None` on an account.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(super) fn end_recording(&self) -> Result<Option<Graph>> {
        let Some(card) = &self.card else { return Ok(None) };
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = card.stream.end_capture(flags).map_err(|error| self.error(error))?;
        let graph = graph.ok_or_else(|| self.problem("recorded nothing"))?;
        graph.upload().map_err(|error| self.error(error))?;
        Ok(Some(Graph(graph)))
    }

    /// Runs a recorded pass.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(super) fn replay(&self, graph: &Graph) -> Result<()> {
        graph.0.launch().map_err(|error| self.error(error))
    }
}

fn function_handle(function: &CudaFunction) -> sys::CUfunction {
    function.cu_function()
}

/// Every kernel that the card has room for, allowed the shared memory that the card gives a block.
fn kernels(
    context: &Arc<CudaContext>,
    caps: &Caps,
) -> std::result::Result<HashMap<Kernel, CudaFunction>, DriverError> {
    let mut kernels = HashMap::new();
    for family in Family::ALL {
        let module =
            context.load_module(Ptx::from_binary(hadal_kernels::image(*family).to_vec()))?;
        let of_family = Kernel::ALL.iter().filter(|kernel| kernel.family() == *family);
        for kernel in of_family.filter(|kernel| geometry::fits(**kernel, caps)) {
            let function = module.load_function(kernel.entry())?;
            let own = function.shared_size_bytes()?;
            function.set_attribute(
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                caps.shared_optin_bytes as i32 - own,
            )?;
            kernels.insert(*kernel, function);
        }
    }
    Ok(kernels)
}
