//! PTX: text to modules, statements to instructions.
//!
//! [`lex`] makes words, [`parse`] reads directives and variables, [`body`] splits a kernel into statements with scopes,
//! and [`decode`] turns each statement into one [`Instr`]. Decoding happens once a module; afterwards no name is left:
//! every source is a register, immediates and special registers included, which are filled when a warp starts.

mod body;
mod decode;
mod decode_logic;
mod decode_memory;
mod decode_warp;
pub(crate) mod instr;
mod lex;
mod parse;
pub(crate) mod words;

use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use instr::{Class, Instr, Op, R};

use crate::fault::Result;

/// A parsed module: what one PTX text holds.
#[derive(Debug)]
pub struct Module {
    /// `.target`, such as `sm_80` or `sm_90a`.
    pub target: String,
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// Kernels by name.
    pub(crate) kernels: HashMap<String, Arc<Kernel>>,
    /// Module variables in `.global` and `.const`, in order.
    pub(crate) globals: Vec<Global>,
}

impl Module {
    /// Reads a PTX text.
    ///
    /// # Errors
    /// [`crate::Error::Ptx`] with the line, where the text is no PTX or uses an instruction that is not executed here.
    pub fn parse(text: &str) -> Result<Self> {
        parse::module(text)
    }

    /// The names of the kernels, sorted.
    pub fn kernel_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.kernels.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

/// A module variable.
#[derive(Debug, Clone)]
pub(crate) struct Global {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// The first bytes; the rest is zero.
    pub(crate) initial: Vec<u8>,
    /// Places in `initial` that hold another variable's address.
    pub(crate) addresses: Vec<(usize, String)>,
}

/// A kernel, ready to run.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) code: Vec<Instr>,
    /// Line in the PTX text, per instruction.
    pub(crate) lines: Vec<u32>,
    /// File and line of the source, per instruction; file 0 is none.
    pub(crate) sources: Vec<(u32, u32)>,
    /// `.file` names by number.
    pub(crate) files: Arc<HashMap<u32, String>>,
    pub(crate) regs: usize,
    pub(crate) preds: usize,
    /// Registers that are filled when a warp starts.
    pub(crate) constants: Vec<(R, Constant)>,
    /// Offset and bytes of each parameter.
    pub(crate) params: Vec<(usize, usize)>,
    pub(crate) param_bytes: usize,
    /// Shared memory that the kernel declares, without what a launch adds.
    pub(crate) shared_bytes: u32,
    pub(crate) local_bytes: u32,
    pub(crate) threads_max: Option<u32>,
    pub(crate) threads_required: Option<[u32; 3]>,
}

/// What a register holds before the first instruction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Value(u64),
    /// Address of a module variable.
    Global(String),
    /// Address in the shared window, from its start.
    Shared(u32),
    /// Where the launch's own shared memory begins.
    SharedDynamic,
    Special(Special),
}

/// Special registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    WarpCount,
    LaneMask(LaneMask),
    SharedDynamicBytes,
    SharedBytes,
    Zero,
}

/// `%lanemask_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LaneMask {
    Eq,
    Le,
    Lt,
    Ge,
    Gt,
}
