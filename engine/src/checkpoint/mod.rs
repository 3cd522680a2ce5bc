//! Checkpoints on disk: found, opened, checked, mapped.

mod account;
pub mod config;
mod convert;
mod discover;
mod encode;
mod expected;
mod family;
mod files;
mod folder;
mod gguf;
mod gpt2;
mod json;
mod keep;
mod known;
pub mod map;
mod mini;
mod part;
mod pickle;
mod pt;
mod quantised;
mod safetensors;
mod scales;
mod scan;
mod single;
mod spare;
mod survey;
mod target;
mod text_side;
mod text_size;
mod yaml;
mod zip;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use account::Loaded;
pub use config::ModelConfig;
pub use convert::{ConvertOptions, Converted, convert, give_up};
pub use discover::{Found, Summary, describe, describe_path, discover, discover_again};
pub use encode::Encoded;
pub use files::is_weights;
pub use folder::GenerationConfig;
pub use keep::{Keep, Kept, Place};
pub use known::Known;
pub use map::{Arena, Bytes, Near, Room, Watch};
pub use part::Part;
pub use quantised::{Opened, Quant, cache_folder, open_planned, open_with_cache};
pub use scales::Scales;
pub use scan::Defects;
pub use survey::{Listed, Survey};
pub use target::Target;
pub use text_side::TextFiles;

use crate::error::{Error, Result};
use crate::quant::DType;
use expected::{Expected, expected};
use safetensors::Entry;
use text_side::TextSide;

/// Where a checkpoint comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory in Hugging Face layout.
    Directory(PathBuf),
    /// A file that is a model by itself: `.gguf` (the first one of a model in several), or `.pt` with its settings and
    /// tokenizer in its folder.
    File(PathBuf),
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

    /// Rows of the last dimension: one in a vector.
    pub fn n_row(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Numbers in a row.
    pub fn dim(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Some rows widened to f32, factors included; `out` holds whole rows, from row `first` on.
    pub fn decode_rows(&self, first: usize, out: &mut [f32]) {
        let dim = self.dim();
        let Some(row_bytes) = self.dtype.row_bytes(dim).filter(|bytes| *bytes > 0) else { return };
        for (index, row) in (first..).zip(out.chunks_exact_mut(dim)) {
            let Some(bytes) = self.bytes.get(index * row_bytes..(index + 1) * row_bytes) else {
                return;
            };
            self.dtype.decode(bytes, row);
            if let Some(scales) = &self.scales {
                scales.apply(index, dim, row);
            }
        }
    }

    /// Bytes it takes in its file, factors included.
    pub fn stored_bytes(&self) -> usize {
        self.bytes.len() + self.scales.as_ref().map_or(0, |scales| scales.bytes.len())
    }
}

/// What a container holds, as it says itself: nothing is held against the configuration yet.
struct Contents {
    /// The folder or file, as errors name it.
    path: PathBuf,
    config: ModelConfig,
    generation: GenerationConfig,
    text: TextSide,
    /// By their released names.
    tensors: BTreeMap<String, Entry>,
    /// Mapped weight files.
    files: Vec<Bytes>,
}

/// What a container says.
fn contents(source: &Source) -> Result<Contents> {
    match source {
        Source::File(path) => single::read(path),
        Source::Directory(_) | Source::Embedded(_) => folder::read(source),
    }
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
    has_mtp: bool,
    watch: Watch,
}

impl Checkpoint {
    /// Opens and checks.
    ///
    /// # Errors
    /// Names file, tensor, found and wanted.
    pub fn open(source: &Source) -> Result<Self> {
        let (mut checkpoint, text) = Self::headers(source)?;
        checkpoint.text = text.read()?;
        Ok(checkpoint)
    }

    /// Opens for a listing: the text side is looked at, nothing is made of it.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], and where there is no tokenizer.
    fn glance(source: &Source) -> Result<Self> {
        let (checkpoint, text) = Self::headers(source)?;
        text.check()?;
        Ok(checkpoint)
    }

    /// Opens all but the text side, which can be many times larger in memory than what is wrong with the rest.
    fn headers(source: &Source) -> Result<(Self, TextSide)> {
        let Contents { path, config, generation, text: side, tensors, files } = contents(source)?;
        let has_mtp = has_mtp(&config, &tensors);
        let mut problems = Vec::new();
        let used = check(&path, &config, &tensors, 0, &mut problems);
        if let Some(problem) = problems.into_iter().next() {
            return Err(problem);
        }
        let watch = Watch::over(files.iter());
        let text = TextFiles::default();
        let checkpoint = Self { config, generation, text, path, tensors, used, has_mtp, watch };
        Ok((checkpoint, side))
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

    /// Every tensor of the files, sorted by name: also factors, and those the model does not use.
    pub fn listed(&self) -> Vec<Listed> {
        let used: BTreeSet<&str> = self.used.iter().map(String::as_str).collect();
        self.tensors
            .iter()
            .map(|(name, entry)| Listed::of(name, entry, used.contains(part::owner(name))))
            .collect()
    }

    /// Whether the first MTP layer is there, whole: many converted copies leave it out.
    pub fn has_mtp(&self) -> bool {
        self.has_mtp
    }

    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
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

/// Whether anything of the first MTP layer is there; then all of it must be.
fn has_mtp(config: &ModelConfig, tensors: &BTreeMap<String, Entry>) -> bool {
    let prefix = format!("model.layers.{}.", config.num_hidden_layers);
    config.num_nextn_predict_layers > 0
        && tensors.range(prefix.clone()..).next().is_some_and(|(name, _)| name.starts_with(&prefix))
}

/// Holds what is there to what must be there; gives the names the ordinary pass uses, and in `problems` what is wrong:
/// all of it, up to `problems_max`.
fn check(
    path: &Path,
    config: &ModelConfig,
    tensors: &BTreeMap<String, Entry>,
    problems_max: usize,
    problems: &mut Vec<Error>,
) -> Vec<String> {
    let mut used = Vec::new();
    let at_most = tensors.len() + 1 + problems_max;
    let has = |name: &str| tensors.contains_key(name);
    let wanted = expected(config, has_mtp(config, tensors), &has, at_most);
    for Expected { name, shape, is_used } in &wanted {
        match check_one(path, config, tensors, name, shape.clone()) {
            Ok(()) if *is_used => used.push(name.clone()),
            Ok(()) => {}
            Err(problem) => problems.push(problem),
        }
    }
    // Where something is missing, what is spare is most often the same under another name.
    if problems.is_empty() {
        let names = wanted.iter().map(|wanted| wanted.name.as_str()).collect();
        problems.extend(spare::spare(path, config, tensors, &names));
    }
    used
}

/// One tensor that must be there.
fn check_one(
    path: &Path,
    config: &ModelConfig,
    tensors: &BTreeMap<String, Entry>,
    name: &str,
    shape: Vec<usize>,
) -> Result<()> {
    let (path, name) = (path.to_owned(), name.to_owned());
    let Some(entry) = tensors.get(&name) else {
        return Err(Error::TensorMissing { path, name, want: shape });
    };
    if entry.dtype.is_none() {
        return Err(wrong_dtype(&path, &name, entry));
    }
    if entry.shape != shape {
        return Err(Error::TensorShape { path, name, got: entry.shape.clone(), want: shape });
    }
    factors(&path, config.fp8_block, &name, entry, tensors).map(|_| ())
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
        return Err(Error::TensorDType {
            path: path.to_owned(),
            name: name.to_owned(),
            got: format!("{} for {} dimensions", entry.dtype_name, entry.shape.len()),
            want: "float32, bfloat16 or float16: 8-bit floats are read in matrices".into(),
        });
    };
    let want = vec![n_out.div_ceil(block[0]), dim.div_ceil(block[1])];
    let Some((scale, factors)) = scale_entry(name, tensors) else {
        let name = format!("{name}_scale_inv");
        return Err(Error::TensorMissing { path: path.to_owned(), name, want });
    };
    let Some(bytes) = factor_bytes(factors) else {
        return Err(Error::TensorDType {
            path: path.to_owned(),
            name: scale,
            got: factors.dtype_name.clone(),
            want: "float32, bfloat16 or float16".into(),
        });
    };
    let block = match *factors.shape.as_slice() {
        _ if factors.shape == want => block,
        [] | [1] | [1, 1] => [scales::WHOLE, scales::WHOLE],
        [rows] | [rows, 1] if rows == n_out => [1, scales::WHOLE],
        _ => {
            let (path, got) = (path.to_owned(), factors.shape.clone());
            return Err(Error::TensorShape { path, name: scale, got, want });
        }
    };
    Ok(Some(Scales { bytes, block }))
}

/// Factors as f32: in place, or widened where a writer kept them in the type of the other tensors.
fn factor_bytes(factors: &Entry) -> Option<Bytes> {
    match factors.dtype? {
        DType::F32 => Some(factors.bytes.clone()),
        dtype @ (DType::Bf16 | DType::F16) => {
            let mut values = vec![0.0; factors.shape.iter().product()];
            dtype.decode(&factors.bytes, &mut values);
            Some(Bytes::owned(values.iter().flat_map(|value: &f32| value.to_le_bytes()).collect()))
        }
        _ => None,
    }
}
