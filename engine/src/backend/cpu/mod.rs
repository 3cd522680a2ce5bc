//! The CPU backend: a product path of its own, and a second opinion on every kernel to come.
//!
//! Activations are f32. Matrices are used where they lie in the mapped checkpoint. Work is spread over one [`pool`];
//! the order of every sum is fixed by the row's own shape and position, so threads, batch and chunks never change a
//! bit of a result. One operation a file; all vector code is in [`simd`].

mod embed;
mod experts;
mod gather_rows;
mod head_linear;
mod linear;
mod mla_decode;
mod mla_prefill;
mod operations;
mod plan;
mod pool;
mod quantise;
mod rms_norm;
mod rope;
mod route;
mod sample;
mod simd;
mod swiglu;
#[cfg(test)]
mod testing;

pub use plan::Plan;
pub use route::Routing;
pub use simd::peak;

use pool::Pool;
use simd::multiply::{Order, PairRows};

use super::ScratchShape;
use crate::checkpoint::{Bytes, Quant, Scales, Target, Tensor};
use crate::error::{Error, Result};
use crate::quant::DType;

/// Which instructions the kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust; runs everywhere.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and BF16 (`vdpbf16ps`).
    Avx512Bf16,
    /// The same with AMX tiles for bf16 (`tdpbf16ps`).
    Amx,
}

impl Isa {
    /// Reads a flag's value.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "portable" => Ok(Self::Portable),
            "avx2" => Ok(Self::Avx2),
            "avx512" => Ok(Self::Avx512Bf16),
            "amx" => Ok(Self::Amx),
            _ => Err(Error::Setting {
                name: "isa",
                got: name.into(),
                want: "portable, avx2, avx512 or amx".into(),
            }),
        }
    }

    /// The flag's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512Bf16 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512Bf16.is_available() && simd::amx::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Whether bf16 numbers are multiplied as they are.
    fn multiplies_bf16(self) -> bool {
        self >= Self::Avx512Bf16
    }

    /// The best this processor has.
    pub fn best() -> Self {
        [Self::Amx, Self::Avx512Bf16, Self::Avx2]
            .into_iter()
            .find(|isa| isa.is_available())
            .unwrap_or(Self::Portable)
    }
}

/// What a bf16 matrix is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// f32 inputs; bf16 weights are widened in registers.
    F32,
    /// Each input as a pair of bf16 numbers (value and remainder), for `vdpbf16ps`; f32 matrices still take f32.
    /// See docs/decisions/0004.
    Bf16,
}

impl Activations {
    /// Reads a flag's value.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(Error::Setting {
                name: "activations",
                got: name.into(),
                want: "f32 or bf16".into(),
            }),
        }
    }

    /// The flag's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// What the CPU backend is made with.
#[derive(Debug, Clone, Default)]
pub struct CpuOptions {
    /// Compute threads; `None`: the processors this process may use.
    pub threads: Option<usize>,
    /// `None`: the best this processor has.
    pub isa: Option<Isa>,
    /// `None`: bf16 with [`Isa::Avx512Bf16`] and [`Isa::Amx`], f32 otherwise.
    pub activations: Option<Activations>,
    /// How matrices are kept; `None`: as they are stored.
    pub quant: Option<Quant>,
}

/// A matrix where it lies: `[n_out, dim]`, rows back to back.
pub struct Weight {
    bytes: Bytes,
    dtype: DType,
    n_out: usize,
    dim: usize,
    row_bytes: usize,
    scales: Option<Scales>,
}

impl Weight {
    /// Takes a tensor of one or two dimensions.
    fn new(tensor: &Tensor) -> Result<Self> {
        let (n_out, dim) = match *tensor.shape.as_slice() {
            [n_out, dim] => (n_out, dim),
            [dim] => (1, dim),
            _ => (0, 0),
        };
        let row_bytes = tensor.dtype.row_bytes(dim).unwrap_or(0);
        let wanted = n_out.checked_mul(row_bytes);
        let has_scales = match &tensor.scales {
            Some(scales) => scales.covers(n_out, dim),
            None => tensor.dtype != DType::Fp8E4m3,
        };
        if wanted != Some(tensor.bytes.len()) || wanted == Some(0) || !has_scales {
            return Err(Error::Internal {
                message: format!("`{}` is no matrix: {:?}", tensor.name, tensor.shape),
            });
        }
        let (bytes, scales) = (tensor.bytes.clone(), tensor.scales.clone());
        Ok(Self { bytes, dtype: tensor.dtype, n_out, dim, row_bytes, scales })
    }

    /// Row `index`, widened into `out`.
    fn row(&self, index: usize, out: &mut [f32]) {
        self.dtype.decode(&self.bytes[index * self.row_bytes..(index + 1) * self.row_bytes], out);
        if let Some(scales) = &self.scales {
            scales.apply(index, self.dim, out);
        }
    }

    /// The rows from `first` on, for kernels.
    fn rows_from(&self, first: usize) -> simd::Matrix {
        simd::Matrix {
            at: self.bytes.as_ptr(),
            row_bytes: self.row_bytes,
            dtype: self.dtype,
            first,
            scales: self.scales.as_ref().map_or(simd::Scales::NONE, |scales| simd::Scales {
                at: scales.bytes.as_ptr(),
                per_row: scales.per_row(self.dim),
                row_shift: scales.block[0].ilog2(),
                column_shift: scales.block[1].ilog2(),
            }),
        }
    }
}

/// The CPU backend: worker pool, scratch, chosen kernels.
pub struct Cpu {
    pool: Pool,
    isa: Isa,
    activations: Activations,
    quant: Option<Target>,
    /// A step's inputs in the form bf16 weights want.
    inputs: InputScratch,
    /// One for each thread.
    threads: Vec<ThreadScratch>,
    experts: experts::Scratch,
}

/// Inputs rewritten once before a product.
#[derive(Default)]
struct InputScratch {
    pairs: PairRows,
    rounded: Vec<f32>,
}

/// What a thread keeps to itself.
#[derive(Default)]
struct ThreadScratch {
    mla: mla_decode::Scratch,
    prefill: mla_prefill::Scratch,
    sample: sample::Scratch,
}

impl Cpu {
    /// Checks the processor and starts the pool.
    ///
    /// # Errors
    /// [`Error::Isa`] when an instruction set is asked for that is not there; [`Error::Setting`] for threads out of
    /// 1 to 1024.
    pub fn new(options: &CpuOptions) -> Result<Self> {
        let isa = options.isa.unwrap_or_else(Isa::best);
        if !isa.is_available() {
            return Err(Error::Isa { wanted: isa.name().into(), found: Isa::best().name().into() });
        }
        let bf16 = if isa.multiplies_bf16() { Activations::Bf16 } else { Activations::F32 };
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let pool = Pool::new(options.threads.unwrap_or_else(cores))?;
        Ok(Self {
            threads: (0..pool.threads()).map(|_| ThreadScratch::default()).collect(),
            pool,
            isa,
            activations: options.activations.unwrap_or(bf16),
            quant: options.quant.map(|quant| quant.target),
            inputs: InputScratch::default(),
            experts: experts::Scratch::default(),
        })
    }

    /// The instruction set chosen.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The form of inputs chosen.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// How matrices are kept, when not as they are stored.
    pub fn quant(&self) -> Option<Target> {
        self.quant
    }

    /// Compute threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Whether inputs of bf16 matrices are split for `vdpbf16ps`; otherwise they are rounded or taken as they are.
    fn splits(&self) -> bool {
        self.activations == Activations::Bf16 && self.isa.multiplies_bf16()
    }

    /// The order of split inputs, where inputs are split.
    fn order(&self) -> Option<Order> {
        self.splits().then(|| Order::of(self.isa))
    }

    /// Bytes that [`super::Backend::reserve`] and [`super::Backend::routing`] make, pages not counted.
    pub fn scratch_bytes(&self, shape: &ScratchShape) -> u64 {
        let threads = self.pool.threads() as u64;
        let per_thread = mla_decode::Scratch::bytes(shape)
            + mla_prefill::Scratch::bytes(shape)
            + sample::Scratch::bytes(shape.vocab_size);
        self.input_bytes(shape)
            + experts::Scratch::bytes(shape, self.order())
            + Plan::bytes(shape)
            + Routing::bytes(shape)
            + threads * per_thread
    }

    fn input_bytes(&self, shape: &ScratchShape) -> u64 {
        let rows = shape.step_rows_max.max(shape.sequences_max);
        match self.activations {
            Activations::F32 => 0,
            Activations::Bf16 if self.splits() => {
                PairRows::bytes(Order::of(self.isa), rows, shape.input_dim_max)
            }
            Activations::Bf16 => (rows * shape.input_dim_max * size_of::<f32>()) as u64,
        }
    }

    /// Makes all scratch.
    fn make_scratch(&mut self, shape: &ScratchShape) {
        let rows = shape.step_rows_max.max(shape.sequences_max);
        if self.splits() {
            self.inputs.pairs = PairRows::with_room(Order::of(self.isa), rows, shape.input_dim_max);
        } else if self.activations == Activations::Bf16 {
            self.inputs.rounded = vec![0.0; rows * shape.input_dim_max];
        }
        self.experts = experts::Scratch::new(shape, self.order());
        for thread in &mut self.threads {
            thread.mla = mla_decode::Scratch::new(shape);
            thread.prefill = mla_prefill::Scratch::new(shape);
            thread.sample = sample::Scratch::new(shape.vocab_size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{EVEN, ODD, allocated, limits, scratch_shape, ways};
    use super::*;
    use crate::backend::Backend;

    #[test]
    fn scratch_takes_what_was_announced() {
        for way in ways() {
            for (threads, mla) in [(1, ODD), (3, EVEN)] {
                let options = CpuOptions {
                    threads: Some(threads),
                    isa: Some(way.isa),
                    activations: Some(way.activations),
                    quant: None,
                };
                let mut cpu = Cpu::new(&options).unwrap();
                let shape = scratch_shape(mla);
                // Choices of experts are made apart from the rest.
                let announced = (cpu.scratch_bytes(&shape) - Routing::bytes(&shape)) as f64;
                let taken = allocated(|| drop(cpu.reserve(&shape, &limits()).unwrap())) as f64;
                let off = (taken - announced).abs() / taken;
                assert!(off < 0.02, "{way:?}: announced {announced}, took {taken}");
            }
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512Bf16, Isa::Amx] {
            assert_eq!(Isa::parse(isa.name()).unwrap(), isa);
        }
        for activations in [Activations::F32, Activations::Bf16] {
            assert_eq!(Activations::parse(activations.name()).unwrap(), activations);
        }
        let error = Isa::parse("sse").unwrap_err().to_string();
        assert_eq!(error, "`isa` is sse, wanted portable, avx2, avx512 or amx");
        let error = Activations::parse("fp8").unwrap_err().to_string();
        assert_eq!(error, "`activations` is fp8, wanted f32 or bf16");
    }

    #[test]
    fn the_defaults_follow_the_processor() {
        let cpu = Cpu::new(&CpuOptions::default()).unwrap();
        assert_eq!(cpu.isa(), Isa::best());
        assert_eq!(
            cpu.activations() == Activations::Bf16,
            Isa::best() >= Isa::Avx512Bf16,
            "pairs where there is vdpbf16ps"
        );
    }
}
