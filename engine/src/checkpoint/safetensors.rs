//! The safetensors container: an 8-byte length, a JSON header, then the tensors' bytes.
//!
//! Read by hand rather than through the crate, so that every refusal names the tensor, what was found and what was
//! wanted. Format: <https://github.com/huggingface/safetensors>, section "Format".

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::json::each_member;
use super::map::Bytes;
use crate::error::{Error, Result};
use crate::quant::DType;

/// The format's own bound on a header.
pub(super) const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Tensors of a file: the largest released models have some two hundred thousand in all their files.
const TENSORS_MAX: usize = 1 << 20;
/// Values of one member: a tensor has a dozen, the metadata one for each matrix in blocks.
const NODES_MAX: usize = 1 << 18;
/// What is wrong, as far as it is kept.
const PROBLEMS_MAX: usize = 1000;
/// The one member of a header that is no tensor.
const METADATA: &str = "__metadata__";

/// A tensor as a header lists it; bytes checked against its shape, the file's end and its neighbours.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The stored type's name, `BF16`, also where this build cannot use it.
    pub(super) dtype_name: String,
    /// `None`: a type this build cannot use.
    pub(super) dtype: Option<DType>,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Bytes,
}

/// Reads a file's header.
///
/// # Errors
/// [`Error::Format`] for the header, [`Error::TensorRange`] for a tensor, naming what was found and wanted.
pub(super) fn entries(path: &Path, file: &Bytes) -> Result<BTreeMap<String, Entry>> {
    let mut problems = Vec::new();
    let entries = entries_and_problems(path, file, &mut problems)?;
    problems.into_iter().next().map_or(Ok(entries), Err)
}

/// Reads a file's header and keeps every tensor that is sound; `problems` gets the others' reasons.
///
/// # Errors
/// [`Error::Format`] for a header that cannot be read at all.
pub(super) fn entries_and_problems(
    path: &Path,
    file: &Bytes,
    problems: &mut Vec<Error>,
) -> Result<BTreeMap<String, Entry>> {
    let format = |problem: String| Error::Format { path: path.to_owned(), problem };
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(format(format!(
            "a safetensors file begins with 8 bytes of length, found {} bytes",
            file.len()
        )));
    };
    let header_len = u64::from_le_bytes(*length);
    if header_len > HEADER_BYTES_MAX || header_len > rest.len() as u64 {
        let left = rest.len();
        return Err(format(format!(
            "the header claims {header_len} bytes, {left} follow; truncated or not safetensors"
        )));
    }
    let (header, _) = rest.split_at(header_len as usize);
    let Some(data) = file.slice(8 + header_len as usize..file.len()) else {
        return Err(format("the header ends beyond the file".into()));
    };
    let (mut entries, mut names, mut notes) = (BTreeMap::new(), Vec::new(), Value::Null);
    each_member(path, header, None, NODES_MAX, &mut |name, value| {
        if names.len() >= TENSORS_MAX {
            return Err(format(format!("more than {TENSORS_MAX} tensors are listed")));
        }
        if name == METADATA {
            notes = value;
        } else {
            match entry(path, &name, &value, &data) {
                Ok(entry) => drop(entries.insert(name.clone().into_owned(), entry)),
                Err(problem) => keep(problems, problem),
            }
        }
        names.push(name);
        Ok(())
    })?;
    if let Err(problem) = refuse_duplicates(path, names) {
        keep(problems, problem);
    }
    read_notes(path, &notes, &mut entries, problems);
    find_overlaps(path, &data, &entries, problems);
    Ok(entries)
}

/// Adds a problem to a list that stays short: a header may be wrong in a million places.
fn keep(problems: &mut Vec<Error>, problem: Error) {
    if problems.len() < PROBLEMS_MAX {
        problems.push(problem);
    }
}

/// What stands before a tensor's name where the metadata says what its bytes are.
const NOTE: &str = "hadal.";

/// The metadata's line about a tensor in blocks: `Q8_0 4096 2048`, its format and its shape in numbers. The format
/// has no name for such tensors: they stand in the file as bytes, `[n_out, bytes of a row]`.
pub(super) fn block_note(name: &str, dtype: DType, shape: &[usize]) -> (String, String) {
    let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
    (format!("{NOTE}{name}"), format!("{} {}", dtype.name(), shape.join(" ")))
}

/// Reads [`block_note`]; the bytes' own shape must be what follows from it.
fn read_note(note: &str, stored: &[usize]) -> Option<(DType, Vec<usize>)> {
    let mut words = note.split(' ');
    let name = words.next()?;
    let dtype =
        DType::ALL.into_iter().find(|dtype| dtype.name() == name && dtype.block_len() > 1)?;
    let shape: Vec<usize> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let [n_out, dim] = *shape.as_slice() else { return None };
    (stored == [n_out, dtype.row_bytes(dim)?]).then_some((dtype, shape))
}

/// The format's name for a type; tensors in blocks are bytes.
pub(super) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::Bf16 => "BF16",
        DType::F16 => "F16",
        DType::Fp8E4m3 => "F8_E4M3",
        _ => "U8",
    }
}

/// One tensor's line of the header.
fn entry(path: &Path, name: &str, value: &Value, data: &Bytes) -> Result<Entry> {
    let wrong = |problem: String| Error::TensorRange {
        path: path.to_owned(),
        name: name.to_owned(),
        problem,
    };
    let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let list = |field: &str| -> Option<Vec<usize>> {
        value.get(field)?.as_array()?.iter().map(number).collect()
    };
    let Some(dtype_name) = value.get("dtype").and_then(Value::as_str) else {
        return Err(wrong("its header has no `dtype`".into()));
    };
    let Some(shape) = list("shape") else {
        return Err(wrong("its `shape` is no list of sizes".into()));
    };
    let offsets = list("data_offsets");
    let Some(&[start, end]) = offsets.as_deref() else {
        return Err(wrong("its `data_offsets` are no pair of offsets".into()));
    };
    let Some(bytes) = data.slice(start..end) else {
        let held = data.len();
        return Err(wrong(format!(
            "bytes {start}..{end} are wanted, the file holds {held}: it is truncated"
        )));
    };
    if let Some(width) = element_bytes(dtype_name) {
        let wanted = shape.iter().try_fold(width, |bytes, size| bytes.checked_mul(*size));
        if wanted != Some(bytes.len()) {
            let wanted = wanted.map_or("more than 2^64".to_owned(), |bytes| bytes.to_string());
            return Err(wrong(format!(
                "{dtype_name} {shape:?} takes {wanted} bytes, {} are given",
                bytes.len()
            )));
        }
    }
    let dtype = DType::ALL
        .into_iter()
        .find(|dtype| dtype.block_len() == 1 && self::dtype_name(*dtype) == dtype_name);
    let dtype_name = dtype_name.chars().take(20).collect();
    Ok(Entry { dtype_name, dtype, shape, bytes })
}

/// Tensors of bytes that the metadata says more of: their format and their shape in numbers.
fn read_notes(
    path: &Path,
    notes: &Value,
    entries: &mut BTreeMap<String, Entry>,
    problems: &mut Vec<Error>,
) {
    for (key, note) in notes.as_object().into_iter().flatten() {
        let Some(name) = key.strip_prefix(NOTE) else { continue };
        let Some(entry) = entries.get_mut(name) else { continue };
        let read = note.as_str().and_then(|note| read_note(note, &entry.shape));
        if let Some((dtype, logical)) = read.filter(|_| entry.dtype_name == "U8") {
            dtype.name().clone_into(&mut entry.dtype_name);
            (entry.dtype, entry.shape) = (Some(dtype), logical);
            continue;
        }
        let (dtype_name, shape) = (&entry.dtype_name, &entry.shape);
        let problem =
            format!("the metadata says it is {note}, which {dtype_name} {shape:?} is not");
        keep(
            problems,
            Error::TensorRange { path: path.to_owned(), name: name.to_owned(), problem },
        );
        entries.remove(name);
    }
}

/// Bytes of an element; `None` for a type this build has not heard of.
fn element_bytes(dtype: &str) -> Option<usize> {
    match dtype {
        "F64" | "I64" | "U64" => Some(8),
        "F32" | "I32" | "U32" => Some(4),
        "F16" | "BF16" | "I16" | "U16" => Some(2),
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" => Some(1),
        _ => None,
    }
}

/// A JSON reader keeps the last of two equal names; a checkpoint with two is not to be trusted.
fn refuse_duplicates(path: &Path, mut names: Vec<Cow<'_, str>>) -> Result<()> {
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair.first() == pair.last());
    let Some(name) = twice.and_then(<[_]>::first) else { return Ok(()) };
    let name: String = name.chars().take(200).collect();
    let problem = format!("the header lists `{name}` twice");
    Err(Error::Format { path: path.to_owned(), problem })
}

/// No byte belongs to two tensors.
fn find_overlaps(
    path: &Path,
    data: &Bytes,
    entries: &BTreeMap<String, Entry>,
    problems: &mut Vec<Error>,
) {
    let mut ranges = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let start = entry.bytes.as_ptr().addr() - data.as_ptr().addr();
        ranges.push((start, start + entry.bytes.len(), name.as_str()));
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let [(_, end, before), (start, after_end, after)] = pair else { continue };
        if start < end && start < after_end {
            let problem = format!(
                "its bytes {start}..{after_end} overlap those of `{before}`, which end at {end}"
            );
            let (path, name) = (path.to_owned(), (*after).to_owned());
            keep(problems, Error::TensorRange { path, name, problem });
        }
    }
}
