//! An instruction's dotted word, split: `cvt.rn.bf16x2.f32` is the root `cvt` and three modifiers.

/// The parts of an instruction's word.
#[derive(Debug)]
pub(crate) struct Words<'a> {
    pub(crate) root: &'a str,
    pub(crate) mods: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub(crate) fn new(word: &'a str) -> Self {
        let mut parts = word.split('.');
        Self { root: parts.next().unwrap_or_default(), mods: parts.collect() }
    }

    pub(crate) fn has(&self, what: &str) -> bool {
        self.mods.contains(&what)
    }

    /// The last modifier: mostly the type.
    pub(crate) fn last(&self) -> &'a str {
        self.mods.last().copied().unwrap_or_default()
    }

    /// The modifiers that are types, in order.
    pub(crate) fn types(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.mods.iter().copied().filter(|part| bits(part).is_some())
    }
}

/// Bits of a type's name; `None` for what is no type.
pub(crate) fn bits(name: &str) -> Option<u8> {
    Some(match name {
        "pred" => 1,
        "b8" | "u8" | "s8" | "e4m3" | "e5m2" => 8,
        "b16" | "u16" | "s16" | "f16" | "bf16" | "e4m3x2" | "e5m2x2" => 16,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" | "tf32" => 32,
        "b64" | "u64" | "s64" | "f64" => 64,
        "b128" => 128,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_a_root_modifiers_and_types() {
        let words = Words::new("ld.global.nc.L1::no_allocate.v4.u32");
        assert_eq!((words.root, words.last()), ("ld", "u32"));
        assert!(words.has("nc") && words.has("L1::no_allocate") && !words.has("ca"));
        let types: Vec<&str> = Words::new("cvt.rn.bf16x2.f32").types().collect();
        assert_eq!(types, ["bf16x2", "f32"]);
    }
}
