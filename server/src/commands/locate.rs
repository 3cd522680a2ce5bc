//! Which checkpoint a `--model` means. These commands run for the person at the terminal, so a path may lead anywhere;
//! names from the network never come here.

use std::path::PathBuf;

use hadal_engine::checkpoint::{self, Source};

use super::Failure;
use crate::args::ModelArgs;
use crate::embedded;

/// The model that is served and asked when none is named.
pub(crate) const DEFAULT_MODEL: &str = "sft/demo";

/// A checkpoint and what to call it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Located {
    /// Its name below the checkpoint folder, else its folder's or file's own name.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) source: Source,
}

/// Looks `--model` up: a name below the checkpoint folder, then a path, then the model inside the binary.
pub(crate) fn locate(args: &ModelArgs) -> Result<Located, Failure> {
    let wanted = args.model.as_deref().unwrap_or(DEFAULT_MODEL);
    let found = checkpoint::discover(&args.checkpoints);
    if let Some(model) = found.iter().find(|model| model.name == wanted) {
        return Ok(Located { name: model.name.clone(), source: model.source() });
    }
    if let Some(source) = args.model.as_deref().and_then(at_path) {
        return Ok(Located { name: last_name(wanted), source });
    }
    if wanted == DEFAULT_MODEL {
        return Ok(Located { name: wanted.into(), source: Source::Embedded(embedded::FILES) });
    }
    let names: Vec<&str> = found.iter().map(|model| model.name.as_str()).collect();
    let there = if names.is_empty() { "none".into() } else { names.join(", ") };
    let root = args.checkpoints.display();
    Err(Failure::Usage(format!(
        "no model `{wanted}`: it is no folder and no file, and the models below {root} are: {there}"
    )))
}

/// A folder or a file where the path leads.
fn at_path(path: &str) -> Option<Source> {
    let path = PathBuf::from(path);
    if path.is_dir() {
        Some(Source::Directory(path))
    } else {
        path.is_file().then_some(Source::File(path))
    }
}

/// The last part of a path, as far as it has one.
fn last_name(path: &str) -> String {
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    full.file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(model: Option<&str>) -> ModelArgs {
        ModelArgs { checkpoints: "no-such-folder".into(), model: model.map(str::to_owned) }
    }

    #[test]
    fn without_checkpoints_the_default_is_inside_the_binary() {
        let located = locate(&args(None)).unwrap();
        assert_eq!(
            located,
            Located { name: "sft/demo".into(), source: Source::Embedded(embedded::FILES) }
        );
        assert_eq!(locate(&args(Some("sft/demo"))).unwrap(), located);
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        let path = env!("CARGO_MANIFEST_DIR");
        let located = locate(&args(Some(path))).unwrap();
        assert_eq!(
            located,
            Located { name: "server".into(), source: Source::Directory(path.into()) }
        );
        let file = format!("{path}/Cargo.toml");
        let located = locate(&args(Some(&file))).unwrap();
        assert_eq!(
            located,
            Located { name: "Cargo.toml".into(), source: Source::File(file.into()) }
        );
    }

    #[test]
    fn an_unknown_name_is_refused_with_what_there_is() {
        let Err(Failure::Usage(problem)) = locate(&args(Some("sft/none"))) else {
            panic!("was found")
        };
        assert!(problem.contains("`sft/none`") && problem.contains("none"), "{problem}");
    }
}
