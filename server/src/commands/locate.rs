//! Which checkpoint a `--model` means. These commands run for the person at the terminal, so a path may lead anywhere;
//! names from the network never come here.

use std::ffi::OsStr;
use std::path::PathBuf;

use hadal_engine::checkpoint::{self, Source};

use super::{Failure, tell};
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
    let wanted = args.model.as_deref().unwrap_or(OsStr::new(DEFAULT_MODEL));
    let found = checkpoint::discover(args.root());
    check_root(args, found.is_empty())?;
    if let Some(model) = found.iter().find(|model| wanted == model.name.as_str()) {
        return Ok(Located { name: model.name.clone(), source: model.source() });
    }
    if let Some(source) = args.model.as_deref().and_then(at_path) {
        return Ok(Located { name: last_name(wanted), source });
    }
    if wanted == DEFAULT_MODEL {
        return Ok(Located {
            name: DEFAULT_MODEL.into(),
            source: Source::Embedded(embedded::FILES),
        });
    }
    let names: Vec<&str> = found.iter().map(|model| model.name.as_str()).collect();
    let there = if names.is_empty() { "none".into() } else { names.join(", ") };
    let root = args.root().display();
    Err(Failure::Usage(format!(
        "no model `{}`: it is no folder and no file, and the models below {root} are: {there}",
        wanted.display()
    )))
}

/// A folder or a file where the path leads.
fn at_path(path: &OsStr) -> Option<Source> {
    let path = PathBuf::from(path);
    if path.is_dir() {
        Some(Source::Directory(path))
    } else {
        path.is_file().then_some(Source::File(path))
    }
}

/// A folder that was asked for by name is one, and holds models; it is not one.
fn check_root(args: &ModelArgs, is_empty: bool) -> Result<(), Failure> {
    let root = args.root();
    let shown = root.display();
    let refuse = |problem: String| Err(Failure::Usage(problem));
    match std::fs::read_dir(root) {
        // Nobody asked for the default folder.
        Err(_) if args.checkpoints.is_none() => Ok(()),
        Err(_) if root.is_file() => refuse(format!(
            "--checkpoints {shown} is a file, wanted the folder that checkpoints lie in; --model names a single one"
        )),
        Err(problem) => refuse(format!("--checkpoints {shown}: {problem}")),
        Ok(entries) => {
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let is_model = |name: String| name == "config.json" || checkpoint::is_weights(&name);
            if is_empty && args.model.is_none() && names.into_iter().any(is_model) {
                return refuse(format!(
                    "{shown} is a model itself and none lies below it: --model {shown} names it"
                ));
            }
            if is_empty && args.checkpoints.is_some() && args.model.is_none() {
                tell(format_args!("there is no model below {shown} yet"));
            }
            Ok(())
        }
    }
}

/// The last part of a path, as far as it has one.
fn last_name(path: &OsStr) -> String {
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    full.file_name().unwrap_or(path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(model: Option<&str>) -> ModelArgs {
        ModelArgs { checkpoints: None, model: model.map(Into::into) }
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
    fn a_checkpoint_folder_that_is_none_is_refused() {
        let refusal = |checkpoints: &str, model: Option<&str>| {
            let args = ModelArgs { checkpoints: Some(checkpoints.into()), ..args(model) };
            match locate(&args) {
                Err(Failure::Usage(problem)) => problem,
                other => panic!("{other:?}"),
            }
        };
        let missing = refusal("no-such-folder", None);
        assert!(missing.contains("--checkpoints no-such-folder"), "{missing}");
        let file = refusal(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), None);
        assert!(file.contains("is a file"), "{file}");
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../checkpoints/sft/demo");
        let model = refusal(demo, None);
        assert!(model.contains(&format!("--model {demo}")), "{model}");
        let folder = std::env::temp_dir().join(format!("hadal-root-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("pytorch_model.bin"), "").unwrap();
        let model = refusal(folder.to_str().unwrap(), None);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(model.contains("is a model itself"), "{model}");
        // Who names the model has what they want, wherever the folder is.
        let both = ModelArgs { checkpoints: Some(demo.into()), ..args(Some(demo)) };
        assert_eq!(locate(&both).unwrap().source, Source::Directory(demo.into()));
    }

    #[test]
    fn an_empty_checkpoint_folder_may_be_filled_later() {
        let folder = std::env::temp_dir().join(format!("hadal-locate-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let args = ModelArgs { checkpoints: Some(folder.clone()), ..args(None) };
        assert_eq!(locate(&args).unwrap().source, Source::Embedded(embedded::FILES));
        std::fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn an_unknown_name_is_refused_with_what_there_is() {
        let Err(Failure::Usage(problem)) = locate(&args(Some("sft/none"))) else {
            panic!("was found")
        };
        assert!(problem.contains("`sft/none`") && problem.contains("none"), "{problem}");
    }
}
