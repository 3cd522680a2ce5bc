//! A pickle read as data. Nothing is imported, called or executed: a machine with an allow-list builds values in an
//! arena, and every name outside the list is an error that says it.
//!
//! Values are small and refer to the arena by number, so aliases and cycles cost nothing and nothing here recurses; texts
//! stay in the file. Each instruction makes at most one item, and there are at most [`ITEMS_MAX`], and few for the bytes
//! read so far: what a pickle takes is bounded by its length. Format: `pickletools` of the Python library; the subset that `torch.save` writes.

mod calls;
mod machine;

use std::collections::BTreeSet;

use serde_json::{Map, Number};

pub(super) use machine::read;

/// Values, containers and remembered values of one pickle. A checkpoint of 100,000 tensors has two to three million.
const ITEMS_MAX: usize = 4 << 20;
/// Items that any pickle may have, and that one may have for each 8 bytes read: a tensor has some thirty in a hundred
/// bytes and more, the densest lists, of pairs of small numbers, five in eight.
const ITEMS_FREE: usize = 1 << 16;
const ITEMS_PER_8_BYTES: usize = 6;
/// The same for tuples, lists and dicts that hold something or may: each is remembered, so it has three bytes or more.
const CONTAINERS_FREE: usize = 1 << 14;
const CONTAINERS_PER_8_BYTES: usize = 2;
/// Values and marks that wait at once: writers put a thousand members into a list or dict at a time.
const WAITING_MAX: usize = 1 << 16;
/// A pickle is a checkpoint's table of contents: a hundred bytes or two for each tensor.
const PICKLE_BYTES_MAX: usize = 256 << 20;
/// Members and depth of settings that are read out of a pickle.
const SETTINGS_MAX: usize = 4096;
const SETTINGS_DEPTH_MAX: usize = 8;

/// A part of the pickle that is UTF-8 text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

/// A value; containers are numbers of [`Pickle::items`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A whole number of more than 64 bits: its bytes, lowest first.
    Long(Span),
    Float(f64),
    Text(Span),
    /// The tuple without members: every call of a name without arguments has one.
    Empty,
    Tuple(u32),
    List(u32),
    /// Keys and values by turns, in the order they were set.
    Dict(u32),
    /// An instance of one of the trainers' settings classes; the number is its dict's.
    Object(u32),
    /// A number of [`Pickle::storages`].
    Storage(u32),
    /// A number of [`Pickle::tensors`].
    Tensor(u32),
    Global(Global),
}

/// A name that a pickle may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// `torch.FloatStorage` and its kind.
    Storage(Kind),
    /// `config.RLConfig` and its kind: data classes of trainers.
    Settings,
}

/// Element type of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    Double,
    Half,
    BFloat16,
    Long,
    Int,
    Short,
    Char,
    Byte,
    Bool,
}

impl Kind {
    /// Bytes of an element.
    pub(super) fn element_bytes(self) -> usize {
        match self {
            Self::Double | Self::Long => 8,
            Self::Float | Self::Int => 4,
            Self::Half | Self::BFloat16 | Self::Short => 2,
            Self::Char | Self::Byte | Self::Bool => 1,
        }
    }

    /// Its name as safetensors has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Float => "F32",
            Self::Double => "F64",
            Self::Half => "F16",
            Self::BFloat16 => "BF16",
            Self::Long => "I64",
            Self::Int => "I32",
            Self::Short => "I16",
            Self::Char => "I8",
            Self::Byte => "U8",
            Self::Bool => "BOOL",
        }
    }
}

impl Global {
    /// The allow-list.
    fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "FloatStorage") => Self::Storage(Kind::Float),
            ("torch", "DoubleStorage") => Self::Storage(Kind::Double),
            ("torch", "HalfStorage") => Self::Storage(Kind::Half),
            ("torch", "BFloat16Storage") => Self::Storage(Kind::BFloat16),
            ("torch", "LongStorage") => Self::Storage(Kind::Long),
            ("torch", "IntStorage") => Self::Storage(Kind::Int),
            ("torch", "ShortStorage") => Self::Storage(Kind::Short),
            ("torch", "CharStorage") => Self::Storage(Kind::Char),
            ("torch", "ByteStorage") => Self::Storage(Kind::Byte),
            ("torch", "BoolStorage") => Self::Storage(Kind::Bool),
            ("config", "RLConfig" | "SFTConfig" | "TrainingConfig") => Self::Settings,
            _ => return None,
        })
    }
}

/// A storage that tensors are views of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) kind: Kind,
    /// Names it within its file.
    pub(super) key: Span,
    /// Elements.
    pub(super) count: u64,
}

/// A view of a storage, in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    /// A number of [`Pickle::storages`].
    pub(super) storage: u32,
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    pub(super) stride: Vec<u64>,
}

/// What a pickle holds.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    bytes: &'a [u8],
    /// The value itself.
    pub(super) value: Value,
    /// Bytes it takes: what follows is not its own.
    pub(super) len: usize,
    containers: Vec<Vec<Value>>,
    pub(super) storages: Vec<Storage>,
    pub(super) tensors: Vec<Tensor>,
}

impl<'a> Pickle<'a> {
    /// A text, which was checked when it was read.
    pub(super) fn text(&self, span: Span) -> &'a str {
        std::str::from_utf8(self.raw(span)).unwrap_or_default()
    }

    /// The bytes of a span.
    pub(super) fn raw(&self, span: Span) -> &'a [u8] {
        self.bytes
            .get(span.start as usize..span.start as usize + span.len as usize)
            .unwrap_or_default()
    }

    /// What a tuple, list or dict holds.
    pub(super) fn items(&self, container: u32) -> &[Value] {
        self.containers.get(container as usize).map_or(&[], Vec::as_slice)
    }

    /// Members of a dict whose keys are texts.
    pub(super) fn members(&self, dict: u32) -> impl Iterator<Item = (&'a str, Value)> {
        self.items(dict).chunks_exact(2).filter_map(|pair| match pair {
            [Value::Text(key), value] => Some((self.text(*key), *value)),
            _ => None,
        })
    }

    /// The member of a dict that was set last under a key.
    pub(super) fn member(&self, dict: u32, key: &str) -> Option<Value> {
        self.members(dict).filter(|(name, _)| *name == key).last().map(|(_, value)| value)
    }

    /// A dict or an instance of a settings class as JSON, as far as JSON has its values; `None` for anything else, and
    /// for one that is too large, too deep or contains itself.
    pub(super) fn settings(&self, value: Value) -> Option<Map<String, serde_json::Value>> {
        let (Value::Dict(dict) | Value::Object(dict)) = value else { return None };
        let mut left = SETTINGS_MAX;
        self.object(dict, &mut left, &mut BTreeSet::new())
    }

    fn object(
        &self,
        dict: u32,
        left: &mut usize,
        above: &mut BTreeSet<u32>,
    ) -> Option<Map<String, serde_json::Value>> {
        if above.len() >= SETTINGS_DEPTH_MAX || !above.insert(dict) {
            return None;
        }
        let mut object = Map::new();
        for (key, value) in self.members(dict) {
            *left = left.checked_sub(1)?;
            object.insert(key.to_owned(), self.json(value, left, above)?);
        }
        above.remove(&dict);
        Some(object)
    }

    fn json(
        &self,
        value: Value,
        left: &mut usize,
        above: &mut BTreeSet<u32>,
    ) -> Option<serde_json::Value> {
        Some(match value {
            Value::Bool(flag) => flag.into(),
            Value::Int(number) => number.into(),
            Value::Float(number) => {
                Number::from_f64(number).map_or(serde_json::Value::Null, Into::into)
            }
            Value::Text(text) => self.text(text).into(),
            Value::Dict(dict) | Value::Object(dict) => self.object(dict, left, above)?.into(),
            Value::List(list) | Value::Tuple(list) => {
                if above.len() >= SETTINGS_DEPTH_MAX || !above.insert(list) {
                    return None;
                }
                let mut array = Vec::new();
                for value in self.items(list) {
                    *left = left.checked_sub(1)?;
                    array.push(self.json(*value, left, above)?);
                }
                above.remove(&list);
                array.into()
            }
            Value::Empty => serde_json::Value::Array(Vec::new()),
            // What has no place in settings says nothing there.
            _ => serde_json::Value::Null,
        })
    }
}

#[cfg(test)]
mod tests;
