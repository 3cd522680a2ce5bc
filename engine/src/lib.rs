//! The hadal engine: DeepSeek-V3-family models (multi-head latent attention, mixture of experts) from a checkpoint
//! on disk to a stream of token ids.
//!
//! A plain library: std threads and channels, no async, no sockets, no logging, no environment, no globals.
//! A loaded model is **one thread** ([`worker`]) that owns its weights, backend, latent cache and scheduler:
//!
//! ```text
//! Request ──submit──> Scheduler::plan ──Step──> Model::forward ──Sampled──> Scheduler::commit ──Event──> Sink
//!                        (pages, counts)          (15 operations)             (pages, counts)
//! ```
//!
//! The scheduler sees pages and counts, never a tensor; models and kernels see a [`step::Step`], never a sequence.
//! [`text`] stands beside the loop: it turns conversations into token ids and ids back into text.

pub mod backend;
pub mod cache;
pub mod checkpoint;
pub mod error;
pub mod limits;
pub mod model;
pub mod quant;
pub mod request;
pub mod sched;
pub mod stats;
pub mod step;
pub mod text;
pub mod trace;
pub mod worker;

pub use error::{Error, ErrorKind, Result};
pub use limits::Limits;
pub use request::{Event, FinishReason, Request, Sampling, Sink, Usage};
pub use stats::Stats;
pub use step::{PageId, Slot, Step, TokenId};
pub use worker::{
    DeviceChoice, Engine, EngineHandle, LoadOptions, MemoryPlan, ModelInfo, Place, Progress,
    Refused,
};
