//! What a check asks of a card, and parameters as bytes.

use std::fmt;

use crate::{Grid, Kernel, abi};

/// Why a check did not pass: a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

/// What a check gives.
pub type Result<T> = std::result::Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// What the choice of kernels and their geometry depends on; never a card's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Compute capability: 80, 86, 89, 90, 120.
    pub arch: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory a block may have after opting in.
    pub shared_optin_bytes: u32,
}

/// A card: memory by address, copies, launches. Everything is done in the order it was asked for.
pub trait Card {
    /// What the card can do.
    fn caps(&self) -> Caps;
    /// Memory, aligned to 256 bytes, whose content is not defined.
    fn alloc(&mut self, bytes: usize) -> Result<u64>;
    /// Gives memory back.
    fn free(&mut self, at: u64) -> Result<()>;
    /// Copies to the card.
    fn upload(&mut self, at: u64, bytes: &[u8]) -> Result<()>;
    /// Copies from the card, after what was launched.
    fn download(&mut self, at: u64, bytes: &mut [u8]) -> Result<()>;
    /// Starts a kernel. `params` are the bytes of the struct that it takes.
    ///
    /// # Safety
    /// `params` is the struct that `kernel` takes, and its pointers cover the shapes in it.
    unsafe fn launch(&mut self, kernel: Kernel, grid: Grid, params: &[u8]) -> Result<()>;
    /// Seconds that a launch takes: the median of `n` of them, each by the card's own clock and with nothing of its input
    /// in a cache; none on a card without a clock.
    ///
    /// # Safety
    /// As for [`Card::launch`].
    unsafe fn time(
        &mut self,
        kernel: Kernel,
        grid: Grid,
        params: &[u8],
        n: u32,
    ) -> Result<Option<f64>> {
        let _ = (kernel, grid, params, n);
        Ok(None)
    }
}

/// A kernel's parameters.
///
/// # Safety
/// The type is plain data without holes: every byte of it is part of a field.
pub unsafe trait Params: Copy {
    /// The struct as the kernel reads it.
    fn bytes(&self) -> &[u8] {
        // SAFETY: the trait's contract: every byte is initialised, and any byte may be read as one.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

macro_rules! params {
    ($($name:ident),+ $(,)?) => {
        // SAFETY: the headers assert that a struct is as large as its fields together.
        $(unsafe impl Params for abi::$name {})+
    };
}

params!(
    EmbedParams,
    RmsNormParams,
    AddRmsNormParams,
    LinearParams,
    HeadLinearParams,
    RopeParams,
    CacheStoreParams,
    CacheStoreHeadsParams,
    MlaDecodeParams,
    MlaExpandParams,
    MlaPrefillParams,
    RouteLogitsParams,
    RouteParams,
    ExpertsDispatchParams,
    ExpertsGateUpParams,
    ExpertsDownParams,
    ExpertsCombineParams,
    SwigluParams,
    GatherRowsParams,
    SampleParams,
    SampleRule,
    SamplePenalty,
    SampleBias,
    PageCopyParams,
);
