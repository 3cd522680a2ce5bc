//! What can go wrong: a text that is no PTX, a launch that no card takes, and what a kernel did wrong while it ran.

use std::fmt;

/// Everything the simulator refuses or finds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not PTX, or uses what the simulator does not execute.
    #[error("ptx line {line}: {what}")]
    Ptx {
        /// Line of the PTX text, from 1.
        line: u32,
        /// What was found and what was wanted.
        what: String,
    },
    /// An image that holds no PTX for the card.
    #[error("module image: {0}")]
    Image(String),
    /// A launch, an allocation or a copy that the card's limits or the caller's memory do not allow.
    #[error("{0}")]
    Invalid(String),
    /// The card has no such amount of memory left.
    #[error("{wanted} bytes were asked for, {free} are free")]
    OutOfMemory {
        /// Bytes of the request.
        wanted: u64,
        /// Bytes that are left.
        free: u64,
    },
    /// A running kernel did something that it must not do.
    #[error("{0}")]
    Fault(Box<Fault>),
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// The kinds of defects that a running kernel can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside every allocation, window or array.
    OutOfBounds,
    /// An access to memory that was given back.
    UseAfterFree,
    /// A read of bytes that nobody wrote.
    Uninitialised,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// Two threads touched the same bytes, one of them writing, and nothing orders the two.
    Race,
    /// Bytes that an asynchronous copy still owns were touched: its wait is missing or too weak.
    AsyncPending,
    /// A barrier that not all threads of the warp or block reach together.
    DivergentBarrier,
    /// A warp-wide instruction, or the lane it reads from, lacks lanes that its mask names.
    AbsentLanes,
    /// The kernel waits for something that never comes, or runs past the instruction limit.
    Hang,
    /// `trap`, or a device assertion.
    Trap,
    /// An instruction whose operands have no defined result.
    Undefined,
}

/// A defect, where it showed and what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which defect.
    pub kind: FaultKind,
    /// The kernel's name.
    pub kernel: String,
    /// The thread's block, x y z.
    pub block: [u32; 3],
    /// The thread in its block, x y z.
    pub thread: [u32; 3],
    /// Index of the instruction in the kernel.
    pub pc: u32,
    /// Its line in the PTX text, from 1.
    pub ptx_line: u32,
    /// Its file and line in the source, where the PTX was made with `-lineinfo`.
    pub source: Option<String>,
    /// What was found, in words.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(f, "kernel `{}`: {:?}: {}", self.kernel, self.kind, self.what)?;
        write!(f, "; block ({bx}, {by}, {bz}) thread ({tx}, {ty}, {tz})")?;
        write!(f, ", instruction {} at ptx line {}", self.pc, self.ptx_line)?;
        match &self.source {
            Some(source) => write!(f, ", {source}"),
            None => Ok(()),
        }
    }
}

/// A defect as an executing instruction sees it, before the place is known.
#[derive(Debug)]
pub(crate) struct Defect {
    pub(crate) kind: FaultKind,
    pub(crate) lane: usize,
    pub(crate) what: String,
}

impl Defect {
    pub(crate) fn new(kind: FaultKind, lane: usize, what: impl Into<String>) -> Box<Self> {
        Box::new(Self { kind, lane, what: what.into() })
    }
}

/// What an executing instruction gives.
pub(crate) type Step<T> = std::result::Result<T, Box<Defect>>;

pub(crate) fn ptx_error<T>(line: u32, what: impl Into<String>) -> Result<T> {
    Err(Error::Ptx { line, what: what.into() })
}
