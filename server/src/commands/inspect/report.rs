//! A survey as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use hadal_engine::checkpoint::{Listed, ModelConfig, Part, Survey};
use serde_json::{Map, Value, json};

use super::list;

use crate::commands::target::{count, size};

/// Tensors, numbers and bytes of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Total {
    tensors: usize,
    parameters: u64,
    bytes: u64,
}

impl Total {
    fn add(&mut self, tensor: &Listed) {
        self.tensors += 1;
        self.parameters += tensor.parameters();
        self.bytes += tensor.bytes.len() as u64;
    }

    fn json(self) -> Value {
        json!({ "tensors": self.tensors, "parameters": self.parameters, "bytes": self.bytes })
    }
}

fn n_layer(survey: &Survey) -> Option<usize> {
    survey.config.as_ref().map(|config| config.num_hidden_layers)
}

fn by_part(survey: &Survey) -> Vec<(&'static str, Total)> {
    let mut totals: BTreeMap<Part, Total> = BTreeMap::new();
    for tensor in &survey.tensors {
        totals.entry(Part::of(&tensor.name, n_layer(survey))).or_default().add(tensor);
    }
    totals.into_iter().map(|(part, total)| (part.name(), total)).collect()
}

fn by_dtype(survey: &Survey) -> Vec<(&str, Total)> {
    let mut totals: BTreeMap<&str, Total> = BTreeMap::new();
    for tensor in &survey.tensors {
        totals.entry(&tensor.dtype).or_default().add(tensor);
    }
    let mut totals: Vec<_> = totals.into_iter().collect();
    totals.sort_by_key(|(_, total)| std::cmp::Reverse(total.bytes));
    totals
}

/// All tensors, and those the model uses.
fn totals(survey: &Survey) -> [Total; 2] {
    let mut totals = [Total::default(); 2];
    for tensor in &survey.tensors {
        totals[0].add(tensor);
        if tensor.is_used {
            totals[1].add(tensor);
        }
    }
    totals
}

/// For a person.
pub(super) fn text(name: &str, survey: &Survey, all_tensors: bool) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let [all, used] = totals(survey);
    let architecture =
        survey.config.as_ref().map_or("not known", |config| config.model_type.as_str());
    let _ = writeln!(out, "{name}\n");
    let _ = writeln!(out, "  format        {}", survey.format);
    let _ = writeln!(out, "  architecture  {architecture}");
    let _ = writeln!(out, "  path          {}", survey.path.display());
    if let Some(config) = &survey.config {
        for (label, value) in sizes(config) {
            let _ = writeln!(out, "  {label:13} {value}");
        }
    }
    let _ = writeln!(
        out,
        "  tensors       {}: {} numbers, {}; the model uses {} numbers, {}",
        all.tensors,
        count(all.parameters),
        size(all.bytes),
        count(used.parameters),
        size(used.bytes)
    );
    table(&mut out, "by type", &by_dtype(survey));
    table(&mut out, "by part", &by_part(survey));
    let _ = writeln!(out, "\n{:44} {:>10}", "files", "bytes");
    for (file, bytes) in &survey.files {
        let _ = writeln!(out, "  {file:42} {:>10}", size(*bytes));
    }
    list::tensors(&mut out, survey, all_tensors);
    lines(&mut out, "notes", &survey.notes);
    if survey.problems.is_empty() {
        let _ = writeln!(
            out,
            "\nnothing is wrong with what the headers say; `hadal verify` reads the weights too"
        );
    } else {
        lines(&mut out, "what is wrong", &survey.problems);
    }
    out
}

fn sizes(config: &ModelConfig) -> Vec<(&'static str, String)> {
    let mut sizes = vec![
        (
            "layers",
            format!(
                "{}, of them {} with experts",
                config.num_hidden_layers,
                config.is_moe_layer.iter().filter(|is_moe| **is_moe).count()
            ),
        ),
        (
            "widths",
            format!(
                "{} hidden, {} heads, latent {} + {}, vocabulary {}",
                config.hidden_size,
                config.num_attention_heads,
                config.kv_lora_rank,
                config.qk_rope_head_dim,
                config.vocab_size
            ),
        ),
        ("context", config.max_position_embeddings.to_string()),
    ];
    if let Some(moe) = &config.moe {
        let route = &moe.route;
        let text = format!(
            "{} routed, {} a token, {} shared",
            route.n_routed_experts, route.num_experts_per_tok, moe.n_shared_experts
        );
        sizes.insert(2, ("experts", text));
    }
    sizes
}

fn table(out: &mut String, title: &str, totals: &[(&str, Total)]) {
    let _ = writeln!(out, "\n{title:20} {:>10} {:>12} {:>10}", "tensors", "numbers", "bytes");
    for (name, total) in totals {
        let (numbers, bytes) = (count(total.parameters), size(total.bytes));
        let _ = writeln!(out, "  {name:18} {:>10} {numbers:>12} {bytes:>10}", total.tensors);
    }
}

fn lines(out: &mut String, title: &str, lines: &[String]) {
    if !lines.is_empty() {
        let _ = writeln!(out, "\n{title}");
        for line in lines {
            let _ = writeln!(out, "  {line}");
        }
    }
}

/// For a program.
pub(super) fn json(name: &str, survey: &Survey) -> Value {
    let [all, used] = totals(survey);
    let groups = |totals: Vec<(&str, Total)>| -> Map<String, Value> {
        totals.into_iter().map(|(name, total)| (name.to_owned(), total.json())).collect()
    };
    let config = survey.config.as_ref();
    let tensor = |tensor: &Listed| {
        json!({
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "bytes": tensor.bytes.len(),
            "file": tensor.file(),
            "part": Part::of(&tensor.name, n_layer(survey)).name(),
            "is_used": tensor.is_used,
        })
    };
    json!({
        "model": name,
        "path": survey.path.display().to_string(),
        "format": survey.format,
        "architecture": config.map(|config| config.model_type.as_str()),
        "context_length": config.map(|config| config.max_position_embeddings),
        "num_hidden_layers": config.map(|config| config.num_hidden_layers),
        "total": all.json(),
        "used": used.json(),
        "by_dtype": groups(by_dtype(survey)),
        "by_part": groups(by_part(survey)),
        "files": survey.files.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect::<Vec<_>>(),
        "tensors": survey.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "problems": survey.problems,
        "notes": survey.notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_engine::checkpoint::Bytes;

    fn listed(name: &str, shape: &[usize], is_used: bool) -> Listed {
        let bytes = Bytes::owned(vec![0; 2 * shape.iter().product::<usize>()]);
        Listed { name: name.into(), dtype: "BF16".into(), shape: shape.to_vec(), bytes, is_used }
    }

    fn survey(n: usize) -> Survey {
        let layer = |i| listed(&format!("model.layers.{i}.mlp.up_proj.weight"), &[4, 2], true);
        let mut tensors: Vec<Listed> = (0..n).map(layer).collect();
        tensors.push(listed("stray", &[3], false));
        Survey { format: "safetensors", tensors, problems: vec!["one".into()], ..Survey::default() }
    }

    #[test]
    fn a_long_list_is_folded_unless_it_is_asked_for() {
        let folded = text("m", &survey(90), false);
        assert!(folded.contains("model.layers.*.mlp.up_proj.weight (90 times)"), "{folded}");
        assert!(!folded.contains("layers.7."), "{folded}");
        for whole in [text("m", &survey(90), true), text("m", &survey(9), false)] {
            assert!(whole.contains("model.layers.7.mlp.up_proj.weight"), "{whole}");
        }
        assert!(folded.contains("what is wrong\n  one\n"), "{folded}");
    }

    #[test]
    fn totals_count_all_and_what_is_used() {
        let json = json("m", &survey(90));
        assert_eq!(json["total"]["bytes"], 90 * 16 + 6);
        assert_eq!(json["used"], json!({ "tensors": 90, "parameters": 720, "bytes": 1440 }));
        assert_eq!(json["by_part"]["other"]["tensors"], 1);
        assert_eq!(json["by_dtype"]["BF16"]["parameters"], 723);
        assert_eq!(json["tensors"].as_array().unwrap().len(), 91);
    }
}
