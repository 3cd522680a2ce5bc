//! A file's vocabulary as far as it can be judged where it lies: made into a tokenizer it takes many times its bytes.

use super::super::TextFiles;
use super::container::{Container, Value};
use super::text;
use crate::error::Result;

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// Tokens of kinds that text may not be made of, or that are found before it is split: released models have a thousand.
/// Each takes a hundred times what it takes in the file.
const ADDED_MAX: usize = 1 << 16;
/// `UNKNOWN`, `CONTROL` and `USER_DEFINED`.
const ADDED: std::ops::RangeInclusive<u8> = 2..=4;
const NORMAL: u8 = 1;

/// Why a file has no tokenizer; one beside it is not its own.
const MISSING: &str =
    "the file has none: `tokenizer.ggml.model` is missing. A GGUF file is used with its own alone";

/// Tokenizer and template of an open file.
pub(in super::super) struct Text(Container);

impl Text {
    pub(super) fn of(file: Container) -> Self {
        Self(file)
    }

    /// Reads them.
    ///
    /// # Errors
    /// Names the key, with what was found and wanted.
    pub(in super::super) fn read(&self) -> Result<TextFiles> {
        self.kinds()?;
        let text = text::text(&self.0)?;
        let missing = text.tokenizer.is_none().then_some(MISSING);
        Ok(TextFiles { missing, ..text })
    }

    /// The chat template, when it is there.
    ///
    /// # Errors
    /// When it is no text.
    pub(in super::super) fn chat_template(&self) -> Result<Option<String>> {
        Ok(self.0.text("tokenizer.chat_template")?.map(ToOwned::to_owned))
    }

    /// Whether there is a tokenizer, of a kind that is known, with tokens that are text.
    ///
    /// # Errors
    /// Names the key, with what was found and wanted.
    pub(in super::super) fn check(&self) -> Result<()> {
        self.chat_template()?;
        match self.0.text(MODEL)? {
            Some("gpt2") => {}
            None => return Err(crate::Error::Tokenizer { problem: MISSING.into() }),
            Some(_) => return Err(self.0.wrong(MODEL, "`gpt2`, byte-level BPE")),
        }
        let kinds = self.kinds()?;
        text::splits(&self.0)?;
        let (mut n_token, mut has_words) = (0, false);
        self.0.texts(TOKENS, |id, text| {
            n_token += 1;
            let is_normal = kinds.get(id).is_none_or(|kind| *kind == NORMAL);
            has_words |= is_normal && text.chars().nth(1).is_some();
            Ok(())
        })?;
        if n_token == 0 {
            return Err(self.0.wrong(TOKENS, "a list of texts"));
        }
        // Writers leave an empty list out.
        if !self.0.texts(MERGES, |_, _| Ok(()))? && has_words {
            return Err(self
                .0
                .wrong(MERGES, "a list of texts: some tokens are longer than a byte"));
        }
        Ok(())
    }

    /// What each token is, 0 for what is no kind; refuses more that are to be found before a text is split than a tokenizer
    /// can have.
    fn kinds(&self) -> Result<Vec<u8>> {
        let mut kinds = Vec::new();
        self.0.each(TYPES, |value| {
            let kind = match value {
                Value::Unsigned(kind) => u8::try_from(kind).ok(),
                Value::Signed(kind) => u8::try_from(kind).ok(),
                _ => return Err(self.0.wrong(TYPES, "a list of whole numbers")),
            };
            kinds.push(kind.unwrap_or(0));
            Ok(())
        })?;
        let n_added = kinds.iter().filter(|kind| ADDED.contains(kind)).count();
        if n_added > ADDED_MAX {
            let want = format!("at most {ADDED_MAX} tokens of types 2, 3 and 4, not {n_added}");
            return Err(self.0.wrong(TYPES, &want));
        }
        Ok(kinds)
    }
}
