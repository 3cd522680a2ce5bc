//! The demo model inside the binary: with it, `hadal` chats from any folder. A checkpoint folder of the same name wins.

/// Weights are read in place, by whole cache lines.
#[repr(C, align(64))]
struct Align64<B: ?Sized>(B);

static WEIGHTS: &Align64<[u8]> =
    &Align64(*include_bytes!("../../checkpoints/sft/demo/model.safetensors"));

/// File names and bytes, as [`hadal_engine::checkpoint::Source::Embedded`] wants them.
pub(crate) static FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../checkpoints/sft/demo/config.json")),
    ("generation_config.json", include_bytes!("../../checkpoints/sft/demo/generation_config.json")),
    ("chat_template.jinja", include_bytes!("../../checkpoints/sft/demo/chat_template.jinja")),
    ("tokenizer.json", include_bytes!("../../checkpoints/sft/demo/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../checkpoints/sft/demo/tokenizer_config.json")),
    ("model.safetensors", &WEIGHTS.0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_lie_on_a_cache_line() {
        let (_, weights) = FILES.iter().find(|(name, _)| *name == "model.safetensors").unwrap();
        assert_eq!(weights.as_ptr().align_offset(64), 0);
        assert!(weights.len() > 8);
    }
}
