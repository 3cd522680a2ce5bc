//! Decoded instructions.

use crate::exec::alu::Conversion;

/// A register's index in its warp's file. Sources are always registers.
pub(crate) type R = u32;
/// A predicate's index. A predicate is one mask of lanes.
pub(crate) type P = u32;

/// One value a lane.
pub(crate) type Lanes = [u64; 32];
/// Arithmetic over all lanes: result, then four sources of which it reads those it has.
pub(crate) type Alu = fn(&mut Lanes, [&Lanes; 4]);
/// A comparison over all lanes.
pub(crate) type Cmp = fn(&Lanes, &Lanes) -> u32;

/// What an instruction counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Integer and bit arithmetic.
    Integer,
    /// Floating point of 32 and 64 bits.
    Float,
    /// Packed and scalar 16-bit floating point.
    Half,
    /// Conversions between types.
    Convert,
    /// Moves, packing and selects.
    Move,
    /// Comparisons and predicate logic.
    Compare,
    /// Branches and exits.
    Branch,
    /// Loads of parameters and constants.
    Parameter,
    /// Global loads and stores.
    Global,
    /// Shared loads and stores, matrix loads included.
    Shared,
    /// Local loads and stores: spills and indexed arrays.
    Local,
    /// Atomics and reductions in memory.
    Atomic,
    /// Asynchronous copies, commits and waits.
    Async,
    /// Barriers and fences.
    Barrier,
    /// Shuffles, votes, matches.
    Warp,
    /// Matrix multiply-accumulate.
    Mma,
}

/// The number of classes.
pub(crate) const CLASSES: usize = 16;

/// One instruction.
#[derive(Debug, Clone)]
pub(crate) struct Instr {
    pub(crate) op: Op,
    pub(crate) class: Class,
    /// The predicate it runs under, and whether it is negated.
    pub(crate) guard: Option<(P, bool)>,
}

/// Where an address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    /// At generic addresses too, and counted apart: constants come from a cache of their own.
    Const,
    Shared,
    Local,
    Param,
}

/// Memory access: `count` elements of `bytes` each, side by side.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) space: Space,
    pub(crate) bytes: u8,
    pub(crate) count: u8,
    pub(crate) base: R,
    pub(crate) offset: i64,
    /// Volatile, relaxed and stronger accesses: two of them are no race.
    pub(crate) strong: bool,
    /// Loads: bits of the element to extend from by its sign, 0 for zeros.
    pub(crate) sign_bits: u8,
    /// Loads: bits of the destination register.
    pub(crate) width: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomType {
    Unsigned,
    Signed,
    F32,
    F64,
    F16x2,
    Bf16x2,
    F16,
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReduxOp {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
}

/// Element type of a matrix operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
}

/// `mma.sync` of 16 rows and 8 columns.
#[derive(Debug, Clone)]
pub(crate) struct Mma {
    pub(crate) k: u8,
    pub(crate) a_type: Element,
    pub(crate) b_type: Element,
    /// Accumulators of 16 bits, two a register.
    pub(crate) half_accumulator: bool,
    pub(crate) satfinite: bool,
    pub(crate) d: Vec<R>,
    pub(crate) a: Vec<R>,
    pub(crate) b: Vec<R>,
    pub(crate) c: Vec<R>,
}

/// What a barrier reduces over its threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduce {
    Popc(R),
    And(P),
    Or(P),
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Nop,
    Alu {
        f: Alu,
        d: R,
        s: [R; 4],
    },
    /// A conversion that has no loop of its own.
    Convert {
        how: Box<Conversion>,
        d: R,
        a: R,
    },
    /// Addition or subtraction with the carry flag: adds `b`, inverted for a subtraction.
    Carry {
        d: R,
        a: R,
        b: R,
        bits: u8,
        subtract: bool,
        carry_in: bool,
        carry_out: bool,
    },
    Setp {
        f: Cmp,
        p: Option<P>,
        q: Option<P>,
        a: R,
        b: R,
        with: Option<(Logic, P, bool)>,
    },
    /// Packed halves: each half's comparison has its own predicate.
    Setp2 {
        low: Cmp,
        high: Cmp,
        p: P,
        q: P,
        a: R,
        b: R,
    },
    /// A comparison whose result is a value.
    Set {
        f: Cmp,
        d: R,
        a: R,
        b: R,
        yes: u64,
    },
    Selp {
        d: R,
        a: R,
        b: R,
        p: P,
        not: bool,
    },
    PredLogic {
        op: Logic,
        d: P,
        a: (P, bool),
        b: (P, bool),
    },
    PredMove {
        d: P,
        a: P,
        not: bool,
    },
    Pack {
        d: R,
        parts: Vec<R>,
        bits: u8,
    },
    Unpack {
        d: Vec<Option<R>>,
        a: R,
        bits: u8,
    },
    /// Whether a generic address lies in a window.
    IsSpace {
        p: P,
        a: R,
        space: Space,
    },
    Load {
        d: Vec<R>,
        at: Access,
    },
    Store {
        s: Vec<R>,
        at: Access,
    },
    Atom {
        op: AtomOp,
        ty: AtomType,
        d: Option<R>,
        b: R,
        c: R,
        at: Access,
    },
    CpAsync {
        to: R,
        to_offset: i64,
        from: R,
        from_offset: i64,
        bytes: u8,
        take: Option<R>,
        ignore: Option<(P, bool)>,
    },
    CpAsyncCommit,
    /// Waits until at most so many of the newest groups are pending; `None` waits for all, uncommitted ones too.
    CpAsyncWait {
        pending: Option<u32>,
    },
    Ldmatrix {
        d: Vec<R>,
        base: R,
        offset: i64,
        trans: bool,
    },
    Stmatrix {
        s: Vec<R>,
        base: R,
        offset: i64,
        trans: bool,
    },
    Movmatrix {
        d: R,
        a: R,
    },
    Mma(Box<Mma>),
    Shfl {
        mode: ShflMode,
        d: R,
        p: Option<P>,
        a: R,
        b: R,
        c: R,
        mask: R,
    },
    Vote {
        mode: VoteMode,
        d: R,
        a: (P, bool),
        mask: R,
    },
    Match {
        all: bool,
        d: R,
        p: Option<P>,
        a: R,
        bits: u8,
        mask: R,
    },
    Redux {
        op: ReduxOp,
        d: R,
        a: R,
        mask: R,
    },
    ActiveMask {
        d: R,
    },
    Elect {
        d: Option<R>,
        p: P,
        mask: R,
    },
    Barrier {
        id: R,
        count: Option<R>,
        arrive: bool,
        reduce: Option<(Reduce, P, bool)>,
    },
    WarpSync {
        mask: R,
    },
    Branch {
        target: u32,
    },
    BranchIndex {
        index: R,
        targets: Vec<u32>,
    },
    Exit,
    Trap {
        what: &'static str,
    },
}
