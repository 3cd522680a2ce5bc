//! The CPU backend: a product path of its own, and a second opinion on every kernel to come.
//!
//! Activations are f32. Matrices are used where they lie in the mapped checkpoint, or are [`resident`]. Work is spread over one [`pool`];
//! the order of every sum is fixed by the row's own shape and position, so threads, batch and chunks never change a
//! bit of a result. One operation a file; all vector code is in [`simd`].

mod aligned;
mod embed;
mod experts;
mod gather_rows;
mod head_linear;
mod latents;
mod linear;
mod mla_decode;
mod mla_prefill;
mod operations;
mod options;
mod plan;
mod pool;
mod resident;
mod rms_norm;
mod rope;
mod route;
mod sample;
mod simd;
mod swiglu;
#[cfg(test)]
mod testing;
mod topology;
mod weight;

pub use latents::Latents;
pub use options::{Activations, CacheType, CpuOptions, Isa, Residence};
pub use plan::Plan;
pub use route::Routing;
pub use simd::peak;
pub use weight::Weight;

use aligned::Aligned;
use pool::Pool;
use simd::groups::GroupRows;
use simd::multiply::{Order, PairRows, Parts, Rooms, SplitForm};
use topology::Topology;

use super::ScratchShape;
use crate::checkpoint::{Arena, Bytes, Keep};
use crate::error::{Error, Result};
use crate::quant::DType;

/// The CPU backend: worker pool, scratch, chosen kernels.
pub struct Cpu {
    pool: Pool,
    isa: Isa,
    activations: Activations,
    /// What was asked for.
    cache_option: Option<CacheType>,
    cache: CacheType,
    keep: Keep,
    /// Where resident matrices are.
    arena: Arena,
    /// Where they were copied from, while a model loads.
    copied: Vec<Bytes>,
    /// A step's inputs in the form that weights want.
    inputs: InputScratch,
    /// Where products put what they read once for many inputs or outputs.
    rooms: Rooms,
    /// One for each thread.
    threads: Vec<ThreadScratch>,
    experts: experts::Scratch,
    /// Inputs of the ends of absorbed attention.
    heads: head_linear::Scratch,
    /// Results of spans of a context that are tasks of their own.
    spans: Aligned<f32>,
}

/// How `options` and the form of inputs want matrices to be kept.
fn keep(options: &CpuOptions, activations: Activations, isa: Isa) -> Keep {
    let packs = activations == Activations::Int8;
    let is_mapped = options.weights == Some(Residence::Mapped);
    Keep {
        quant: options.quant.map(|quant| quant.target),
        packs_encoded: packs,
        packs_stored: packs && !is_mapped,
        narrows: isa != Isa::Portable && !is_mapped,
        packs_halves: false,
        copies: options.weights == Some(Residence::Resident),
    }
}

/// What a matrix's inputs look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// f32.
    Plain,
    /// f32 with no more bits than so many bf16 numbers have.
    Rounded(Parts),
    /// bf16 numbers, one or two each.
    Split,
    /// Whole numbers.
    Groups,
}

impl Form {
    /// What a matrix takes.
    fn of(activations: Activations, isa: Isa, weight: &Weight) -> Self {
        let (is_bf16, is_blocks) = (weight.dtype == DType::Bf16, weight.dtype.block_len() > 1);
        let takes_pairs = is_bf16 || weight.takes_pairs() && isa.multiplies_fp8();
        match activations {
            Activations::Int8 if is_blocks => Self::Groups,
            _ if takes_pairs && splits(activations, isa) => Self::Split,
            Activations::Bf16 | Activations::Bf16Rounded if is_bf16 => {
                Self::Rounded(activations.parts())
            }
            _ => Self::Plain,
        }
    }
}

/// Whether inputs of bf16 matrices are split, and of FP8 ones where [`Isa::multiplies_fp8`].
fn splits(activations: Activations, isa: Isa) -> bool {
    activations != Activations::F32 && isa.multiplies_bf16()
}

/// Inputs rewritten once before a product.
#[derive(Default)]
struct InputScratch {
    pairs: PairRows,
    rounded: Aligned<f32>,
    groups: GroupRows,
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
        let best = if isa == Isa::Portable { Activations::F32 } else { Activations::Int8 };
        let activations = options.activations.unwrap_or(best);
        let topology = Topology::of_process();
        let threads = options.threads.unwrap_or_else(|| topology.threads());
        let pool = Pool::new(&topology.team(threads, options.pin)?)?;
        Ok(Self {
            threads: (0..pool.threads()).map(|_| ThreadScratch::default()).collect(),
            pool,
            isa,
            activations,
            cache_option: options.cache,
            cache: options.cache.unwrap_or(match activations {
                Activations::F32 | Activations::Bf16 | Activations::Bf16Rounded => CacheType::F32,
                Activations::Int8 => CacheType::Bf16,
            }),
            keep: keep(options, activations, isa),
            arena: Arena::default(),
            copied: Vec::new(),
            inputs: InputScratch::default(),
            rooms: Rooms::default(),
            experts: experts::Scratch::default(),
            heads: head_linear::Scratch::default(),
            spans: Aligned::default(),
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

    /// Chooses the latent cache's format for a model whose weights are mostly kept like that. A cache in bf16 is off by as much as inputs in
    /// whole numbers are; where inputs are bf16 numbers it would be what decides near-ties between experts.
    fn choose_cache(&mut self, kept: DType) {
        self.cache = self.cache_option.unwrap_or(match self.activations {
            Activations::Int8 if kept.block_len() > 1 => CacheType::Bf16,
            _ => CacheType::F32,
        });
    }

    /// The latent cache's format.
    pub fn cache_type(&self) -> CacheType {
        self.cache
    }

    /// How matrices are kept.
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// Compute threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Whether inputs of bf16 matrices are split for `vdpbf16ps`; otherwise they are rounded or taken as they are.
    fn splits(&self) -> bool {
        splits(self.activations, self.isa)
    }

    /// The inputs that a matrix takes.
    fn form(&self, weight: &Weight) -> Form {
        Form::of(self.activations, self.isa, weight)
    }

    /// How split inputs lie, where inputs are split.
    fn split_form(&self) -> Option<SplitForm> {
        let form = SplitForm { order: Order::of(self.isa), parts: self.activations.parts() };
        self.splits().then_some(form)
    }

    /// Bytes that [`super::Backend::reserve`] and [`super::Backend::routing`] make, pages not counted.
    pub fn scratch_bytes(&self, shape: &ScratchShape) -> u64 {
        let threads = self.pool.threads() as u64;
        let per_thread = mla_decode::Scratch::bytes(self, shape)
            + mla_prefill::Scratch::bytes(self, shape)
            + sample::Scratch::bytes(shape.vocab_size);
        self.input_bytes(shape)
            + experts::Scratch::bytes(shape, self.expert_forms())
            + Plan::bytes(shape)
            + Routing::bytes(shape)
            + (mla_decode::spans_len(self, &shape.mla) * size_of::<f32>()) as u64
            + threads * per_thread
    }

    fn input_bytes(&self, shape: &ScratchShape) -> u64 {
        let (rows, dim) = (shape.step_rows_max.max(shape.sequences_max), shape.input_dim_max);
        let pairs = self.split_form().map_or(0, |form| PairRows::bytes(form, rows, dim));
        let rounded = if self.rounds() { (rows * dim * size_of::<f32>()) as u64 } else { 0 };
        let groups = if self.has_groups() {
            GroupRows::bytes(rows, dim) + head_linear::Scratch::bytes(shape)
        } else {
            0
        };
        pairs + rounded + groups + Rooms::bytes((self.isa, self.has_groups()), self.threads(), dim)
    }

    /// What experts may take.
    fn expert_forms(&self) -> experts::Forms {
        experts::Forms {
            pairs: self.split_form(),
            has_groups: self.has_groups(),
            rounds: self.rounds(),
            threads: self.pool.threads(),
        }
    }

    /// Whether inputs of bf16 matrices lose what split ones would.
    fn rounds(&self) -> bool {
        let is_bf16 = matches!(self.activations, Activations::Bf16 | Activations::Bf16Rounded);
        is_bf16 && !self.splits()
    }

    /// Whether inputs become whole numbers.
    fn has_groups(&self) -> bool {
        self.activations == Activations::Int8
    }

    /// Makes all scratch.
    fn make_scratch(&mut self, shape: &ScratchShape) {
        let (rows, dim) = (shape.step_rows_max.max(shape.sequences_max), shape.input_dim_max);
        if let Some(form) = self.split_form() {
            self.inputs.pairs = PairRows::with_room(form, rows, dim);
        }
        if self.rounds() {
            self.inputs.rounded = Aligned::zeros(rows * dim);
        }
        if self.has_groups() {
            self.inputs.groups = GroupRows::with_room(rows, dim);
            self.heads = head_linear::Scratch::new(shape);
        }
        self.rooms = Rooms::new((self.isa, self.has_groups()), self.pool.threads(), dim);
        self.experts = experts::Scratch::new(shape, self.expert_forms());
        self.spans = Aligned::zeros(mla_decode::spans_len(self, &shape.mla));
        self.threads = (0..self.pool.threads())
            .map(|_| ThreadScratch {
                mla: mla_decode::Scratch::new(self, shape),
                prefill: mla_prefill::Scratch::new(self, shape),
                sample: sample::Scratch::new(shape.vocab_size),
            })
            .collect();
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
                    ..CpuOptions::default()
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
    fn the_defaults_follow_the_processor() {
        let cpu = Cpu::new(&CpuOptions::default()).unwrap();
        assert_eq!(cpu.isa(), Isa::best());
        assert_eq!(
            cpu.activations() == Activations::Int8,
            Isa::best() != Isa::Portable,
            "whole numbers where there are instructions for them"
        );
    }
}
