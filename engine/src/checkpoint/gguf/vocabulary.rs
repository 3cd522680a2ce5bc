//! A file's vocabulary as far as it can be judged where it lies: made into a tokenizer it takes many times its bytes.

use super::super::TextFiles;
use super::container::{Container, Value};
use super::text;
use crate::error::Result;

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";

/// Tokens of kinds that text may not be made of, or that are found before it is split: released models have a thousand.
/// Each takes a hundred times what it takes in the file.
const ADDED_MAX: usize = 1 << 16;
/// `UNKNOWN`, `CONTROL` and `USER_DEFINED`.
const ADDED: std::ops::RangeInclusive<u64> = 2..=4;

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
        self.check_added()?;
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
        self.check_added()?;
        text::splits(&self.0)?;
        let mut n_token = 0;
        self.0.texts(TOKENS, |_, _| {
            n_token += 1;
            Ok(())
        })?;
        if n_token == 0 { Err(self.0.wrong(TOKENS, "a list of texts")) } else { Ok(()) }
    }

    fn check_added(&self) -> Result<()> {
        let mut n_added = 0;
        self.0.each(TYPES, |value| {
            let kind = match value {
                Value::Unsigned(kind) => kind,
                Value::Signed(kind) => u64::try_from(kind).unwrap_or(0),
                _ => return Err(self.0.wrong(TYPES, "a list of whole numbers")),
            };
            n_added += usize::from(ADDED.contains(&kind));
            Ok(())
        })?;
        if n_added <= ADDED_MAX {
            return Ok(());
        }
        let want =
            format!("at most {ADDED_MAX} tokens of other types than 1, 5 and 6, not {n_added}");
        Err(self.0.wrong(TYPES, &want))
    }
}
