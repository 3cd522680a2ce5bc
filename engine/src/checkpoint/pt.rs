//! What `torch.save` writes: a pickle that lists tensors, and their storages as raw bytes, in a zip archive or, before
//! 2020, one after the other.
//!
//! Tensors are ranges of the mapped file. Storages that no wanted tensor uses (an optimizer's state) are never touched.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::map::Bytes;
use super::pickle::{self, Kind, Pickle, Value};
use super::safetensors::Entry;
use super::zip::{self, Archive};
use crate::error::{Error, Result};
use crate::quant::DType;

/// What a file holds.
pub(super) struct Saved {
    /// The model's tensors by name.
    pub(super) tensors: BTreeMap<String, Entry>,
    /// Settings saved beside them: every object under a name that trainers use for them.
    pub(super) settings: Vec<Map<String, Json>>,
}

/// Reads a file's table of contents.
///
/// # Errors
/// [`Error::Format`] for the container and its pickle, [`Error::TensorRange`] for a tensor.
pub(super) fn read(path: &Path, file: &Bytes) -> Result<Saved> {
    let format = |problem: String| Error::Format { path: path.to_owned(), problem };
    if zip::is_archive(file) {
        let archive = Archive::open(file).map_err(format)?;
        let (root, bytes) = contents(&archive).map_err(format)?;
        let pickle = pickle::read(&bytes).map_err(format)?;
        let storage = |key: &str, len: usize| stored(&archive, &root, key, len);
        return saved(path, &pickle, &storage);
    }
    let Some(legacy) = Legacy::read(file).map_err(format)? else {
        let problem = if file.starts_with(MAGIC_IN_DIGITS) {
            "a legacy file with a pickle of protocol 0 or 1, wanted 2 or later: `torch.save` writes 2 when it is not told \
             otherwise"
        } else {
            "neither a zip archive nor a legacy file of `torch.save`"
        };
        return Err(format(problem.into()));
    };
    let storage = |key: &str, len: usize| legacy.stored(file, key, len);
    saved(path, &legacy.contents, &storage)
}

/// The archive's folder and its pickle.
fn contents(archive: &Archive) -> std::result::Result<(String, Bytes), String> {
    const PICKLE: &str = "data.pkl";
    let mut roots = archive
        .names()
        .filter_map(|name| name.strip_suffix(PICKLE))
        .filter(|root| root.ends_with('/'));
    let root = roots.next().ok_or("the archive has no `data.pkl`: it is none of `torch.save`")?;
    if roots.next().is_some() {
        return Err("the archive has more than one `data.pkl`".into());
    }
    if let Some(order) = archive.stored(&format!("{root}byteorder"))?
        && &order[..] != b"little"
    {
        let found = String::from_utf8_lossy(&order).chars().take(20).collect::<String>();
        return Err(format!(
            "its byte order is `{found}`, wanted `little`: big-endian files are not supported"
        ));
    }
    let pickle = archive.stored(&format!("{root}{PICKLE}"))?;
    Ok((root.to_owned(), pickle.ok_or("the archive's pickle lies outside the file")?))
}

/// One storage of an archive, which must have exactly the bytes its tensors were told.
fn stored(
    archive: &Archive,
    root: &str,
    key: &str,
    len: usize,
) -> std::result::Result<Bytes, String> {
    let name = format!("{root}data/{key}");
    let bytes = archive
        .stored(&name)?
        .ok_or_else(|| format!("its storage `{name}` is not in the archive"))?;
    if bytes.len() == len {
        Ok(bytes)
    } else {
        Err(format!("its storage `{name}` has {} bytes, wanted {len}", bytes.len()))
    }
}

/// A legacy file: five pickles, then the storages.
struct Legacy<'a> {
    contents: Pickle<'a>,
    /// Where each storage lies, by key.
    places: HashMap<&'a str, std::ops::Range<usize>>,
}

/// The number a legacy file begins with, lowest byte first.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const MAGIC_WITHIN: usize = 32;
/// How the pickles of protocols 0 and 1 write it.
const MAGIC_IN_DIGITS: &[u8] = b"L119547037146038801333356L\n";
const VERSION: i64 = 1001;

impl<'a> Legacy<'a> {
    /// `None`: the file begins with something else.
    fn read(file: &'a [u8]) -> std::result::Result<Option<Self>, String> {
        // A protocol's number, perhaps a frame, then the number itself: anything else is not looked at.
        let head = file.get(..MAGIC_WITHIN).unwrap_or(file);
        if file.first() != Some(&0x80) || !head.windows(MAGIC.len()).any(|bytes| bytes == MAGIC) {
            return Ok(None);
        }
        let mut at = 0;
        let mut next = || -> std::result::Result<Pickle<'a>, String> {
            let pickle = pickle::read(file.get(at..).unwrap_or_default())?;
            at += pickle.len;
            Ok(pickle)
        };
        next()?;
        let version = next()?.value;
        if version != Value::Int(VERSION) {
            return Err(format!("a legacy file of version {version:?}, wanted {VERSION}"));
        }
        let system = next()?;
        let Value::Dict(dict) = system.value else {
            return Err("a legacy file says nothing of the system it was written on".into());
        };
        if system.member(dict, "little_endian") != Some(Value::Bool(true)) {
            return Err("`little_endian` is not true: big-endian files are not supported".into());
        }
        let (contents, keys) = (next()?, next()?);
        let places = places(file, at, &contents, &keys)?;
        Ok(Some(Self { contents, places }))
    }

    fn stored(&self, file: &Bytes, key: &str, len: usize) -> std::result::Result<Bytes, String> {
        let place = self
            .places
            .get(key)
            .ok_or_else(|| format!("its storage `{key}` is not in the file"))?;
        if place.len() != len {
            return Err(format!("its storage `{key}` has {} bytes, wanted {len}", place.len()));
        }
        file.slice(place.clone()).ok_or_else(|| format!("its storage `{key}` ends beyond the file"))
    }
}

/// Walks over the storages behind the pickles: a count of elements, then the elements.
fn places<'a>(
    file: &[u8],
    mut at: usize,
    contents: &Pickle<'a>,
    keys: &Pickle<'a>,
) -> std::result::Result<HashMap<&'a str, std::ops::Range<usize>>, String> {
    let mut kinds: HashMap<&str, Kind> = HashMap::new();
    for storage in &contents.storages {
        let key = contents.text(storage.key);
        if *kinds.entry(key).or_insert(storage.kind) != storage.kind {
            return Err(format!("storage `{key}` has two types"));
        }
    }
    let Value::List(list) = keys.value else {
        return Err("a legacy file has no list of storages".into());
    };
    let mut places = HashMap::new();
    for key in keys.items(list) {
        let Value::Text(key) = key else { return Err("a storage's key is no text".into()) };
        let key = keys.text(*key);
        let kind = kinds.get(key).ok_or_else(|| format!("storage `{key}` belongs to no tensor"))?;
        let count =
            file.get(at..).and_then(|rest| rest.first_chunk::<8>()).map(|n| i64::from_le_bytes(*n));
        let place = || -> Option<std::ops::Range<usize>> {
            let bytes = usize::try_from(count?).ok()?.checked_mul(kind.element_bytes())?;
            let start = at.checked_add(8)?;
            let end = start.checked_add(bytes)?;
            (end <= file.len()).then_some(start..end)
        };
        let Some(place) = place() else {
            let count =
                count.map_or_else(|| "an unknown number of".to_owned(), |count| count.to_string());
            return Err(format!(
                "storage `{key}` of {count} elements ends beyond the file: it is truncated"
            ));
        };
        at = place.end;
        if places.insert(key, place).is_some() {
            return Err(format!("storage `{key}` is there twice"));
        }
    }
    Ok(places)
}

/// Names under which trainers keep the model's tensors; without any, the object itself is the tensors.
const STATES: [&str; 3] = ["model_state_dict", "state_dict", "model"];
/// Names under which trainers keep settings.
const SETTINGS: [&str; 4] = ["model_config", "config", "hyper_parameters", "args"];

/// Finds a storage's bytes by key and length.
type Storages<'a> = dyn Fn(&str, usize) -> std::result::Result<Bytes, String> + 'a;

/// The tensors and settings of a pickled object.
fn saved(path: &Path, pickle: &Pickle<'_>, storage: &Storages<'_>) -> Result<Saved> {
    let format = |problem: String| Error::Format { path: path.to_owned(), problem };
    let Value::Dict(top) = pickle.value else {
        return Err(format("its object is no dict of tensors".into()));
    };
    let state = STATES.iter().find_map(|name| match pickle.member(top, name) {
        Some(Value::Dict(state)) => Some(state),
        _ => None,
    });
    let mut tensors = BTreeMap::new();
    for (name, value) in pickle.members(state.unwrap_or(top)) {
        let Value::Tensor(tensor) = value else { continue };
        let wrong =
            |problem| Error::TensorRange { path: path.to_owned(), name: shown(name), problem };
        let entry = entry(pickle, tensor, storage).map_err(wrong)?;
        if tensors.insert(name.to_owned(), entry).is_some() {
            return Err(wrong("the file has two tensors of this name".into()));
        }
    }
    if tensors.is_empty() {
        let names: Vec<String> =
            pickle.members(top).map(|(name, _)| format!("`{}`", shown(name))).take(8).collect();
        let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        let places = STATES.map(|name| format!("`{name}`")).join(", ");
        let problem = format!(
            "it holds no tensors of a model, neither by itself nor under {places}; found {names}"
        );
        return Err(format(problem));
    }
    let settings =
        SETTINGS.iter().filter_map(|name| pickle.settings(pickle.member(top, name)?)).collect();
    Ok(Saved { tensors: without_wrapper(tensors), settings })
}

fn shown(name: &str) -> String {
    name.chars().take(200).collect()
}

/// Takes off what wrappers put in front of every name of the model inside them.
fn without_wrapper(mut tensors: BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
    for wrapper in ["module.", "_orig_mod.", "module."] {
        if tensors.keys().all(|name| name.starts_with(wrapper)) {
            let strip = |(name, entry): (String, Entry)| {
                (name.get(wrapper.len()..).unwrap_or_default().to_owned(), entry)
            };
            tensors = tensors.into_iter().map(strip).collect();
        }
    }
    tensors
}

/// One tensor: its range of its storage, row-major and without gaps.
fn entry(
    pickle: &Pickle<'_>,
    tensor: u32,
    storage: &Storages<'_>,
) -> std::result::Result<Entry, String> {
    let known = pickle
        .tensors
        .get(tensor as usize)
        .and_then(|tensor| Some((tensor, pickle.storages.get(tensor.storage as usize)?)));
    let (tensor, held) = known.ok_or("it is described nowhere")?;
    let size = |n: u64| usize::try_from(n).ok();
    let shape: Option<Vec<usize>> = tensor.shape.iter().map(|n| size(*n)).collect();
    let element = held.kind.element_bytes();
    let numbers = shape
        .as_ref()
        .and_then(|shape| shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size)));
    let (Some(shape), Some(numbers)) = (shape, numbers) else {
        return Err(format!("its shape {:?} has more numbers than there can be", tensor.shape));
    };
    if !is_contiguous(&tensor.shape, &tensor.stride) {
        return Err(format!(
            "its strides {:?} are not those of a row-major {:?}: save it with `.contiguous()`",
            tensor.stride, tensor.shape
        ));
    }
    let range = || -> Option<(usize, std::ops::Range<usize>)> {
        let held = size(held.count)?.checked_mul(element)?;
        let start = size(tensor.offset)?.checked_mul(element)?;
        let end = start.checked_add(numbers.checked_mul(element)?)?;
        (end <= held).then_some((held, start..end))
    };
    let Some((len, range)) = range() else {
        return Err(format!(
            "{numbers} numbers from {} on are wanted, its storage has {}",
            tensor.offset, held.count
        ));
    };
    let bytes =
        storage(pickle.text(held.key), len)?.slice(range).ok_or("it ends beyond its storage")?;
    let dtype = match held.kind {
        Kind::Float => Some(DType::F32),
        Kind::Half => Some(DType::F16),
        Kind::BFloat16 => Some(DType::Bf16),
        _ => None,
    };
    Ok(Entry { dtype_name: held.kind.name().to_owned(), dtype, shape, bytes })
}

/// Whether strides are a row-major tensor's; a dimension of one element may have any.
fn is_contiguous(shape: &[u64], stride: &[u64]) -> bool {
    let mut expected = 1u64;
    for (size, stride) in shape.iter().zip(stride).rev() {
        if *size > 1 && *stride != expected {
            return false;
        }
        expected = expected.saturating_mul(*size);
    }
    true
}
