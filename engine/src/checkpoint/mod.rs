//! Checkpoints on disk: found, opened, checked, mapped.

pub mod config;
mod discover;
mod expected;
mod files;
mod folder;
mod json;
pub mod map;
mod safetensors;
mod scales;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use config::ModelConfig;
pub use discover::{Found, Summary, describe, describe_folder, discover};
pub use map::{Bytes, Watch};
pub use scales::Scales;

use crate::error::{Error, Result};
use crate::quant::DType;
use expected::{Expected, expected};
use safetensors::Entry;

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
    /// Row-major, little-endian; one `dtype.row_bytes(columns)` for every row.
    pub bytes: Bytes,
    /// Factors of an 8-bit float matrix.
    pub scales: Option<Scales>,
}

impl Tensor {
    /// All elements widened to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.iter().product()];
        self.dtype.decode(&self.bytes, &mut out);
        if let (Some(scales), Some(dim)) = (&self.scales, self.shape.last()) {
            for (index, row) in out.chunks_mut(*dim).enumerate() {
                scales.apply(index, *dim, row);
            }
        }
        out
    }

    /// Bytes it takes in its file, factors included.
    pub fn stored_bytes(&self) -> usize {
        self.bytes.len() + self.scales.as_ref().map_or(0, |scales| scales.bytes.len())
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

/// What a container holds, as it says itself: nothing is held against the configuration yet.
struct Contents {
    /// The folder or file, as errors name it.
    path: PathBuf,
    config: ModelConfig,
    generation: GenerationConfig,
    text: TextFiles,
    /// By their released names.
    tensors: BTreeMap<String, Entry>,
    /// Mapped weight files.
    files: Vec<Bytes>,
}

/// An open checkpoint: configuration read, every tensor's presence, dtype, shape and range checked, nothing computed.
pub struct Checkpoint {
    /// The model's sizes and rules.
    pub config: ModelConfig,
    /// Defaults for generating.
    pub generation: GenerationConfig,
    /// Tokenizer and template.
    pub text: TextFiles,
    path: PathBuf,
    tensors: BTreeMap<String, Entry>,
    /// Names the ordinary pass uses.
    used: Vec<String>,
    watch: Watch,
}

impl Checkpoint {
    /// Opens and checks.
    ///
    /// # Errors
    /// Names file, tensor, found and wanted.
    pub fn open(source: &Source) -> Result<Self> {
        let Contents { path, config, generation, text, tensors, files } = folder::read(source)?;
        let used = check(&path, &config, &tensors)?;
        Ok(Self { config, generation, text, path, tensors, used, watch: Watch::over(files.iter()) })
    }

    /// The folder or file, as errors name it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A tensor by name. Every tensor the configuration asks for is there after `open`.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], or [`Error::TensorDType`] for a stored type this build cannot use.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self.tensors.get(name).ok_or_else(|| Error::TensorMissing {
            path: self.path.clone(),
            name: name.to_owned(),
            want: Vec::new(),
        })?;
        let dtype = entry.dtype.ok_or_else(|| wrong_dtype(&self.path, name, entry))?;
        Ok(Tensor {
            name: name.to_owned(),
            dtype,
            shape: entry.shape.clone(),
            bytes: entry.bytes.clone(),
            scales: factors(&self.path, self.config.fp8_block, name, entry, &self.tensors)?,
        })
    }

    /// The tensors the ordinary pass uses.
    fn used(&self) -> impl Iterator<Item = &Entry> {
        self.used.iter().filter_map(|name| self.tensors.get(name))
    }

    /// Bytes of all tensors the model uses (the MTP layer, which is checked but not run, is not counted).
    pub fn weight_bytes(&self) -> u64 {
        self.stored().map(|(_, bytes)| bytes).sum()
    }

    /// Name and stored bytes, factors included, of every tensor the model uses.
    pub fn stored(&self) -> impl Iterator<Item = (&str, u64)> {
        self.used.iter().filter_map(|name| {
            let factors = scale_entry(name, &self.tensors).map_or(0, |(_, e)| e.bytes.len());
            Some((name.as_str(), (self.tensors.get(name)?.bytes.len() + factors) as u64))
        })
    }

    /// Numbers in all tensors the model uses.
    pub fn parameters(&self) -> u64 {
        self.used().map(|entry| entry.shape.iter().product::<usize>() as u64).sum()
    }

    /// Most frequent dtype by bytes.
    pub fn dtype(&self) -> DType {
        let bytes = |dtype| {
            self.used().filter(|e| e.dtype == Some(dtype)).map(|e| e.bytes.len()).sum::<usize>()
        };
        DType::ALL.into_iter().max_by_key(|dtype| bytes(*dtype)).unwrap_or(DType::F32)
    }

    /// A handle that says whether mapped files are still whole; cheap, asked after every step.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }
}

fn wrong_dtype(path: &Path, name: &str, entry: &Entry) -> Error {
    let want = DType::ALL.map(DType::name).join(" or ");
    Error::TensorDType {
        path: path.to_owned(),
        name: name.to_owned(),
        got: entry.dtype_name.clone(),
        want,
    }
}

/// Holds what is there to what must be there; gives the names the ordinary pass uses.
fn check(
    path: &Path,
    config: &ModelConfig,
    tensors: &BTreeMap<String, Entry>,
) -> Result<Vec<String>> {
    let mut used = Vec::new();
    for Expected { name, shape, is_used } in expected(config, tensors.len() + 1) {
        let Some(entry) = tensors.get(&name) else {
            return Err(Error::TensorMissing { path: path.to_owned(), name, want: shape });
        };
        if entry.dtype.is_none() {
            return Err(wrong_dtype(path, &name, entry));
        }
        if entry.shape != shape {
            let (path, got) = (path.to_owned(), entry.shape.clone());
            return Err(Error::TensorShape { path, name, got, want: shape });
        }
        factors(path, config.fp8_block, &name, entry, tensors)?;
        if is_used {
            used.push(name);
        }
    }
    Ok(used)
}

/// The tensor that holds an 8-bit float matrix's factors, and its name.
fn scale_entry<'a>(
    name: &str,
    tensors: &'a BTreeMap<String, Entry>,
) -> Option<(String, &'a Entry)> {
    // The first is DeepSeek's; both are factors to multiply with.
    [format!("{name}_scale_inv"), format!("{name}_scale")]
        .into_iter()
        .find_map(|scale| tensors.get(&scale).map(|entry| (scale, entry)))
}

/// An 8-bit float matrix's factors: one a block, one a row, or one for all of it. `None` for other types.
fn factors(
    path: &Path,
    block: [usize; 2],
    name: &str,
    entry: &Entry,
    tensors: &BTreeMap<String, Entry>,
) -> Result<Option<Scales>> {
    if entry.dtype != Some(DType::Fp8E4m3) {
        return Ok(None);
    }
    let [n_out, dim] = *entry.shape.as_slice() else {
        return Err(wrong_dtype(path, name, entry));
    };
    let want = vec![n_out.div_ceil(block[0]), dim.div_ceil(block[1])];
    let Some((scale, factors)) = scale_entry(name, tensors) else {
        let name = format!("{name}_scale_inv");
        return Err(Error::TensorMissing { path: path.to_owned(), name, want });
    };
    if factors.dtype != Some(DType::F32) {
        return Err(Error::TensorDType {
            path: path.to_owned(),
            name: scale,
            got: factors.dtype_name.clone(),
            want: DType::F32.name().into(),
        });
    }
    let block = match *factors.shape.as_slice() {
        _ if factors.shape == want => block,
        [] | [1] | [1, 1] => [scales::WHOLE, scales::WHOLE],
        [rows] | [rows, 1] if rows == n_out => [1, scales::WHOLE],
        _ => {
            let (path, got) = (path.to_owned(), factors.shape.clone());
            return Err(Error::TensorShape { path, name: scale, got, want });
        }
    };
    Ok(Some(Scales { bytes: factors.bytes.clone(), block }))
}
