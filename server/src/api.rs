//! The HTTP surfaces, one folder each: parse, hand to `generate`, format.

pub(crate) mod fields;
pub(crate) mod openai;
pub(crate) mod ops;
pub(crate) mod page;
