//! Which tensors are written, as what, and where they lie in which file.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::join::{self, Halves};
use super::{ConvertOptions, Converted};
use crate::checkpoint::expected::expected;
use crate::checkpoint::{Checkpoint, Listed, Part, Target, part, safetensors, scale_entry};
use crate::error::{Error, Result};
use crate::quant::{DType, fp8};

/// Data begins at a multiple of it, as does nothing else that the format allows to be aligned.
const HEADER_ALIGN: usize = 64;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) name: String,
    /// Logical; blocks are stored as bytes, `[n_out, row_bytes]`.
    pub(super) shape: Vec<usize>,
    pub(super) content: Content,
    pub(super) bytes: u64,
    /// From the file's first byte.
    pub(super) offset: u64,
}

/// Where an item's bytes come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Content {
    /// As the source has them, under its own name for the type.
    Same(DType),
    /// The tensor of the item's name, encoded.
    Encoded(DType),
    /// The factors that encoding the tensor before `_scale_inv` gives.
    Factors,
    /// The factors that the tensor before `_scale_inv` has, in whatever type, as f32.
    OwnFactors,
    /// `kv_b_proj` out of its halves, encoded.
    Joined(DType),
}

impl Content {
    fn dtype(self) -> DType {
        match self {
            Self::Same(dtype) | Self::Encoded(dtype) | Self::Joined(dtype) => dtype,
            Self::Factors | Self::OwnFactors => DType::F32,
        }
    }
}

/// One file.
#[derive(Debug, Clone, Default)]
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) header: Vec<u8>,
    pub(super) items: Vec<Item>,
    pub(super) bytes: u64,
}

/// All files.
pub(super) struct Layout {
    pub(super) shards: Vec<Shard>,
    left_out: usize,
    kept: usize,
}

impl Layout {
    pub(super) fn of(checkpoint: &Checkpoint, options: &ConvertOptions) -> Result<Self> {
        let listed: BTreeMap<String, Listed> =
            checkpoint.listed().into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        let names = names(checkpoint, &listed);
        let (mut groups, mut kept) = (Vec::new(), 0);
        for name in &names {
            let (items, is_kept) = items(checkpoint, name, options)?;
            kept += usize::from(is_kept);
            groups.push(items);
        }
        let written: BTreeSet<&str> =
            groups.iter().flatten().map(|item: &Item| item.name.as_str()).collect();
        // Halves are in what was made of them; beside a whole that was there already they are not used.
        let is_joined = |whole: &str| written.contains(whole) && !checkpoint.has(whole);
        let is_written = |name: &str| {
            written.contains(name) || join::whole(name).is_some_and(|whole| is_joined(&whole))
        };
        let left_out =
            listed.keys().filter(|name| part::owner(name) == *name && !is_written(name)).count();
        let shards = shards(groups, options.shard_bytes)?;
        Ok(Self { shards, left_out, kept })
    }

    /// Bytes of all files, headers included.
    pub(super) fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.header.len() as u64 + shard.bytes).sum()
    }

    /// Whether any tensor is stored in a format.
    pub(super) fn has(&self, is: impl Fn(DType) -> bool) -> bool {
        self.shards.iter().flat_map(|shard| &shard.items).any(|item| is(item.content.dtype()))
    }

    /// Whether a layer's `kv_b_proj` is stored in halves.
    pub(super) fn has_halves(&self) -> bool {
        self.shards.iter().flat_map(|shard| &shard.items).any(|item| join::is_half(&item.name))
    }

    /// `model.safetensors.index.json`, when there is more than one file.
    pub(super) fn index(&self) -> Option<String> {
        let total: u64 = self.shards.iter().map(|shard| shard.bytes).sum();
        let mut map = Map::new();
        for shard in &self.shards {
            map.extend(shard.items.iter().map(|item| (item.name.clone(), json!(shard.name))));
        }
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        (self.shards.len() > 1).then(|| format!("{index:#}\n"))
    }

    pub(super) fn converted(&self) -> Converted {
        Converted {
            n_file: self.shards.len(),
            n_tensor: self.shards.iter().map(|shard| shard.items.len()).sum(),
            bytes: self.shards.iter().map(|shard| shard.bytes).sum(),
            left_out: self.left_out,
            kept: self.kept,
        }
    }
}

/// What is written, in the order of a forward pass: all that the configuration asks for, and the MTP layer's copies of
/// embedding and head where it has them.
fn names(checkpoint: &Checkpoint, listed: &BTreeMap<String, Listed>) -> Vec<String> {
    let config = &checkpoint.config;
    let mut names: Vec<String> =
        expected(config, checkpoint.has_mtp(), &|name| checkpoint.has(name), usize::MAX)
            .into_iter()
            .map(|tensor| tensor.name)
            .collect();
    let known: BTreeSet<String> = names.iter().cloned().collect();
    let is_mtp = |name: &str| Part::of(name, Some(config.num_hidden_layers)) == Part::Mtp;
    let more = listed.keys().filter(|name| is_mtp(name) && part::owner(name) == name.as_str());
    names.extend(more.filter(|name| !known.contains(*name)).cloned());
    names
}

/// One tensor, and its factors; and whether it stays what it is because its rows are no whole blocks.
fn items(
    checkpoint: &Checkpoint,
    name: &str,
    options: &ConvertOptions,
) -> Result<(Vec<Item>, bool)> {
    if let Some(whole) = join::whole(name).filter(|_| options.joins())
        && let Some(halves) = Halves::of(checkpoint, &whole)
    {
        // Once for both, where the key's is met.
        let items = if join::is_key(name) { joined(whole, &halves, options)? } else { Vec::new() };
        return Ok((items, false));
    }
    let tensor = checkpoint.tensor(name)?;
    let to = options.to.dtype(&tensor);
    let is_kept = options.to.is_blocks()
        && to == tensor.dtype
        && part::is_layer_matrix(name)
        && !tensor.dim().is_multiple_of(32);
    let own = tensor.scales.as_ref().map(|scales| scales.block);
    let shape = tensor.shape.clone();
    let is_factored_anew = to == DType::Fp8E4m3
        && own.is_none_or(|block| block != fp8::BLOCK && options.to == Target::Fp8);
    if is_factored_anew {
        return Ok((encoded(name.to_owned(), shape, Content::Encoded(to))?, is_kept));
    }
    if to != tensor.dtype {
        return Ok((vec![item(name.to_owned(), shape, Content::Encoded(to))?], is_kept));
    }
    let mut items = vec![item(name.to_owned(), shape, Content::Same(to))?];
    if let Some((_, factors)) = scale_entry(name, &checkpoint.tensors).filter(|_| own.is_some()) {
        let (name, shape) = (format!("{name}_scale_inv"), factors.shape.clone());
        items.push(item(name, shape, Content::OwnFactors)?);
    }
    Ok((items, is_kept))
}

/// A `kv_b_proj` that is stored in halves.
fn joined(whole: String, halves: &Halves, options: &ConvertOptions) -> Result<Vec<Item>> {
    let shape = halves.shape();
    let to = options.to.dtype_of(&whole, DType::F32, &shape);
    encoded(whole, shape, Content::Joined(to))
}

/// A tensor that is encoded, and the factors that come of it.
fn encoded(name: String, shape: Vec<usize>, content: Content) -> Result<Vec<Item>> {
    if content.dtype() != DType::Fp8E4m3 {
        return Ok(vec![item(name, shape, content)?]);
    }
    let factors = shape.iter().zip(fp8::BLOCK).map(|(size, side)| size.div_ceil(side)).collect();
    let factors = item(format!("{name}_scale_inv"), factors, Content::Factors)?;
    Ok(vec![item(name, shape, content)?, factors])
}

fn item(name: String, shape: Vec<usize>, content: Content) -> Result<Item> {
    let bytes = byte_len(content.dtype(), &shape).ok_or_else(|| Error::Internal {
        message: format!("`{name}` {shape:?} does not fit {}", content.dtype().name()),
    })?;
    Ok(Item { name, shape, content, bytes, offset: 0 })
}

/// Bytes of a tensor; `None` when its rows are no whole blocks.
fn byte_len(dtype: DType, shape: &[usize]) -> Option<u64> {
    let (dim, outer) = match shape.split_last() {
        Some((dim, outer)) => (*dim, outer),
        None => (1, &[][..]),
    };
    let rows = outer.iter().try_fold(1usize, |n, size| n.checked_mul(*size))?;
    Some(rows.checked_mul(dtype.row_bytes(dim)?)? as u64)
}

/// Cuts the list into files, and gives each item its place.
fn shards(groups: Vec<Vec<Item>>, shard_bytes: u64) -> Result<Vec<Shard>> {
    let mut shards: Vec<Shard> = vec![Shard::default()];
    // A matrix and its factors stay together.
    for group in groups {
        let bytes: u64 = group.iter().map(|item| item.bytes).sum();
        let is_full =
            shards.last().is_some_and(|shard| shard.bytes > 0 && shard.bytes + bytes > shard_bytes);
        if is_full {
            shards.push(Shard::default());
        }
        if let Some(shard) = shards.last_mut() {
            shard.bytes += bytes;
            shard.items.extend(group);
        }
    }
    let n = shards.len();
    for (index, shard) in shards.iter_mut().enumerate() {
        shard.name = match n {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{n:05}.safetensors", index + 1),
        };
        // The format allows no gaps: wide numbers first keeps each at a multiple of its own width.
        shard.items.sort_by_key(|item| std::cmp::Reverse(width(item.content.dtype())));
        shard.header = header(&mut shard.items)?;
    }
    Ok(shards)
}

fn width(dtype: DType) -> usize {
    if dtype.block_len() == 1 { dtype.block_bytes() } else { 1 }
}

/// The file's head; gives the items their offsets on the way.
fn header(items: &mut [Item]) -> Result<Vec<u8>> {
    let (mut object, mut metadata) = (Map::new(), Map::new());
    metadata.insert("format".into(), json!("pt"));
    let mut at = 0u64;
    for item in items.iter_mut() {
        let dtype = item.content.dtype();
        let shape: Vec<usize> = if dtype.block_len() == 1 {
            item.shape.clone()
        } else {
            let (key, value) = safetensors::block_note(&item.name, dtype, &item.shape);
            metadata.insert(key, json!(value));
            let n_out = item.shape.first().copied().unwrap_or(0);
            vec![n_out, item.bytes as usize / n_out.max(1)]
        };
        let end = at + item.bytes;
        let line = json!({
            "dtype": safetensors::dtype_name(dtype), "shape": shape, "data_offsets": [at, end],
        });
        object.insert(item.name.clone(), line);
        item.offset = at;
        at = end;
    }
    object.insert("__metadata__".into(), Value::Object(metadata));
    let mut json = Value::Object(object).to_string().into_bytes();
    json.resize((8 + json.len()).next_multiple_of(HEADER_ALIGN) - 8, b' ');
    if json.len() as u64 > safetensors::HEADER_BYTES_MAX {
        return Err(Error::Internal { message: "a header over the format's own bound".into() });
    }
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    for item in items {
        item.offset += header.len() as u64;
    }
    Ok(header)
}
