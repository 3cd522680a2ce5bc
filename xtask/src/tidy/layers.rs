//! Who may know whom: crates of the workspace, modules of the engine, and the one home of each third-party crate.
//! Read from every path of a file, in `use` lines and in code; `#[cfg(test)]` modules may look around.

use super::paths::{module_of, paths_of};
use super::{Complaint, complain};

/// Crates of ours that a package may use.
const CRATES: &[(&str, &[&str])] = &[
    ("kernels/", &["hadal_kernels"]),
    ("engine/", &["hadal_kernels"]),
    ("web/", &[]),
    ("server/", &["hadal_engine", "hadal_web", "hadal_server"]),
    ("tests/", &["hadal_engine", "hadal_server", "hadal_web", "hadal_tests"]),
    ("benches/", &["hadal_engine", "hadal_server", "hadal_benches"]),
    ("xtask/", &[]),
    ("cuda-sim/", &[]),
];

/// What every module of the engine may use.
const ANYWHERE: &[&str] =
    &["error", "limits", "step", "request", "stats", "Error", "Result", "Limits"];

/// What each module of the engine may use besides, as path prefixes: left may know right, never back.
const MODULES: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("limits", &[]),
    ("step", &[]),
    ("request", &[]),
    ("stats", &[]),
    ("quant", &[]),
    ("cache", &[]),
    ("grammar", &[]),
    ("sched", &["cache", "grammar"]),
    ("checkpoint", &["quant"]),
    // A weight reaches the backend as the checkpoint's view of it, and the router's rule as the config has it: one
    // type, not two and a conversion.
    (
        "backend",
        &[
            "quant",
            "checkpoint::Scales",
            "checkpoint::Tensor",
            "checkpoint::Arena",
            "checkpoint::Bytes",
            "checkpoint::Keep",
            "checkpoint::Kept",
            "checkpoint::Near",
            "checkpoint::Place",
            "checkpoint::Quant",
            "checkpoint::Target",
            "checkpoint::config::RopePairs",
            "checkpoint::config::RouteRule",
            "checkpoint::config::Scoring",
        ],
    ),
    ("model", &["backend", "checkpoint", "quant"]),
    ("text", &["checkpoint::TextFiles"]),
    ("trace", &["model", "backend", "checkpoint", "quant", "cache"]),
    ("worker", &["model", "backend", "checkpoint", "quant", "sched", "cache", "grammar"]),
];

/// Where a third-party crate may be used: a prefix of the file's path.
const HOMES: &[(&str, &[&str])] = &[
    ("cudarc", &["engine/src/backend/cuda/device.rs", "cuda-sim/tests/"]),
    ("libloading", &["cuda-sim/tests/"]),
    ("cuda_sim", &["cuda-sim/", "kernels/tests/", "tests/"]),
    ("rayon", &["engine/src/backend/cpu/pool.rs"]),
    ("memmap2", &["engine/src/checkpoint/map.rs", "engine/src/checkpoint/map/"]),
    (
        "rustix",
        &[
            "engine/src/backend/cpu/topology/",
            "engine/src/checkpoint/convert/",
            "server/src/commands/bench/clock.rs",
        ],
    ),
    (
        "safetensors",
        &[
            "engine/src/checkpoint/",
            "server/src/commands/logits.rs",
            "tests/",
            "benches/",
            "xtask/",
        ],
    ),
    ("serde_saphyr", &["engine/src/checkpoint/yaml.rs"]),
    ("base64", &["engine/src/text/"]),
    ("tokenizers", &["engine/src/text/"]),
    ("minijinja", &["engine/src/text/"]),
    ("minijinja_contrib", &["engine/src/text/"]),
    ("llguidance", &["engine/src/grammar.rs"]),
    ("serde", &["engine/src/checkpoint/", "engine/src/text/", "server/", "tests/"]),
    (
        "serde_json",
        &[
            "engine/src/checkpoint/",
            "engine/src/text/",
            "engine/src/error.rs",
            "server/",
            "tests/",
            "benches/",
            "xtask/",
        ],
    ),
    ("tokio", &["server/", "tests/", "benches/"]),
    ("hyper", &["server/", "tests/", "benches/"]),
    ("hyper_util", &["server/", "tests/", "benches/"]),
    (
        "clap",
        &["server/src/args.rs", "server/src/args/", "server/src/main.rs", "server/src/commands/"],
    ),
    ("indicatif", &["server/src/commands/"]),
    ("rustyline", &["server/src/commands/chat"]),
    ("tracing", &["server/"]),
    ("tracing_subscriber", &["server/src/main.rs"]),
    ("prometheus_client", &["server/"]),
    ("criterion", &["benches/"]),
    ("syn", &["xtask/"]),
    ("toml_edit", &["xtask/", "kernels/tests/"]),
];

/// Every path of a file against the three tables.
pub(super) fn check(path: &str, syntax: &syn::File) -> Vec<Complaint> {
    let mut complaints: Vec<Complaint> = paths_of(path, syntax)
        .iter()
        .filter_map(|(segments, line)| {
            refuse(path, segments).map(|what| complain(path, *line, what))
        })
        .collect();
    complaints.sort();
    complaints.dedup();
    complaints
}

/// Why a path may not stand in this file.
fn refuse(path: &str, segments: &[String]) -> Option<String> {
    let (first, rest) = segments.split_first()?;
    if let Some((_, homes)) = HOMES.iter().find(|(name, _)| name == first) {
        let at_home = homes.iter().any(|home| path.starts_with(home));
        return (!at_home)
            .then(|| format!("`{first}` is used outside its home {}", homes.join(", ")));
    }
    if first.starts_with("hadal_") {
        let (_, allowed) = CRATES.iter().find(|(prefix, _)| path.starts_with(prefix))?;
        return (!allowed.contains(&first.as_str()))
            .then(|| format!("this package may not know `{first}`"));
    }
    if first == "crate" && path.starts_with("engine/src/") {
        return refuse_module(path, rest);
    }
    None
}

fn refuse_module(path: &str, to: &[String]) -> Option<String> {
    let own = module_of(path);
    // The crate's root names every module: it re-exports, it does not compute.
    let from = own.first()?;
    let target = to.first()?;
    if from == target || ANYWHERE.contains(&target.as_str()) {
        return None;
    }
    let Some((_, allowed)) = MODULES.iter().find(|(name, _)| name == from) else {
        return Some(format!("module `{from}` is not in the table of layers"));
    };
    let to = to.join("::");
    let fits = |prefix: &&str| {
        to.strip_prefix(*prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    (!allowed.iter().any(fits)).then(|| format!("`{from}` may not know `{to}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refuses(path: &str, text: &str, n: usize) {
        let complaints = check(path, &syn::parse_file(text).unwrap());
        assert_eq!(complaints.len(), n, "{complaints:?}");
    }

    #[test]
    fn left_may_know_right_and_never_back() {
        refuses(
            "engine/src/worker.rs",
            "use crate::{model::Model, sched::Scheduler, error::Error};",
            0,
        );
        refuses("engine/src/sched/mod.rs", "use crate::cache::pages::PagePool;", 0);
        refuses("engine/src/sched/mod.rs", "use crate::model::Model;", 1);
        refuses("engine/src/cache/pages.rs", "use crate::{backend::Backend, sched};", 2);
        refuses("engine/src/model/mod.rs", "use crate::worker::Engine;", 1);
    }

    #[test]
    fn paths_in_code_and_relative_paths_count() {
        refuses("engine/src/sched/mod.rs", "fn f(x: crate::backend::DType) {}", 1);
        refuses("engine/src/sched/sequence.rs", "use super::super::model::Model;", 1);
        refuses("engine/src/sched/sequence.rs", "use super::Scheduler;", 0);
        refuses(
            "engine/src/sched/mod.rs",
            "mod inner { use super::Scheduler; use self::x::Y; }",
            0,
        );
    }

    #[test]
    fn exceptions_are_single_types() {
        refuses("engine/src/text/mod.rs", "use crate::checkpoint::TextFiles;", 0);
        refuses("engine/src/text/mod.rs", "use crate::checkpoint::Checkpoint;", 1);
        refuses("engine/src/backend/mod.rs", "use crate::checkpoint::{Tensor, Checkpoint};", 1);
    }

    #[test]
    fn tests_may_look_around_and_new_modules_need_a_row() {
        refuses(
            "engine/src/sched/mod.rs",
            "#[cfg(test)] mod tests { use crate::model::Model; }",
            0,
        );
        refuses("engine/src/novel.rs", "use crate::model::Model;", 1);
    }

    #[test]
    fn packages_know_those_below_them() {
        refuses("server/src/app.rs", "use hadal_engine::Engine;", 0);
        refuses("engine/src/worker.rs", "use hadal_server::App;", 1);
        refuses("web/lib.rs", "use hadal_engine::Engine;", 1);
        refuses("xtask/src/main.rs", "fn f() { hadal_engine::Limits::default(); }", 1);
    }

    #[test]
    fn third_party_crates_stay_at_home() {
        refuses("engine/src/checkpoint/map.rs", "use memmap2::Mmap;", 0);
        refuses("engine/src/worker.rs", "use memmap2::Mmap;", 1);
        refuses(
            "engine/src/request.rs",
            "#[derive(Debug)] struct R; fn f() { serde_json::to_string(&1); }",
            1,
        );
        refuses("engine/src/sched/mod.rs", "use tokio::sync::mpsc;", 1);
    }
}
