//! Blocks that Hugging Face's renderer adds to Jinja.

/// A template without `{% generation %}` blocks, which mark what an assistant wrote and show what stands in them: each
/// becomes a condition that holds, on the same line and with the same white space around it.
pub(super) fn without_blocks_of_its_own(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        out.extend([before, "{%"]);
        rest = tag;
        let Some((inside, after)) = tag.split_once("%}") else { break };
        let plain = match inside.trim_matches(['-', '+']).trim() {
            "generation" => inside.replacen("generation", "if true", 1),
            "endgeneration" => inside.replacen("endgeneration", "endif", 1),
            _ => continue,
        };
        out.extend([&plain, "%}"]);
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_is_a_condition_that_holds() {
        let check = |source, want| assert_eq!(without_blocks_of_its_own(source), want);
        check("a{%- generation -%}\nb{%endgeneration+%}c", "a{%- if true -%}\nb{%endif+%}c");
        check("{{ '{% generation' }}{% endgeneration %}", "{{ '{% generation' }}{% endif %}");
        check("{% if generation %}{% x", "{% if generation %}{% x");
    }
}
