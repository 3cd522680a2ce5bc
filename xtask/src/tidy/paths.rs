//! Every path that a Rust file names, with `self` and `super` resolved to `crate`: what the layer rules read.

use syn::visit::{self, Visit};

/// A path's segments and its line.
pub(super) type Named = (Vec<String>, usize);

/// All paths of a file with at least two segments. `#[cfg(test)]` modules are left out.
pub(super) fn paths_of(path: &str, syntax: &syn::File) -> Vec<Named> {
    let mut found = Paths { module: module_of(path), paths: Vec::new() };
    found.visit_file(syntax);
    found.paths
}

/// `engine/src/backend/cpu/linear.rs` is module `backend::cpu::linear`.
pub(super) fn module_of(path: &str) -> Vec<String> {
    let inside = path.split_once("src/").map_or(path, |(_, inside)| inside);
    let mut parts: Vec<String> =
        inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

struct Paths {
    module: Vec<String>,
    paths: Vec<Named>,
}

impl Paths {
    fn note(&mut self, segments: &[String], line: usize) {
        let mut base = self.module.clone();
        let mut rest = segments;
        let mut relative = false;
        while let Some((first, tail)) = rest.split_first() {
            match first.as_str() {
                "self" => {}
                "super" => {
                    base.pop();
                }
                _ => break,
            }
            relative = true;
            rest = tail;
        }
        let mut full = Vec::new();
        if relative {
            full.push("crate".to_owned());
            full.append(&mut base);
        }
        full.extend_from_slice(rest);
        if full.len() > 1 {
            self.paths.push((full, line));
        }
    }

    fn tree(&mut self, before: &mut Vec<String>, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(before, &path.tree);
                before.pop();
            }
            syn::UseTree::Name(name) => self.leaf(before, &name.ident),
            syn::UseTree::Rename(name) => self.leaf(before, &name.ident),
            syn::UseTree::Glob(glob) => {
                let line = glob.star_token.spans[0].start().line;
                self.note(&before.clone(), line);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.tree(before, item));
            }
        }
    }

    fn leaf(&mut self, before: &[String], name: &syn::Ident) {
        let mut segments = before.to_vec();
        if name != "self" {
            segments.push(name.to_string());
        }
        self.note(&segments, name.span().start().line);
    }
}

impl<'a> Visit<'a> for Paths {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        let is_test = item.attrs.iter().any(|attribute| {
            let test = |inner: syn::Ident| inner == "test";
            attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(test)
        });
        if is_test {
            return;
        }
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.tree(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if let Some(first) = path.segments.first() {
            self.note(&segments, first.ident.span().start().line);
        }
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn names(path: &str, text: &str, want: &[&str]) {
        let found = paths_of(path, &syn::parse_file(text).unwrap());
        let found: Vec<String> =
            found.into_iter().map(|(segments, _)| segments.join("::")).collect();
        assert_eq!(found, want);
    }

    #[test]
    fn a_files_path_is_its_module() {
        assert_eq!(module_of("engine/src/backend/cpu/linear.rs"), ["backend", "cpu", "linear"]);
        assert_eq!(module_of("engine/src/sched/mod.rs"), ["sched"]);
        assert!(module_of("engine/src/lib.rs").is_empty());
    }

    #[test]
    fn use_trees_are_flattened() {
        names(
            "engine/src/a.rs",
            "use b::{c, d::{self, e as f}, g::*};",
            &["b::c", "b::d", "b::d::e", "b::g"],
        );
    }

    #[test]
    fn self_and_super_are_resolved() {
        names(
            "engine/src/a/b.rs",
            "use super::c::D; use self::e::F;",
            &["crate::a::c::D", "crate::a::b::e::F"],
        );
        names("engine/src/a/b.rs", "mod m { use super::c; }", &["crate::a::b::c"]);
    }
}
