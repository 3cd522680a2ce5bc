//! Checkpoints on disk: found, opened, checked, mapped.

pub mod config;
pub mod map;

use std::path::PathBuf;
use std::time::SystemTime;

pub use config::ModelConfig;
pub use map::Bytes;

use crate::error::Result;
use crate::quant::DType;

/// Where a checkpoint comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory in Hugging Face layout.
    Directory(PathBuf),
    /// Files inside the binary: (file name, bytes), the weights 64-byte aligned.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// A tensor as stored: no copy, a view into the map.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Row-major, little-endian; `product(shape) * dtype.bytes()` of them.
    pub bytes: Bytes,
}

impl Tensor {
    /// All elements widened to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.iter().product()];
        match self.dtype {
            DType::F32 => crate::quant::f32::decode(&self.bytes, &mut out),
            DType::Bf16 => crate::quant::bf16::decode(&self.bytes, &mut out),
        }
        out
    }
}

/// The text side of a checkpoint, as bytes: `engine::text` reads them.
#[derive(Debug, Clone, Default)]
pub struct TextFiles {
    /// `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `chat_template.jinja`, else the `chat_template` of `tokenizer_config.json` is used.
    pub chat_template: Option<String>,
}

/// The checkpoint's own defaults, from `generation_config.json` (else `config.json`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Ids that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Id that begins a sequence.
    pub bos_token_id: Option<u32>,
    /// Sampling default, when the file has one.
    pub temperature: Option<f32>,
    /// Sampling default, when the file has one.
    pub top_p: Option<f32>,
    /// Sampling default, when the file has one.
    pub top_k: Option<u32>,
    /// Sampling default, when the file has one.
    pub repetition_penalty: Option<f32>,
}

/// An open checkpoint: configuration read, every tensor's presence, dtype, shape and range checked, nothing computed.
pub struct Checkpoint {
    /// The model's sizes and rules.
    pub config: ModelConfig,
    /// Defaults for generating.
    pub generation: GenerationConfig,
    /// Tokenizer and template.
    pub text: TextFiles,
}

impl Checkpoint {
    /// Opens and checks.
    ///
    /// # Errors
    /// Names file, tensor, found and wanted.
    pub fn open(_source: &Source) -> Result<Self> {
        Err(crate::error::Error::Closed)
    }

    /// A tensor by name. Every tensor the configuration asks for is there after `open`.
    ///
    /// # Errors
    /// [`crate::Error::TensorMissing`].
    pub fn tensor(&self, _name: &str) -> Result<Tensor> {
        Err(crate::error::Error::Closed)
    }

    /// Bytes of all tensors the model uses (the MTP layer, which is checked but not run, is not counted).
    pub fn weight_bytes(&self) -> u64 {
        0
    }

    /// Numbers in all tensors the model uses.
    pub fn parameters(&self) -> u64 {
        0
    }

    /// Most frequent dtype by bytes.
    pub fn dtype(&self) -> DType {
        DType::Bf16
    }

    /// A handle that says whether mapped files are still whole; cheap, asked after every step.
    pub fn watch(&self) -> map::Watch {
        map::Watch::default()
    }
}

/// One model that discovery found below the checkpoint root.
#[derive(Debug, Clone)]
pub struct Found {
    /// Path relative to the root, `/`-separated.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of all its weight files.
    pub size_bytes: u64,
    /// Newest change of its weight files.
    pub modified: SystemTime,
    /// `safetensors`, `pt` or `gguf`.
    pub format: &'static str,
    /// What its headers say, or why it cannot be served.
    pub summary: std::result::Result<Summary, String>,
}

/// What a listing shows of a checkpoint, read from `config.json` and the tensor headers alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// `model_type` of its config.
    pub architecture: String,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// Most frequent dtype.
    pub dtype: &'static str,
    /// Tokens it was made for.
    pub context_length: usize,
}

/// Everything below `root` that looks like a model, sorted by name. Unreadable ones are listed with their reason.
/// Links that lead outside the root are not followed.
pub fn discover(_root: &std::path::Path) -> Vec<Found> {
    Vec::new()
}
