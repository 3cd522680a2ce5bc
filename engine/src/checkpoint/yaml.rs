//! A trainer's `config.yaml` as the JSON object it stands for.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Settings are a page of text. The reader itself bounds depth, nodes and what aliases expand to.
const YAML_BYTES_MAX: usize = 1 << 20;

/// Parses a YAML mapping.
///
/// # Errors
/// [`Error::Format`] with where and why.
pub(super) fn parse_object(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    let format = |problem: String| Error::Format { path: path.to_owned(), problem };
    if bytes.len() > YAML_BYTES_MAX {
        return Err(format(format!("{} bytes; at most {YAML_BYTES_MAX} are read", bytes.len())));
    }
    match serde_saphyr::from_slice::<Value>(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(format("wanted a YAML mapping, found something else".into())),
        Err(error) => {
            let why = error.without_snippet().to_string();
            let why = why.lines().next().unwrap_or("it does not parse");
            Err(format(format!("not valid YAML: {why}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Map<String, Value>> {
        parse_object(Path::new("config.yaml"), text.as_bytes())
    }

    #[test]
    fn scalars_have_the_types_that_configurations_mean() {
        let text =
            "a: {b: 1, c: 1.0e-06, d: null, e: true} # why\nf:\n  - gpt2\n  - 'x'\ng: 10000.0\n";
        let want = serde_json::json!({
            "a": {"b": 1, "c": 1e-6, "d": null, "e": true}, "f": ["gpt2", "x"], "g": 10000.0
        });
        assert_eq!(Value::Object(parse(text).unwrap()), want);
    }

    #[test]
    fn what_is_no_mapping_or_expands_without_end_is_refused() {
        assert!(parse("- a\n").unwrap_err().to_string().contains("mapping"));
        let error = parse("a: [1\nb: {").unwrap_err().to_string();
        assert!(
            error.starts_with("config.yaml: not valid YAML") && !error.contains('\n'),
            "{error}"
        );
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let last = format!("*a{}, ", i - 1).repeat(10);
            bomb = format!("{bomb}a{i}: &a{i} [{last}]\n");
        }
        assert!(parse(&bomb).is_err());
        assert!(parse(&"a: b\n".repeat(1 << 18)).unwrap_err().to_string().contains("at most"));
    }
}
