//! The tensors of a survey, one by one or folded.

use std::collections::BTreeMap;
use std::fmt::Write;

use hadal_engine::checkpoint::{Listed, Survey};

use crate::commands::target::size;

/// Tensors that are listed one by one unasked.
const SHORT_LIST: usize = 40;

/// One line a tensor, or one for all that differ by numbers in their names alone.
pub(super) fn tensors(out: &mut String, survey: &Survey, all: bool) {
    if survey.tensors.is_empty() {
        return;
    }
    let is_whole = all || survey.tensors.len() <= SHORT_LIST;
    let mut lines: Vec<(String, usize, &Listed)> = Vec::new();
    let mut places: BTreeMap<(String, &str, &[usize]), usize> = BTreeMap::new();
    for tensor in &survey.tensors {
        let name = if is_whole { tensor.name.clone() } else { pattern(&tensor.name) };
        let place = *places
            .entry((name.clone(), &tensor.dtype, &tensor.shape))
            .or_insert_with(|| lines.len());
        match lines.get_mut(place) {
            Some((_, n, _)) => *n += 1,
            None => lines.push((name, 1, tensor)),
        }
    }
    let name_of = |(name, n, _): &(String, usize, &Listed)| {
        if *n > 1 { format!("{name} ({n} times)") } else { name.clone() }
    };
    let title = if is_whole { "tensors" } else { "tensors (`--tensors` lists each)" };
    let width = lines.iter().map(|line| name_of(line).len()).max().unwrap_or(0).max(title.len());
    let _ = writeln!(out, "\n{title:width$}   {:8} {:16} {:>10}", "type", "shape", "bytes each");
    for line in &lines {
        let (name, tensor) = (name_of(line), line.2);
        let shape = format!("{:?}", tensor.shape);
        let bytes = size(tensor.bytes.len() as u64);
        let file = tensor.file().filter(|_| is_whole && survey.files.len() > 1).unwrap_or_default();
        let line = format!("  {name:width$} {:8} {shape:16} {bytes:>10}  {file}", tensor.dtype);
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// A name with every number of it replaced: `model.layers.*.mlp.experts.*.up_proj.weight`.
fn pattern(name: &str) -> String {
    let part =
        |part: &str| if part.parse::<u32>().is_ok() { "*".to_owned() } else { part.to_owned() };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}
