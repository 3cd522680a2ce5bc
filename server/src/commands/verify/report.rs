//! What was read, as text and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Checked;
use crate::commands::target::{plural, size};

/// Tensors whose defects are listed one by one.
const LISTED_MAX: usize = 50;

/// For a person.
pub(super) fn text(name: &str, checked: &[Checked], differences: Option<&[String]>) -> String {
    let mut out = String::new();
    let bytes = checked.iter().map(|tensor| tensor.bytes).sum();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{name}: {}, {} read", plural(checked.len(), "tensor"), size(bytes));
    let bad: Vec<&Checked> = checked.iter().filter(|tensor| tensor.defects.count() > 0).collect();
    if bad.is_empty() {
        let _ = writeln!(out, "every value is finite");
    }
    for tensor in bad.iter().take(LISTED_MAX) {
        let defects = &tensor.defects;
        let (row, column) = defects.first.unwrap_or_default();
        let _ = writeln!(
            out,
            "  `{}`: {} NaN, {} infinite, the first at row {row}, column {column}",
            tensor.name, defects.n_nan, defects.n_infinite
        );
    }
    if bad.len() > LISTED_MAX {
        let _ = writeln!(out, "  and {} more", plural(bad.len() - LISTED_MAX, "tensor"));
    }
    match differences {
        None => {}
        Some([]) => {
            let _ = writeln!(out, "every tensor is what was kept");
        }
        Some(differences) => {
            for line in differences.iter().take(LISTED_MAX) {
                let _ = writeln!(out, "  {line}");
            }
            if differences.len() > LISTED_MAX {
                let more = plural(differences.len() - LISTED_MAX, "difference");
                let _ = writeln!(out, "  and {more} more");
            }
        }
    }
    out
}

/// For a program.
pub(super) fn json(name: &str, checked: &[Checked], differences: Option<&[String]>) -> Value {
    let tensor = |tensor: &Checked| {
        json!({
            "name": tensor.name,
            "dtype": tensor.record.dtype,
            "shape": tensor.record.shape,
            "bytes": tensor.bytes,
            "sha256": tensor.record.sha256,
            "nan": tensor.defects.n_nan,
            "infinite": tensor.defects.n_infinite,
            "first": tensor.defects.first.map(|(row, column)| [row, column]),
        })
    };
    json!({
        "model": name,
        "bytes": checked.iter().map(|tensor| tensor.bytes).sum::<u64>(),
        "is_finite": checked.iter().all(|tensor| tensor.defects.count() == 0),
        "differences": differences,
        "tensors": checked.iter().map(tensor).collect::<Vec<_>>(),
    })
}
