//! The GGUF container, versions 2 and 3: header, metadata, tensor list, then the tensors' bytes.
//!
//! Read by hand, so that every refusal names the key or tensor, what was found and what was wanted. Nothing is
//! allocated for what a file claims, only for what it holds: arrays stay where they are and are walked when asked for.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::map::Bytes;
use super::super::safetensors::Entry;
use super::types::{self, Stored};
use crate::error::{Error, Result};

/// The least a key takes: its length, a type, one byte of value.
const KEY_BYTES_MIN: u64 = 8 + 4 + 1;
/// The least a tensor takes: length of its name, dimensions, type, offset.
const TENSOR_BYTES_MIN: u64 = 8 + 4 + 4 + 8;
/// Keys of a file: released ones have some fifty.
const KEYS_MAX: u64 = 1 << 16;
/// Tensors of a file: released ones have some two thousand.
const TENSORS_MAX: u64 = 1 << 17;
/// Arrays of arrays: nothing the format is used for has any; two levels are read over.
const NESTING_MAX: usize = 2;
/// Dimensions of a tensor.
const DIMENSIONS_MAX: u32 = 4;
/// Where tensors begin when the file does not say: the next multiple of this.
const ALIGNMENT: u64 = 32;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
    /// Where its bytes are.
    Text(Range<usize>),
    /// Type of its elements, how many, where they begin.
    Array(u32, u64, usize),
}

/// An open file: what it says about itself, and its tensors as they are named in it.
pub(super) struct Container {
    pub(super) path: PathBuf,
    pub(super) bytes: Bytes,
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, Entry>,
}

/// A place in a file, never beyond its end.
pub(super) struct Cursor<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    fn error(&self, problem: String) -> Error {
        Error::Format { path: self.path.to_owned(), problem }
    }

    fn left(&self) -> u64 {
        self.bytes.len().saturating_sub(self.at) as u64
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let Some((end, taken)) = end.and_then(|end| Some((end, self.bytes.get(self.at..end)?)))
        else {
            let (at, left) = (self.at, self.left());
            return Err(self.error(format!(
                "{what} takes {n} bytes at {at}, {left} are left: it is truncated"
            )));
        };
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length, then as many bytes.
    pub(super) fn text(&mut self, what: &str) -> Result<Range<usize>> {
        let len = self.u64(what)?;
        let start = self.at;
        self.take(len, what)?;
        Ok(start..self.at)
    }

    /// A name: of a key or a tensor.
    fn name(&mut self, what: &str) -> Result<String> {
        let range = self.text(what)?;
        let bytes = self.bytes.get(range).unwrap_or_default();
        match std::str::from_utf8(bytes) {
            Ok(name) if name.len() <= 1 << 16 => Ok(name.to_owned()),
            Ok(name) => Err(self.error(format!("{what} is {} bytes long", name.len()))),
            Err(_) => Err(self.error(format!("{what} at {} is not UTF-8", self.at - bytes.len()))),
        }
    }

    /// A value of the type `kind`; `key` is whose.
    pub(super) fn value(&mut self, kind: u32, key: &str, nesting: usize) -> Result<Value> {
        self.value_called(&format!("`{key}`"), kind, key, nesting)
    }

    /// The same; `what` is the key as errors show it, made once for a list.
    pub(super) fn value_called(
        &mut self,
        what: &str,
        kind: u32,
        key: &str,
        nesting: usize,
    ) -> Result<Value> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(u8::from_le_bytes(self.array(what)?))),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.array(what)?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array(what)?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.array(what)?))),
            4 => Value::Unsigned(u64::from(self.u32(what)?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.array(what)?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array(what)?))),
            7 => match self.array(what)? {
                [0] => Value::Flag(false),
                [1] => Value::Flag(true),
                [other] => return Err(self.error(format!("{what} is {other}, wanted 0 or 1"))),
            },
            8 => Value::Text(self.text(what)?),
            9 => self.list(what, key, nesting)?,
            10 => Value::Unsigned(self.u64(what)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(what)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(what)?)),
            other => {
                return Err(self.error(format!("{what} has type {other}, wanted 0 to 12")));
            }
        })
    }

    /// Reads over an array.
    fn list(&mut self, what: &str, key: &str, nesting: usize) -> Result<Value> {
        if nesting >= NESTING_MAX {
            return Err(self.error(format!("{what} has arrays nested over {NESTING_MAX} deep")));
        }
        let (kind, len) = (self.u32(what)?, self.u64(what)?);
        let start = self.at;
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 | 9 => 0,
            other => {
                return Err(
                    self.error(format!("{what} has elements of type {other}, wanted 0 to 12"))
                );
            }
        };
        if width > 0 {
            self.take(len.saturating_mul(width), what)?;
        } else {
            // Every element takes eight bytes at least, so this ends with the file.
            for _ in 0..len {
                if kind == 8 {
                    self.text(what)?;
                } else {
                    self.value_called(what, kind, key, nesting + 1)?;
                }
            }
        }
        Ok(Value::Array(kind, len, start))
    }
}

impl Container {
    /// Reads a file's header.
    ///
    /// # Errors
    /// [`Error::Format`] names the key, [`Error::TensorRange`] the tensor, with what was found and wanted.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bytes = Bytes::open(path)?;
        let mut cursor = Cursor { path, bytes: &bytes, at: 0 };
        let (n_tensor, n_key) = header(&mut cursor)?;
        let mut metadata = BTreeMap::new();
        for index in 0..n_key {
            let key = cursor.name(&format!("key {index} of {n_key}"))?;
            let kind = cursor.u32(&format!("type of `{key}`"))?;
            let value = cursor.value(kind, &key, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(cursor.error(format!("key `{key}` is there twice")));
            }
        }
        let alignment = alignment(&cursor, &metadata)?;
        let mut infos = Vec::new();
        for index in 0..n_tensor {
            infos.push(info(&mut cursor, index, n_tensor)?);
        }
        let start = (cursor.at as u64).next_multiple_of(alignment);
        let tensors = entries(path, &bytes, start, alignment, infos)?;
        Ok(Self { path: path.to_owned(), bytes, metadata, tensors })
    }
}

/// Magic, version, counts.
fn header(cursor: &mut Cursor<'_>) -> Result<(u64, u64)> {
    let magic: [u8; 4] = cursor.array("the magic `GGUF`")?;
    if &magic != b"GGUF" {
        let problem = format!("begins with {magic:02x?}, a GGUF file with `GGUF`");
        return Err(cursor.error(problem));
    }
    match cursor.u32("the version")? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=0xffff) => {
            let problem = "a big-endian GGUF file; little-endian ones are read";
            return Err(cursor.error(problem.into()));
        }
        version => {
            return Err(cursor.error(format!("GGUF version {version}, wanted 2 or 3")));
        }
    }
    let n_tensor = cursor.u64("the number of tensors")?;
    let n_key = cursor.u64("the number of keys")?;
    let left = cursor.left();
    for (count, max, least, what) in [
        (n_key, KEYS_MAX, KEY_BYTES_MIN, "keys"),
        (n_tensor, TENSORS_MAX, TENSOR_BYTES_MIN, "tensors"),
    ] {
        if count > left / least {
            return Err(cursor.error(format!(
                "{count} {what} are announced, {left} bytes follow: it is truncated or damaged"
            )));
        }
        if count > max {
            return Err(
                cursor.error(format!("{count} {what} are announced, at most {max} are read"))
            );
        }
    }
    Ok((n_tensor, n_key))
}

fn alignment(cursor: &Cursor<'_>, metadata: &BTreeMap<String, Value>) -> Result<u64> {
    match metadata.get("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(Value::Unsigned(n)) if n.is_power_of_two() && (1..=1 << 20).contains(n) => Ok(*n),
        Some(other) => {
            let problem =
                format!("`general.alignment` is {other:?}, wanted a power of two up to 2^20");
            Err(cursor.error(problem))
        }
    }
}

/// A tensor as the list has it.
struct Info {
    name: String,
    /// Outermost first.
    shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

fn info(cursor: &mut Cursor<'_>, index: u64, count: u64) -> Result<Info> {
    let name = cursor.name(&format!("name of tensor {index} of {count}"))?;
    let what = &format!("tensor `{name}`");
    let dimensions = cursor.u32(what)?;
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(cursor.error(format!("{what} has {dimensions} dimensions, wanted 1 to 4")));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(cursor.u64(what)?);
    }
    // The file has the innermost first.
    shape.reverse();
    Ok(Info { kind: cursor.u32(what)?, offset: cursor.u64(what)?, name, shape })
}

/// Tensors with their bytes, checked against type, shape, the file's end and each other.
fn entries(
    path: &Path,
    bytes: &Bytes,
    start: u64,
    alignment: u64,
    infos: Vec<Info>,
) -> Result<BTreeMap<String, Entry>> {
    let (mut tensors, mut ranges) = (BTreeMap::new(), Vec::new());
    let held = (bytes.len() as u64).saturating_sub(start);
    for Info { name, shape, kind, offset } in infos {
        let wrong = |problem: String| Error::TensorRange {
            path: path.to_owned(),
            name: name.clone(),
            problem,
        };
        if offset % alignment != 0 {
            return Err(wrong(format!("begins at {offset}, wanted a multiple of {alignment}")));
        }
        let Stored { name: dtype_name, dtype } = types::stored(kind);
        // A type without a size is refused by name when the model asks for the tensor; its bytes are not looked at.
        let size = match dtype {
            Some(dtype) => types::size(dtype, &shape).map_err(&wrong)?,
            None => 0,
        };
        let end = offset.checked_add(size).filter(|end| *end <= held);
        let range = end.and_then(|_| {
            let first = usize::try_from(start.checked_add(offset)?).ok()?;
            bytes.slice(first..first.checked_add(usize::try_from(size).ok()?)?)
        });
        let Some(range) = range else {
            return Err(wrong(format!(
                "{size} bytes at {offset} are wanted, the file holds {held}: it is truncated"
            )));
        };
        let sizes: Option<Vec<usize>> = shape.iter().map(|n| usize::try_from(*n).ok()).collect();
        let Some(shape) = sizes else { return Err(wrong(format!("has shape {shape:?}"))) };
        ranges.push((offset, offset + size, name.clone()));
        let entry = Entry { dtype_name, dtype, shape, bytes: range };
        if tensors.insert(name.clone(), entry).is_some() {
            return Err(wrong("it is there twice".into()));
        }
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let [(_, end, before), (begin, _, name)] = pair else { continue };
        if begin < end {
            let problem = format!("begins at {begin}, `{before}` ends at {end}: they overlap");
            return Err(Error::TensorRange { path: path.to_owned(), name: name.clone(), problem });
        }
    }
    Ok(tensors)
}
