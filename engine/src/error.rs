//! Everything the engine can refuse, and what kind of refusal it is.

mod kind;
mod size;

use std::path::PathBuf;

pub use kind::ErrorKind;
use size::sized;

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything the engine can refuse. [`Error::kind`] is what a server maps to a status.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be opened, listed or read.
    #[error("{path}: cannot read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be mapped into memory.
    #[error("{path}: cannot map: {source}")]
    Map {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A mapped file lost bytes while the model was using them.
    #[error("{path}: the file was truncated or became unreadable while the model was loaded")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A JSON file does not parse.
    #[error("{path}: not valid JSON: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A configuration field is missing, of the wrong type or out of range.
    #[error("{path}: `{field}` is {got}, wanted {want}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The field's name.
        field: String,
        /// What was found.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// The checkpoint is of a kind this build cannot run; says what is lacking.
    #[error("{path}: {what}")]
    Unsupported {
        /// The checkpoint.
        path: PathBuf,
        /// The architecture or format, and what it needs that is not there.
        what: String,
    },
    /// A file's structure is wrong: header, offsets, index.
    #[error("{path}: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found and what was wanted.
        problem: String,
    },
    /// A tensor that the configuration asks for is in no file.
    #[error("{path}: tensor `{name}` is missing, the config asks for it with shape {want:?}")]
    TensorMissing {
        /// The file or folder searched.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape wanted.
        want: Vec<usize>,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("{path}: tensor `{name}` is {got:?}, the config asks for {want:?}")]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape found.
        got: Vec<usize>,
        /// The shape wanted.
        want: Vec<usize>,
    },
    /// A tensor is stored in a type that cannot be used there.
    #[error("{path}: tensor `{name}` has dtype {got}, wanted {want}")]
    TensorDType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The dtype found.
        got: String,
        /// The dtypes accepted.
        want: String,
    },
    /// A tensor's bytes are truncated, overlap another's or do not match its shape.
    #[error("{path}: tensor `{name}`: {problem}")]
    TensorRange {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What was found and what was wanted.
        problem: String,
    },
    /// A file or folder could not be written.
    #[error("{path}: cannot write: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The tokenizer's files cannot be used.
    #[error("tokenizer: {problem}")]
    Tokenizer {
        /// What was found and what was wanted.
        problem: String,
    },
    /// A chat template failed, or took more than its share of work.
    #[error("chat template: {problem}")]
    Template {
        /// The template's own message, or the limit it hit.
        problem: String,
    },
    /// A request has no token at all.
    #[error("the prompt is empty")]
    PromptEmpty,
    /// The prompt alone fills the context.
    #[error(
        "prompt of {got} tokens is over this model's {max}: shorten it, or leave out earlier messages"
    )]
    PromptTooLong {
        /// Tokens in the prompt.
        got: usize,
        /// The most that fit and leave room for one answer token.
        max: usize,
    },
    /// The prompt's text alone is longer than any tokens of the context could stand for; it was not counted.
    #[error("prompt of at least {at_least} tokens is over this model's {max}")]
    PromptTooLarge {
        /// The fewest tokens that so many bytes can be.
        at_least: usize,
        /// The most that fit and leave room for one answer token.
        max: usize,
    },
    /// A token id beyond the vocabulary.
    #[error("token {got} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        got: u32,
        /// The vocabulary's size.
        vocab_size: usize,
    },
    /// A setting (flag, environment, request field) is out of range.
    #[error("`{name}` is {got}, wanted {want}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// What was found.
        got: String,
        /// What was wanted.
        want: String,
    },
    /// There is not enough memory.
    #[error("{what} needs {}, {} are free", sized(*needed_bytes, f64::ceil), sized(*free_bytes, f64::floor))]
    Memory {
        /// What the memory is for.
        what: &'static str,
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// The processor lacks the instruction set that was asked for.
    #[error("instruction set `{wanted}` was asked for, this processor offers {found}")]
    Isa {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A card, or its driver, refused or failed.
    #[error("{device}: {problem}")]
    Device {
        /// The card: `cuda:0 (its name)`.
        device: String,
        /// What is wrong.
        problem: String,
    },
    /// The model computed values that are no numbers.
    #[error(
        "the model produced values that are not finite (NaN or infinity) at position {position}"
    )]
    NotFinite {
        /// Position in the sequence.
        position: u32,
    },
    /// The engine's thread has ended.
    #[error("the model is no longer running")]
    Closed,
    /// A bug in the engine, caught at its thread's top.
    #[error("engine failure: {message}")]
    Internal {
        /// What the panic said.
        message: String,
    },
}
