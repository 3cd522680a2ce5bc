//! Rules that read any text: markers of unfinished work, paths of somebody's machine, links of the documentation.

use std::path::{Component, Path};

use super::{Complaint, File, complain, has_extension};

// Written in halves, so that this file does not complain about itself.
const MARKERS: &[&str] =
    &[concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X"), concat!("HA", "CK")];
const MACHINE_ROOTS: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/t", "mp/"),
    concat!("/Us", "ers/"),
];

/// An exception carries its reason on the same line.
const ALLOW_PATH: &str = "tidy: allow-path ";

/// Words that say that something is not finished: it is finished, or it is an issue, or it is not there.
pub(super) fn markers(path: &str, text: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| MARKERS.contains(word)) {
            complaints.push(complain(
                path,
                n + 1,
                format!("`{word}`: finish it, or open an issue and take it out"),
            ));
        }
    }
    complaints
}

/// Absolute paths that exist on one machine only.
pub(super) fn machine_paths(path: &str, text: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if line.contains(ALLOW_PATH) {
            continue;
        }
        for root in MACHINE_ROOTS {
            let at_a_start = |at: usize| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || "/.-_}".contains(c))
            };
            if line.match_indices(root).any(|(at, _)| at_a_start(at)) {
                complaints.push(complain(
                    path,
                    n + 1,
                    format!("`{root}` is a path of one machine"),
                ));
            }
        }
    }
    complaints
}

/// Relative links of every Markdown file lead to files or folders that the repository has.
pub(super) fn links(files: &[File]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| has_extension(&file.path, "md")) {
        let Some(text) = &file.text else { continue };
        let mut fenced = false;
        for (n, line) in text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            if fenced {
                continue;
            }
            for target in targets(line) {
                if !leads_somewhere(&file.path, target, files) {
                    complaints.push(complain(
                        &file.path,
                        n + 1,
                        format!("link to `{target}`, which is not there"),
                    ));
                }
            }
        }
    }
    complaints
}

/// The `target` of every `[text](target)` in a line.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

fn leads_somewhere(from: &str, target: &str, files: &[File]) -> bool {
    let target = target.split_once('#').map_or(target, |(file, _)| file);
    if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let Some(wanted) = resolve(from, target) else { return false };
    wanted.is_empty()
        || files.iter().any(|file| {
            file.path
                .strip_prefix(&wanted)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

/// A link's target as a path from the root; `None` when it leaves the repository.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for component in Path::new(target).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_whole_words() {
        let marker = MARKERS[0];
        assert_eq!(markers("a.rs", &format!("ok\n// {marker}: later"))[0].line, 2);
        assert!(
            markers("a.rs", &format!("PRE{marker} {marker}S {}", marker.to_lowercase())).is_empty()
        );
    }

    #[test]
    fn paths_of_one_machine_are_complaints_unless_excused() {
        for root in MACHINE_ROOTS {
            assert_eq!(machine_paths("a.md", &format!("see {root}me/x")).len(), 1, "{root}");
            assert!(
                machine_paths("a.md", &format!("see docs{root}x and https://host.example{root}x"))
                    .is_empty()
            );
            assert!(
                machine_paths(
                    "a.sh",
                    &format!("cp {root}x . # {ALLOW_PATH}the image has it there")
                )
                .is_empty()
            );
        }
    }

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), bytes: 0, text: Some(text.into()) }
    }

    #[test]
    fn links_lead_to_files_folders_or_other_hosts() {
        let at = |text: &str| {
            links(&[file("docs/a.md", text), file("docs/b.md", ""), file("engine/src/lib.rs", "")])
        };
        assert!(at("[b](b.md#part) [e](../engine) [lib](../engine/src/lib.rs) [h](https://host.example) [p](#p)").is_empty());
        assert_eq!(at("[b](c.md)").len(), 1);
        assert_eq!(at("[out](../../b.md)").len(), 1);
        assert_eq!(at("[prefix](../eng)").len(), 1);
        assert_eq!(at("![page](page.png)").len(), 1);
    }

    #[test]
    fn code_blocks_hold_no_links() {
        assert!(links(&[file("a.md", "```\n[x](nowhere)\n```\n")]).is_empty());
        assert_eq!(links(&[file("a.md", "```\n```\n[x](nowhere)\n")]).len(), 1);
    }
}
