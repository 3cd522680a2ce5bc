//! Checkpoints on disk: found, opened, checked, mapped.

pub mod config;
mod discover;
mod expected;
mod files;
mod json;
pub mod map;
mod safetensors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use config::ModelConfig;
pub use discover::{Found, Summary, describe, describe_folder, discover};
pub use map::{Bytes, Watch};

use crate::error::{Error, Result};
use crate::quant::DType;
use expected::{DTYPES, Expected, expected};
use files::Files;
use json::{Fields, parse_object};
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
        let files = Files::new(source);
        let (config_path, config_bytes) = files.required("config.json")?;
        let config = ModelConfig::parse(&config_path, &config_bytes)?;
        let generation = generation(&files, &config_path, &config_bytes)?;
        let mut tensors = BTreeMap::new();
        let mut shards = Vec::new();
        for (path, bytes) in files.weights()? {
            for (name, entry) in safetensors::entries(&path, &bytes)? {
                if tensors.insert(name.clone(), entry).is_some() {
                    let problem = "it is in another file of this checkpoint too".to_owned();
                    return Err(Error::TensorRange { path, name, problem });
                }
            }
            shards.push(bytes);
        }
        let path = files.path().to_owned();
        let used = check(&path, &expected(&config), &tensors)?;
        let text = text_files(&files)?;
        Ok(Self {
            config,
            generation,
            text,
            path,
            tensors,
            used,
            watch: Watch::over(shards.iter()),
        })
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
        })
    }

    /// The tensors the ordinary pass uses.
    fn used(&self) -> impl Iterator<Item = &Entry> {
        self.used.iter().filter_map(|name| self.tensors.get(name))
    }

    /// Bytes of all tensors the model uses (the MTP layer, which is checked but not run, is not counted).
    pub fn weight_bytes(&self) -> u64 {
        self.used().map(|entry| entry.bytes.len() as u64).sum()
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
        DTYPES.into_iter().max_by_key(|dtype| bytes(*dtype)).unwrap_or(DType::F32)
    }

    /// A handle that says whether mapped files are still whole; cheap, asked after every step.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }
}

fn wrong_dtype(path: &Path, name: &str, entry: &Entry) -> Error {
    let want = DTYPES.map(super::quant::DType::name).join(" or ");
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
    wanted: &[Expected],
    tensors: &BTreeMap<String, Entry>,
) -> Result<Vec<String>> {
    let mut used = Vec::new();
    for Expected { name, shape, is_used } in wanted {
        let Some(entry) = tensors.get(name) else {
            return Err(Error::TensorMissing {
                path: path.to_owned(),
                name: name.clone(),
                want: shape.clone(),
            });
        };
        if entry.dtype.is_none() {
            return Err(wrong_dtype(path, name, entry));
        }
        if entry.shape != *shape {
            let (got, want) = (entry.shape.clone(), shape.clone());
            return Err(Error::TensorShape {
                path: path.to_owned(),
                name: name.clone(),
                got,
                want,
            });
        }
        if *is_used {
            used.push(name.clone());
        }
    }
    Ok(used)
}

/// `generation_config.json`; ids that it does not give come from `config.json`.
fn generation(files: &Files, config_path: &Path, config: &[u8]) -> Result<GenerationConfig> {
    let (path, object) = match files.optional("generation_config.json")? {
        Some((path, bytes)) => (path.clone(), parse_object(&path, &bytes)?),
        None => (config_path.to_owned(), serde_json::Map::new()),
    };
    let config = parse_object(config_path, config)?;
    let (own, config) =
        (Fields { path: &path, object: &object }, Fields { path: config_path, object: &config });
    let ids = |field: &str| -> Result<Vec<u32>> {
        let ids = own.token_ids(field)?;
        if ids.is_empty() { config.token_ids(field) } else { Ok(ids) }
    };
    let positive = |field: &str| own.get(field).map(|_| own.positive_or(field, None)).transpose();
    Ok(GenerationConfig {
        eos_token_ids: ids("eos_token_id")?,
        bos_token_id: ids("bos_token_id")?.first().copied(),
        temperature: own
            .get("temperature")
            .map(|_| own.number_or_zero("temperature"))
            .transpose()?
            .map(|t| t as f32),
        top_p: positive("top_p")?.map(|p| p.min(1.0) as f32),
        top_k: own
            .get("top_k")
            .map(|_| own.count_or("top_k", 0))
            .transpose()?
            .and_then(|k| u32::try_from(k).ok()),
        repetition_penalty: positive("repetition_penalty")?.map(|r| r as f32),
    })
}

/// Tokenizer and template as bytes; the text side says what it misses.
fn text_files(files: &Files) -> Result<TextFiles> {
    let bytes = |name| Ok::<_, Error>(files.optional(name)?.map(|(_, bytes)| bytes));
    let chat_template = match files.optional("chat_template.jinja")? {
        None => None,
        Some((path, bytes)) => Some(String::from_utf8(bytes).map_err(|error| Error::Format {
            path,
            problem: format!("not UTF-8 after {} bytes", error.utf8_error().valid_up_to()),
        })?),
    };
    Ok(TextFiles {
        tokenizer: bytes("tokenizer.json")?,
        tokenizer_config: bytes("tokenizer_config.json")?,
        chat_template,
    })
}
