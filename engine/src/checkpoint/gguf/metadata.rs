//! Metadata by key, with the checks every reader of it needs.

use super::container::{Container, Cursor, Value};
use crate::error::{Error, Result};

/// The most of a value that an error shows.
const SHOWN_MAX: usize = 60;

impl Container {
    /// An error about a key: what was found stands in it.
    pub(super) fn wrong(&self, key: &str, want: &str) -> Error {
        let got = self.metadata.get(key).map_or_else(|| "missing".to_owned(), |v| self.shown(v));
        Error::Config { path: self.path.clone(), field: key.to_owned(), got, want: want.to_owned() }
    }

    fn shown(&self, value: &Value) -> String {
        match value {
            Value::Unsigned(n) => n.to_string(),
            Value::Signed(n) => n.to_string(),
            Value::Float(n) => n.to_string(),
            Value::Flag(flag) => flag.to_string(),
            Value::Array(_, len, _) => format!("a list of {len}"),
            Value::Text(range) => {
                let bytes = self.bytes.get(range.clone()).unwrap_or_default();
                String::from_utf8_lossy(bytes).chars().take(SHOWN_MAX).collect()
            }
        }
    }

    /// A whole number from 0, when it is there. Writers disagree about the width of numbers and about signs.
    pub(super) fn count(&self, key: &str) -> Result<Option<u64>> {
        let count = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(n)) => Some(*n),
            Some(Value::Signed(n)) => u64::try_from(*n).ok(),
            Some(_) => None,
        };
        count.map(Some).ok_or_else(|| self.wrong(key, "a whole number from 0"))
    }

    /// A whole number that must be there.
    pub(super) fn required(&self, key: &str) -> Result<u64> {
        self.count(key)?.ok_or_else(|| self.wrong(key, "a whole number"))
    }

    /// A number that may also be given layer by layer, all the same where it is not 0; `None` when it is missing.
    pub(super) fn uniform(&self, key: &str) -> Result<Option<u64>> {
        let Some(Value::Array(..)) = self.metadata.get(key) else { return self.count(key) };
        let mut found = None;
        self.each(key, |value| {
            let n = match value {
                Value::Unsigned(n) => Some(n),
                Value::Signed(n) => u64::try_from(n).ok(),
                _ => None,
            };
            match (n, found) {
                (Some(0), _) => Ok(()),
                (Some(n), None) => {
                    found = Some(n);
                    Ok(())
                }
                (Some(n), Some(before)) if n == before => Ok(()),
                _ => Err(self.wrong(key, "the same whole number for all layers")),
            }
        })?;
        Ok(found)
    }

    /// A number, when it is there.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(n)) if n.is_finite() => Ok(Some(*n)),
            Some(Value::Unsigned(n)) => Ok(Some(*n as f64)),
            Some(Value::Signed(n)) => Ok(Some(*n as f64)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }

    /// True or false, when it is there.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// Text, when it is there.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let Value::Text(range) = value else { return Err(self.wrong(key, "text")) };
        let bytes = self.bytes.get(range.clone()).unwrap_or_default();
        std::str::from_utf8(bytes).map(Some).map_err(|_| self.wrong(key, "text in UTF-8"))
    }

    /// Visits a list's elements in order; `false` when there is none.
    pub(super) fn each(
        &self,
        key: &str,
        mut visit: impl FnMut(Value) -> Result<()>,
    ) -> Result<bool> {
        let (kind, len, at) = match self.metadata.get(key) {
            None => return Ok(false),
            Some(Value::Array(kind, len, at)) => (*kind, *len, *at),
            Some(_) => return Err(self.wrong(key, "a list")),
        };
        let mut cursor = Cursor { path: &self.path, bytes: &self.bytes, at };
        let what = format!("`{key}`");
        for _ in 0..len {
            visit(cursor.value_called(&what, kind, key, 1)?)?;
        }
        Ok(true)
    }

    /// Visits a list of texts, each with its index; `false` when there is none.
    pub(super) fn texts<'a>(
        &'a self,
        key: &str,
        mut visit: impl FnMut(usize, &'a str) -> Result<()>,
    ) -> Result<bool> {
        let mut index = 0;
        self.each(key, |value| {
            let Value::Text(range) = value else { return Err(self.wrong(key, "a list of texts")) };
            let bytes = self.bytes.get(range).unwrap_or_default();
            let text = std::str::from_utf8(bytes)
                .map_err(|_| self.wrong(key, &format!("texts in UTF-8, entry {index} is none")))?;
            visit(index, text)?;
            index += 1;
            Ok(())
        })
    }
}
