//! Fields of a request's JSON: types and ranges checked once, refusals that name field, value and range.

use hyper::StatusCode;
use serde_json::{Map, Value};

use crate::http::reply::Refusal;

/// A request's JSON object.
pub(crate) struct Fields(pub(crate) Map<String, Value>);

/// At most 60 characters of a value, for a sentence.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        text
    } else {
        text.chars().take(57).chain("...".chars()).collect()
    }
}

/// 422 that names field, value and range.
pub(crate) fn wrong(field: &str, value: &Value, want: &str) -> Refusal {
    let root = field.split(['[', '.']).next().unwrap_or(field);
    Refusal::field(root, format!("`{field}` is {}, wanted {want}", shown(value)))
}

impl Fields {
    /// A field that is there and not null.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    /// Text, or nothing.
    pub(crate) fn text(&self, field: &str) -> Result<Option<&str>, Refusal> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(field, other, "a string")),
        }
    }

    /// Text that must be there and not empty.
    pub(crate) fn required_text(&self, field: &str) -> Result<&str, Refusal> {
        match self.text(field)? {
            None => {
                let refusal = Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "missing_field",
                    format!("`{field}` is missing"),
                );
                Err(Refusal { field: Some(field.to_owned()), ..refusal })
            }
            Some("") => Err(Refusal::field(field, format!("`{field}` is empty, wanted some text"))),
            Some(text) => Ok(text),
        }
    }

    /// True or false.
    pub(crate) fn flag(&self, field: &str) -> Result<Option<bool>, Refusal> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(wrong(field, other, "true or false")),
        }
    }

    /// A number for which `is_valid` holds; `want` says which those are.
    pub(crate) fn number(
        &self,
        field: &str,
        want: &str,
        is_valid: fn(f64) -> bool,
    ) -> Result<Option<f32>, Refusal> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() && is_valid(number) => Ok(Some(number as f32)),
            _ => Err(wrong(field, value, want)),
        }
    }

    /// A whole number in a range.
    pub(crate) fn integer(
        &self,
        field: &str,
        low: i64,
        high: u64,
    ) -> Result<Option<i128>, Refusal> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let whole =
            value.as_i64().map(i128::from).or(value.as_u64().map(i128::from)).or_else(|| {
                // 5.0 is five; numbers beyond 64 bits arrive as floats too.
                value.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i128)
            });
        match whole {
            Some(whole) if (i128::from(low)..=i128::from(high)).contains(&whole) => Ok(Some(whole)),
            _ => Err(wrong(field, value, &format!("a whole number from {low} to {high}"))),
        }
    }

    /// `top_k`: 0 and -1 are off, what is above any vocabulary is capped.
    pub(crate) fn top_k(&self) -> Result<Option<u32>, Refusal> {
        let Some(value) = self.get("top_k") else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && *number >= -1.0);
        let number = number
            .ok_or_else(|| wrong("top_k", value, "a whole number from -1 (0 and -1 are off)"))?;
        Ok(Some(number.clamp(0.0, f64::from(u32::MAX)) as u32))
    }

    /// `stop`: one string or up to 16, none of them empty or over a kilobyte.
    pub(crate) fn stops(&self) -> Result<Vec<String>, Refusal> {
        const WANT: &str = "a string or up to 16 strings of 1 to 1024 bytes";
        let Some(value) = self.get("stop") else { return Ok(Vec::new()) };
        let list = match value {
            Value::String(_) => vec![value],
            Value::Array(list) if list.len() <= 16 => list.iter().collect(),
            _ => return Err(wrong("stop", value, WANT)),
        };
        let text = |stop: &&Value| {
            stop.as_str().filter(|stop| (1..=1024).contains(&stop.len())).map(ToOwned::to_owned)
        };
        list.iter().map(|stop| text(stop).ok_or_else(|| wrong("stop", stop, WANT))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        let Value::Object(object) = value else { panic!("no object") };
        Fields(object)
    }

    #[test]
    fn null_is_the_default_and_a_boolean_is_no_number() {
        let f = fields(json!({ "a": null, "b": true, "c": "1" }));
        assert_eq!(f.number("a", "any", |_| true).unwrap(), None);
        for field in ["b", "c"] {
            assert!(f.number(field, "any", |_| true).is_err());
            assert!(f.integer(field, 0, 9).is_err());
        }
    }

    #[test]
    fn top_k_is_capped_not_refused() {
        assert_eq!(fields(json!({ "top_k": 1e30 })).top_k().unwrap(), Some(u32::MAX));
        assert_eq!(fields(json!({ "top_k": -1 })).top_k().unwrap(), Some(0));
        assert!(fields(json!({ "top_k": -2 })).top_k().is_err());
        assert!(fields(json!({ "top_k": 1.5 })).top_k().is_err());
    }

    #[test]
    fn a_refusal_names_field_value_and_range() {
        let refusal = fields(json!({ "n": 7 })).integer("n", 1, 5).unwrap_err();
        assert_eq!(refusal.sentence, "`n` is 7, wanted a whole number from 1 to 5");
        assert_eq!((refusal.status.as_u16(), refusal.field.as_deref()), (422, Some("n")));
    }
}
