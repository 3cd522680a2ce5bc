//! What may not stand in Rust at all, or only in some places: `unsafe`, tests that are switched off, macros that
//! mark unfinished work. Read from the token stream, so neither comments nor strings count and macro bodies do.

use proc_macro2::{TokenStream, TokenTree};

use super::{Complaint, complain};

/// Where `unsafe` may stand. `clippy::undocumented_unsafe_blocks` asks for its reason there.
const UNSAFE_HOMES: &[&str] = &[
    "engine/src/checkpoint/map.rs",
    "engine/src/checkpoint/map/",
    "engine/src/backend/cpu/simd/",
    "engine/src/backend/cpu/pool.rs",
    "engine/src/backend/cpu/pool/",
    // The counting allocator of the unit tests.
    "engine/src/backend/cpu/testing.rs",
    "engine/src/backend/cuda/",
    "kernels/src/",
    "kernels/tests/all/sim.rs",
    "cuda-sim/",
    "tests/counting.rs",
    // The simulated card's own entry points.
    "tests/cuda/card.rs",
];

/// Every forbidden token of a file.
pub(super) fn check(path: &str, text: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    // A text that does not lex does not parse either, and that is already a complaint.
    if let Ok(tokens) = text.parse::<TokenStream>() {
        walk(path, tokens, &mut complaints);
    }
    complaints
}

fn walk(path: &str, tokens: TokenStream, complaints: &mut Vec<Complaint>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (i, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => {
                let is_attribute = i > 0
                    && matches!(&tokens[i - 1], TokenTree::Punct(mark) if mark.as_char() == '#');
                let first = group.stream().into_iter().next();
                if is_attribute && matches!(first, Some(TokenTree::Ident(name)) if name == "ignore")
                {
                    let line = group.span_open().start().line;
                    complaints.push(complain(
                        path,
                        line,
                        "a test that is switched off checks nothing",
                    ));
                }
                walk(path, group.stream(), complaints);
            }
            TokenTree::Ident(name) => {
                let line = name.span().start().line;
                let is_macro = matches!(tokens.get(i + 1), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
                if name == "unsafe" && !UNSAFE_HOMES.iter().any(|home| path.starts_with(home)) {
                    complaints.push(complain(path, line, "`unsafe` has no home here"));
                }
                if is_macro && (name == "todo" || name == "unimplemented") {
                    complaints.push(complain(path, line, format!("`{name}!` is unfinished work")));
                }
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(path: &str, text: &str) -> Vec<String> {
        check(path, text).into_iter().map(|complaint| complaint.what).collect()
    }

    #[test]
    fn unsafe_stands_at_home_only() {
        let text = "fn f() { unsafe { g() } }";
        assert!(check("engine/src/checkpoint/map.rs", text).is_empty());
        assert!(check("engine/src/backend/cpu/simd/f32.rs", text).is_empty());
        assert_eq!(whats("engine/src/worker.rs", text), ["`unsafe` has no home here"]);
        assert_eq!(
            check("engine/src/backend/cpu/mod.rs", "macro_rules! m { () => { unsafe { g() } } }")
                .len(),
            1
        );
    }

    #[test]
    fn words_in_comments_strings_and_longer_names_do_not_count() {
        let text =
            "#![forbid(unsafe_code)]\n// unsafe\nconst A: &str = \"unsafe todo!()\";\nfn todo() {}";
        assert!(check("engine/src/worker.rs", text).is_empty());
    }

    #[test]
    fn tests_that_are_switched_off_are_complaints() {
        assert_eq!(check("a.rs", "#[test]\n#[ignore]\nfn f() {}")[0].line, 2);
        assert_eq!(check("a.rs", "mod tests {\n#[ignore = \"slow\"]\nfn f() {}\n}")[0].line, 2);
        assert!(check("a.rs", "fn ignore() { g([ignore]) }").is_empty());
    }

    #[test]
    fn unfinished_macros_are_complaints() {
        assert_eq!(whats("a.rs", "fn f() { todo!() }"), ["`todo!` is unfinished work"]);
        assert_eq!(check("a.rs", "fn f() { unimplemented!(\"later\") }").len(), 1);
    }
}
