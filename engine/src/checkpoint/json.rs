//! Fields of a JSON object, taken with the checks every configuration needs.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
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

/// Visits an object's members one by one, each with its name and value: the whole is never a tree in memory, which
/// takes some twenty times its text. With `under` those of its member of that name; `false` when it has none.
///
/// # Errors
/// [`Error::Json`], also for a member of more than `nodes_max` values; what `visit` refuses.
pub(super) fn each_member<'a>(
    path: &Path,
    bytes: &'a [u8],
    under: Option<&'static str>,
    nodes_max: usize,
    visit: &mut dyn FnMut(Cow<'a, str>, Value) -> Result<()>,
) -> Result<bool> {
    let mut refusal = None;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let members = Members { under, what: "a JSON object", nodes_max, visit, refusal: &mut refusal };
    let read = members.deserialize(&mut reader).and_then(|found| reader.end().map(|()| found));
    match refusal {
        Some(error) => Err(error),
        None => read.map_err(|source| Error::Json { path: path.to_owned(), source }),
    }
}

struct Members<'v, 'a> {
    under: Option<&'static str>,
    what: &'static str,
    nodes_max: usize,
    visit: &'v mut dyn FnMut(Cow<'a, str>, Value) -> Result<()>,
    refusal: &'v mut Option<Error>,
}

impl<'de> DeserializeSeed<'de> for Members<'_, 'de> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<bool, D::Error> {
        from.deserialize_map(self)
    }
}

/// A name that stays in the text where nothing in it is escaped.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Members<'_, 'de> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<bool, A::Error> {
        let Self { under, what: _, nodes_max, visit, refusal } = self;
        let mut found = under.is_none();
        while let Some(Name(name)) = map.next_key()? {
            match under {
                Some(what) if name == what => {
                    let (visit, refusal) = (&mut *visit, &mut *refusal);
                    let inner = Members { under: None, what, nodes_max, visit, refusal };
                    found = map.next_value_seed(inner)?;
                }
                Some(_) => drop(map.next_value::<IgnoredAny>()?),
                None => {
                    let value = map.next_value_seed(Bounded(&mut { nodes_max }))?;
                    if let Err(error) = visit(name, value) {
                        *refusal = Some(error);
                        return Err(A::Error::custom("refused"));
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Reads a value of so many values in all.
struct Bounded<'n>(&'n mut usize);

impl Bounded<'_> {
    fn take<E: serde::de::Error>(self) -> std::result::Result<Self, E> {
        *self.0 = self.0.checked_sub(1).ok_or_else(|| E::custom("more values than it can have"))?;
        Ok(self)
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Value, D::Error> {
        from.deserialize_any(self.take()?)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Bounded(&mut *self.0))? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = map.next_key()? {
            object.insert(name, map.next_value_seed(Bounded(&mut *self.0))?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_one_by_one_and_none_is_larger_than_it_may_be() {
        let text = r#"{"a": 1, "b\n": [1, -2, 2.5, true, null, "x"], "c": {"d": {}}}"#;
        let mut object = Map::new();
        let mut read = |nodes| {
            object.clear();
            each_member(Path::new("x"), text.as_bytes(), None, nodes, &mut |name, value| {
                object.insert(name.into_owned(), value);
                Ok(())
            })
        };
        assert!(read(6).unwrap_err().to_string().contains("more values"));
        read(7).unwrap();
        assert_eq!(Value::Object(object), serde_json::from_str::<Value>(text).unwrap());
        for broken in ["", "[]", "{} {}", r#"{"a": 1"#, r#"{"a": [1}"#] {
            let read = each_member(Path::new("x"), broken.as_bytes(), None, 9, &mut |_, _| Ok(()));
            assert!(matches!(read, Err(Error::Json { .. })), "{broken}");
        }
        let mut names = Vec::new();
        let mut under = |name| {
            each_member(Path::new("x"), text.as_bytes(), Some(name), 9, &mut |name, _| {
                names.push(name.into_owned());
                Ok(())
            })
        };
        assert!(under("c").unwrap() && !under("d").unwrap());
        assert!(under("a").unwrap_err().to_string().contains("expected a"));
        assert_eq!(names, ["d"]);
        let stop = || Error::Format { path: "x".into(), problem: "stop".into() };
        let read = each_member(Path::new("x"), b"{\"a\": 1}", None, 9, &mut |_, _| Err(stop()));
        assert_eq!(read.unwrap_err().to_string(), stop().to_string());
    }
}
