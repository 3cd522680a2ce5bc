//! Size is a decision: lines of a file, lines of a function, bytes in the repository, and the budget of the whole.

use std::fmt::Write;

use syn::visit::{self, Visit};

use super::{Complaint, File, complain};

/// Longest file, by where it is: the first prefix that matches. Docs/architecture.md has the same numbers.
const FILE_LINES: &[(&str, usize)] = &[
    ("Cargo.toml", 150),
    ("README.md", 200),
    ("CHANGELOG.md", 10_000),
    ("LICENSE", 300),
    ("build.rs", 300),
    ("kernels/include/quant/", 150),
    // Tables of every kernel, written by `cargo xtask budget`.
    ("kernels/budget.toml", 1_000),
    ("docs/kernels.md", 1_000),
    ("kernels/", 400),
    ("engine/src/lib.rs", 150),
    ("engine/src/error.rs", 250),
    ("engine/src/limits.rs", 150),
    ("engine/src/request.rs", 250),
    ("engine/src/step.rs", 250),
    ("engine/src/stats.rs", 150),
    ("engine/src/worker.rs", 400),
    ("engine/src/grammar.rs", 300),
    ("engine/src/checkpoint/", 400),
    ("engine/src/quant/", 300),
    ("engine/src/cache/", 350),
    ("engine/src/sched/", 400),
    ("engine/src/model/", 400),
    ("engine/src/backend/", 400),
    ("engine/src/text/", 300),
    ("server/src/main.rs", 250),
    ("server/src/args.rs", 250),
    ("server/src/commands/", 250),
    ("server/src/lib.rs", 200),
    ("server/src/app.rs", 150),
    ("server/src/models.rs", 350),
    ("server/src/generate.rs", 400),
    ("server/src/http/", 300),
    ("server/src/api/page/", 250),
    ("server/src/api/ops.rs", 250),
    ("server/src/api/", 400),
    ("web/", 300),
    ("tests/page/", 400),
    ("tests/", 400),
    ("benches/", 300),
    ("xtask/", 300),
    ("cuda-sim/", 400),
];
const FILE_LINES_ELSEWHERE: usize = 500;

/// Longest function, from its `fn` to its closing brace.
const FUNCTION_LINES: usize = 70;

/// An exception carries its reason on the same line.
const LONG_FILE: &str = "tidy: allow-long ";
const LONG_FUNCTION: &str = "tidy: allow-long-function ";

/// Biggest file, by where it is. The repository travels whole with every clone.
const FILE_BYTES: &[(&str, u64)] = &[("checkpoints/", 16 << 20), ("tests/golden/", 2 << 20)];
const FILE_BYTES_ELSEWHERE: u64 = 1 << 20;
const REPOSITORY_BYTES: u64 = 96 << 20;

/// Lines each part may grow to, code and tests together.
const BUDGET: &[(&str, &[&str], usize)] = &[
    ("engine", &["engine/"], 12_000),
    ("server", &["server/"], 6_000),
    ("web", &["web/"], 3_000),
    ("the rest", &["tests/", "benches/", "xtask/", "test"], 5_000),
    ("kernels", &["kernels/", "build.rs"], 12_000),
    ("cuda-sim", &["cuda-sim/"], 7_000),
    ("recipes", &["tools/"], 3_000),
];

/// The file against its limit.
pub(super) fn lines(path: &str, text: &str) -> Vec<Complaint> {
    let limit = FILE_LINES
        .iter()
        .find(|(prefix, _)| path.starts_with(prefix))
        .map_or(FILE_LINES_ELSEWHERE, |(_, limit)| *limit);
    let got = text.lines().count();
    if got <= limit || text.lines().any(|line| excuse(line, LONG_FILE)) {
        return Vec::new();
    }
    vec![complain(path, limit + 1, format!("{got} lines, its limit is {limit}"))]
}

/// Whether a line holds the marker and at least two words of reason.
fn excuse(line: &str, marker: &str) -> bool {
    line.split_once(marker).is_some_and(|(_, reason)| reason.split_whitespace().count() >= 2)
}

/// Every function, nested ones too, against the limit.
pub(super) fn functions(path: &str, text: &str, syntax: &syn::File) -> Vec<Complaint> {
    let mut found = Functions::default();
    found.visit_file(syntax);
    let lines: Vec<&str> = text.lines().collect();
    let mut complaints = Vec::new();
    for (name, first, last) in found.spans {
        let got = last + 1 - first;
        // The excuse stands in the function or in the line above it.
        let body = lines.get(first.saturating_sub(2)..last).unwrap_or_default();
        if got > FUNCTION_LINES && !body.iter().any(|line| excuse(line, LONG_FUNCTION)) {
            complaints.push(complain(
                path,
                first,
                format!("`{name}` has {got} lines, the limit is {FUNCTION_LINES}"),
            ));
        }
    }
    complaints
}

#[derive(Default)]
struct Functions {
    spans: Vec<(String, usize, usize)>,
}

impl Functions {
    fn note(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) =
            (signature.fn_token.span.start().line, block.brace_token.span.close().end().line);
        self.spans.push((signature.ident.to_string(), first, last));
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.note(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.note(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.note(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// The repository's bytes: each file, and all of them.
pub(super) fn bytes(files: &[File]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in files {
        let limit = FILE_BYTES
            .iter()
            .find(|(prefix, _)| file.path.starts_with(prefix))
            .map_or(FILE_BYTES_ELSEWHERE, |(_, limit)| *limit);
        if file.bytes > limit {
            complaints.push(complain(
                &file.path,
                1,
                format!("{} bytes, the limit here is {limit}", file.bytes),
            ));
        }
    }
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    if total > REPOSITORY_BYTES {
        complaints.push(complain(
            ".",
            1,
            format!("{total} bytes in all, the limit is {REPOSITORY_BYTES}"),
        ));
    }
    complaints
}

/// A table of lines per part, beside what each may grow to. Data and lock files are not counted.
pub(super) fn budget(files: &[File]) -> String {
    let mut table = String::from("part        lines   budget\n");
    for (part, prefixes, limit) in BUDGET {
        let lines: usize = files
            .iter()
            .filter(|file| {
                prefixes.iter().any(|prefix| file.path.starts_with(prefix))
                    && !super::is_data(&file.path)
            })
            .filter_map(|file| file.text.as_ref())
            .map(|text| text.lines().count())
            .sum();
        let over = if lines > *limit { "  over" } else { "" };
        let _ = writeln!(table, "{part:9} {lines:7} {limit:8}{over}");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    fn check_function(text: &str) -> Vec<Complaint> {
        functions("engine/src/x.rs", text, &syn::parse_file(text).unwrap())
    }

    #[test]
    fn a_file_over_its_limit_is_a_complaint_and_the_limit_depends_on_the_place() {
        assert!(lines("engine/src/sched/mod.rs", &"x\n".repeat(400)).is_empty());
        assert_eq!(lines("engine/src/sched/mod.rs", &"x\n".repeat(401)).len(), 1);
        assert!(lines("docs/api.md", &"x\n".repeat(401)).is_empty());
        assert_eq!(lines("docs/api.md", &"x\n".repeat(501)).len(), 1);
    }

    #[test]
    fn a_long_file_is_excused_by_a_reason_but_not_by_a_bare_marker() {
        let long = "x\n".repeat(501);
        assert!(
            lines("a.rs", &format!("{long}// {LONG_FILE}one table, read in one go\n")).is_empty()
        );
        assert_eq!(lines("a.rs", &format!("{long}// {LONG_FILE}\n")).len(), 1);
    }

    #[test]
    fn a_function_of_seventy_one_lines_is_a_complaint() {
        assert!(check_function(&function(70)).is_empty());
        assert_eq!(check_function(&function(71))[0].line, 1);
        assert_eq!(check_function(&format!("struct S;\nimpl S {{\n{}}}", function(71)))[0].line, 3);
    }

    #[test]
    fn a_long_function_is_excused_in_its_own_body_only() {
        let excused = function(90).replacen(
            "    g();",
            &format!("    // {LONG_FUNCTION}one match, an arm each"),
            1,
        );
        assert!(check_function(&excused).is_empty());
        assert_eq!(check_function(&format!("{excused}{}", function(90))).len(), 1);
    }

    #[test]
    fn big_files_are_complaints_by_place() {
        let file = |path: &str, bytes| File { path: path.into(), bytes, text: None };
        assert!(bytes(&[file("checkpoints/sft/demo/model.safetensors", 10 << 20)]).is_empty());
        assert_eq!(bytes(&[file("docs/page.png", 10 << 20)]).len(), 1);
        let many: Vec<File> = (0..97).map(|i| file(&format!("docs/{i}"), 1 << 20)).collect();
        assert_eq!(bytes(&many).len(), 1);
    }

    #[test]
    fn the_budget_counts_code_and_not_data() {
        let file = |path: &str| File { path: path.into(), bytes: 4, text: Some("a\nb\n".into()) };
        let table = budget(&[
            file("engine/src/lib.rs"),
            file("tests/all.rs"),
            file("tests/golden/x/config.json"),
        ]);
        assert!(table.contains("engine          2    12000"), "{table}");
        assert!(table.contains("the rest        2     5000"), "{table}");
    }
}
