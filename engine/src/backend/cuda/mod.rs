//! The CUDA backend: hand-written kernels, launched in order on one stream of one card.
//!
//! The residual stream and logits are f32, every other activation is bf16, sums are f32. Rows are padded with zeros to
//! a multiple of 16 numbers, so that any configuration runs. Nothing is allocated, loaded or waited for inside a step;
//! the host reads the drawn tokens and one counter at its end. Which kernel runs is a function of shapes and of the
//! card's capabilities, and a row's bits do not depend on what else is in the step.
//!
//! Operations return nothing: the first thing that goes wrong is kept, the rest of the step does nothing, and
//! [`Backend::sample`](super::Backend::sample) or the next `begin` reports it.
//!
//! Passes of decoding rows alone are recorded once for some numbers of rows, and replayed with one call: between
//! `begin` and `sample` the operations of such a step do nothing. Rows that fill up a recording are copies of its first
//! row, which write their latents to a page that no sequence has.

mod device;
mod experts;
mod head_linear;
mod linear;
mod mla_decode;
mod mla_prefill;
mod operations;
mod pack;
mod plan;
mod rms_norm;
mod rope;
mod route;
mod rows;
mod sample;
mod selftest;
mod times;
mod weight;
mod work;

pub use device::{Device, NoDevice, Peaks, count};
pub use hadal_kernels::check::Shrink;
pub use plan::Plan;
pub use route::Routing;
pub use selftest::{CheckCard, Depth, DeviceReport, report};
pub use times::time_kernels;
pub use weight::{Experts, Weight};

use device::{Graph, Memory};
use work::Work;

use super::{MlaShape, Role};
use crate::checkpoint::{Keep, Quant};
use crate::error::{Error, Result};
use crate::quant::bf16;

/// Numbers of decoding rows whose passes are recorded.
const RECORDED_ROWS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Rows of a buffer begin at multiples of this many numbers.
const ROW_NUMBERS: usize = 16;

/// What the backend is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaOptions {
    /// How matrices are kept; `None`: as they are stored.
    pub quant: Option<Quant>,
    /// Whether passes are recorded and replayed.
    pub records: bool,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self { quant: None, records: true }
    }
}

/// What the numbers of a buffer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    F32,
    Bf16,
}

impl Number {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Rows of numbers on the card, each padded with zeros.
pub struct Buf {
    memory: Memory,
    number: Number,
    rows: usize,
    dim: usize,
    stride: usize,
}

impl Buf {
    /// Its address to read from.
    fn at<T>(&self) -> *const T {
        self.memory.at()
    }

    /// Its address to write to; `&mut` is the promise that nothing else reads it in this call.
    fn at_mut<T>(&mut self) -> *mut T {
        self.memory.at_mut()
    }

    fn stride(&self) -> u32 {
        self.stride as u32
    }
}

/// One layer's latent cache, bf16 rows; a page more than sequences may have.
pub struct Cache {
    memory: Memory,
    stride: usize,
}

/// What the next operations do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// They run.
    Running,
    /// They are recorded, for so many rows.
    Recording(usize),
    /// They have been recorded: the recording runs at the end.
    Replaying(usize),
}

/// The CUDA backend: a card, scratch, recorded passes.
pub struct Cuda {
    graphs: Vec<(usize, Graph)>,
    work: Option<Work>,
    /// `[touched u64, a place for counts nobody wants u64, tokens]`.
    results: Option<Memory>,
    device: Device,
    keep: Keep,
    records: bool,
    mla: Option<MlaShape>,
    mode: Mode,
    records_next: bool,
    /// Experts touched, as of the last step that drew a token.
    touched: u64,
    /// What went wrong in this step, until it is reported.
    failed: Option<Error>,
    /// What went wrong once.
    lost: Option<String>,
    /// Bytes of the device that weights took.
    weight_bytes: u64,
}

impl Cuda {
    /// The backend on a card.
    pub fn new(device: Device, options: CudaOptions) -> Self {
        Self {
            graphs: Vec::new(),
            work: None,
            results: None,
            device,
            keep: Keep::from(options.quant.map(|quant| quant.target)),
            records: options.records,
            mla: None,
            mode: Mode::Running,
            records_next: false,
            touched: 0,
            failed: None,
            lost: None,
            weight_bytes: 0,
        }
    }

    /// The backend on the account of a card: it loads anything, takes nothing, and knows how much it would have taken.
    pub fn account(device: &Device, options: CudaOptions) -> Self {
        Self::new(device.account(), options)
    }

    /// The card.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of the device that weights took.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Makes a weight and counts what it took.
    fn counted<T>(&mut self, make: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let before = self.device.asked_bytes();
        let made = make(self)?;
        self.weight_bytes += self.device.asked_bytes() - before;
        Ok(made)
    }

    /// Runs one operation of a step: not after one that failed, and not where a recording will run.
    fn run(&mut self, operation: impl FnOnce(&Self) -> Result<()>) {
        if self.failed.is_some() || matches!(self.mode, Mode::Replaying(_)) {
            return;
        }
        if let Err(error) = operation(self) {
            self.failed = Some(error);
        }
    }

    /// Reports what went wrong, once in its own words and ever after as gone.
    fn check(&mut self) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(self.lose(error));
        }
        match &self.lost {
            Some(why) => Err(self.device.problem(format!("lost after: {why}"))),
            None => Ok(()),
        }
    }

    fn lose(&mut self, error: Error) -> Error {
        self.mode = Mode::Running;
        self.lost.get_or_insert_with(|| error.to_string());
        error
    }

    fn buffer(&self, rows: usize, dim: usize, number: Number) -> Result<Buf> {
        let stride = dim.next_multiple_of(ROW_NUMBERS);
        let memory = self.device.zeros(rows * stride * number.bytes())?;
        Ok(Buf { memory, number, rows, dim, stride })
    }

    /// A buffer with these rows.
    fn filled(&self, values: &[f32], dim: usize, number: Number) -> Result<Buf> {
        let rows = values.len().checked_div(dim).unwrap_or(0);
        let buf = self.buffer(rows, dim, number)?;
        if self.device.is_account() || rows == 0 {
            return Ok(buf);
        }
        let mut bytes = vec![0u8; rows * buf.stride * number.bytes()];
        let each = bytes.chunks_exact_mut(buf.stride * number.bytes());
        for (to, from) in each.zip(values.chunks_exact(dim)) {
            for (to, value) in to.chunks_exact_mut(number.bytes()).zip(from) {
                match number {
                    Number::F32 => to.copy_from_slice(&value.to_le_bytes()),
                    Number::Bf16 => to.copy_from_slice(&bf16::from_f32(*value).to_le_bytes()),
                }
            }
        }
        self.device.upload(&buf.memory, 0, &bytes)?;
        Ok(buf)
    }

    /// The first rows of `dim` numbers.
    fn read_rows(&self, buf: &Buf, dim: usize, out: &mut [f32]) -> Result<()> {
        let row_bytes = buf.stride * buf.number.bytes();
        let mut bytes = vec![0u8; out.len().checked_div(dim).unwrap_or(0) * row_bytes];
        self.device.download(&buf.memory, 0, &mut bytes)?;
        for (from, to) in bytes.chunks_exact(row_bytes).zip(out.chunks_exact_mut(dim)) {
            decode(buf.number, from, to);
        }
        Ok(())
    }

    /// The row of a cache at `slot`.
    fn read_cache(&self, cache: &Cache, slot: usize, out: &mut [f32]) -> Result<()> {
        let mut bytes = vec![0u8; out.len() * 2];
        self.device.download(&cache.memory, slot * cache.stride * 2, &mut bytes)?;
        decode(Number::Bf16, &bytes, out);
        Ok(())
    }

    fn work(&self) -> Result<&Work> {
        self.work.as_ref().ok_or_else(|| bug("scratch", "it is made before a step"))
    }

    fn results(&self) -> Result<&Memory> {
        self.results.as_ref().ok_or_else(|| bug("results", "they are made before a step"))
    }
}

fn decode(number: Number, bytes: &[u8], out: &mut [f32]) {
    let bytes = &bytes[..out.len() * number.bytes()];
    match number {
        Number::F32 => crate::quant::f32::decode(bytes, out),
        Number::Bf16 => bf16::decode(bytes, out),
    }
}

/// Something the model could not have asked for.
fn bug(what: &str, problem: &str) -> Error {
    Error::Internal { message: format!("{what}: {problem}") }
}

/// Holds a buffer to what an operation reads or writes of it.
fn check(what: &str, buf: &Buf, number: Number, rows: usize, dim: usize) -> Result<()> {
    if buf.number != number || rows > buf.rows || dim > buf.stride {
        let has = format!("{:?} [{}, {}]", buf.number, buf.rows, buf.dim);
        return Err(bug(what, &format!("is {has}, wanted {number:?} [{rows}, {dim}]")));
    }
    Ok(())
}

fn number_of(role: Role) -> Number {
    match role {
        Role::Sum => Number::F32,
        Role::Inner => Number::Bf16,
    }
}
