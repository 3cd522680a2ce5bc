//! Fields of a JSON object, taken with the checks every configuration needs.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The largest size a configuration may name: far above any model, far below where products overflow 64 bits.
const SIZE_MAX: u64 = 1 << 32;

/// A JSON object and the file it came from.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// A field that is there and not null.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    /// An error about a field: what was found stands in it.
    pub(super) fn error(&self, field: &str, want: &str) -> Error {
        let got = match self.object.get(field) {
            None => "missing".to_owned(),
            Some(value) => shortened(&value.to_string()),
        };
        Error::Config {
            path: self.path.to_owned(),
            field: field.to_owned(),
            got,
            want: want.to_owned(),
        }
    }

    /// A size that must be there: 1 to 2^32.
    pub(super) fn size(&self, field: &str) -> Result<usize> {
        self.size_or(field, None)
    }

    /// A size from 1, or what it is when absent.
    pub(super) fn size_or(&self, field: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(field).map(Value::as_u64), default) {
            (None, Some(default)) => Ok(default),
            (Some(Some(size)), _) if (1..=SIZE_MAX).contains(&size) => Ok(size as usize),
            _ => Err(self.error(field, "a whole number from 1 to 4294967296")),
        }
    }

    /// A count from 0, or what it is when absent.
    pub(super) fn count_or(&self, field: &str, default: usize) -> Result<usize> {
        match self.get(field).map(Value::as_u64) {
            None => Ok(default),
            Some(Some(count)) if count <= SIZE_MAX => Ok(count as usize),
            _ => Err(self.error(field, "a whole number from 0 to 4294967296")),
        }
    }

    /// A positive number, or what it is when absent.
    pub(super) fn positive_or(&self, field: &str, default: Option<f64>) -> Result<f64> {
        match (self.get(field).map(Value::as_f64), default) {
            (None, Some(default)) => Ok(default),
            (Some(Some(number)), _) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(self.error(field, "a number above 0")),
        }
    }

    /// A number from 0, or 0 when absent.
    pub(super) fn number_or_zero(&self, field: &str) -> Result<f64> {
        match self.get(field).map(Value::as_f64) {
            None => Ok(0.0),
            Some(Some(number)) if number >= 0.0 && number.is_finite() => Ok(number),
            _ => Err(self.error(field, "a number from 0")),
        }
    }

    /// True or false, or what it is when absent.
    pub(super) fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field).map(Value::as_bool) {
            None => Ok(default),
            Some(Some(flag)) => Ok(flag),
            _ => Err(self.error(field, "true or false")),
        }
    }

    /// Text, when it is there.
    pub(super) fn text(&self, field: &str) -> Result<Option<&'a str>> {
        match self.get(field).map(Value::as_str) {
            None => Ok(None),
            Some(Some(text)) => Ok(Some(text)),
            _ => Err(self.error(field, "text")),
        }
    }

    /// An object, when it is there.
    pub(super) fn object(&self, field: &str) -> Result<Option<Fields<'a>>> {
        match self.get(field).map(Value::as_object) {
            None => Ok(None),
            Some(Some(object)) => Ok(Some(Fields { path: self.path, object })),
            _ => Err(self.error(field, "an object")),
        }
    }

    /// Token ids: one, a list, or none.
    pub(super) fn token_ids(&self, field: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(field) {
            None => Some(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.error(field, "a token id or a list of them"))
    }
}

/// At most 60 characters of a value, for an error.
fn shortened(text: &str) -> String {
    if text.chars().count() <= 60 {
        return text.to_owned();
    }
    text.chars().take(57).chain("...".chars()).collect()
}

/// Parses a JSON object.
///
/// # Errors
/// [`Error::Json`], or [`Error::Format`] when it is no object.
pub(super) fn parse_object(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Error::Format {
            path: path.to_owned(),
            problem: format!("wanted a JSON object, found {}", shortened(&other.to_string())),
        }),
        Err(source) => Err(Error::Json { path: path.to_owned(), source }),
    }
}
