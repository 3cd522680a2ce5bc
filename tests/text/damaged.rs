//! Tokenizers with damage: an error that says so, never a panic.

use std::path::Path;

use hadal_engine::checkpoint::TextFiles;
use hadal_engine::text::Text;

#[test]
fn a_tokenizer_that_lacks_a_byte_opens_or_is_refused() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v3-tied-bf16/tokenizer.json");
    let whole = std::fs::read(golden).unwrap();
    // What is neither vocabulary nor merges, which are the long middle.
    let model = whole.windows(8).position(|part| part == b"\"vocab\":").unwrap();
    let mut refused = 0;
    for at in 0..model {
        let mut damaged = whole.clone();
        damaged.remove(at);
        let files = TextFiles { tokenizer: Some(damaged), ..TextFiles::default() };
        match Text::open(&files) {
            Ok(text) => assert!(text.encode_raw("Hello 12").is_ok(), "without byte {at}"),
            Err(error) => {
                assert!(error.to_string().contains("tokenizer"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > model / 2, "{refused} of {model}");
}
