//! Where a checkpoint's tokenizer and template are: looked at for a listing, read for a load.

use serde::de::IgnoredAny;

use super::files::Files;
use super::{Source, folder, gguf};
use crate::error::{Error, Result};

/// The text side of a checkpoint, as bytes: `engine::text` reads them.
#[derive(Debug, Clone, Default)]
pub struct TextFiles {
    /// `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// `tiktoken.model`, where there is no `tokenizer.json`.
    pub tiktoken: Option<Vec<u8>>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `chat_template.jinja`, else the `chat_template` of `tokenizer_config.json` is used.
    pub chat_template: Option<String>,
    /// Why there is no tokenizer, where that is another reason than files that are not there.
    pub missing: Option<&'static str>,
}

impl TextFiles {
    /// Why there is no tokenizer where files could be one.
    pub const NO_FILES: &str = "there is no `tokenizer.json` beside the weights, nor `vocab.json` with `merges.txt`, nor `tiktoken.model`";
}

/// A text side that was not read yet.
pub(super) enum TextSide {
    /// Files of a folder, or beside a file; whether they are mini-deepseek's.
    Files(Source, bool),
    /// Metadata of the file itself.
    Gguf(gguf::Text),
}

impl TextSide {
    /// Reads it.
    ///
    /// # Errors
    /// Names the file or key, what was found and what was wanted.
    pub(super) fn read(&self) -> Result<TextFiles> {
        match self {
            Self::Files(source, is_mini) => folder::text_files(&Files::new(source), *is_mini),
            Self::Gguf(text) => text.read(),
        }
    }

    /// Whether there is a tokenizer that looks like one; nothing is built of it.
    ///
    /// # Errors
    /// What is missing, or which file or key is wrong.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Files(source, _) => check_files(&Files::new(source)),
            Self::Gguf(text) => text.check(),
        }
    }
}

fn check_files(files: &Files<'_>) -> Result<()> {
    let is_there = |name| -> Result<bool> {
        let Some((path, bytes)) = files.optional(name)? else { return Ok(false) };
        let read = serde_json::from_slice::<IgnoredAny>(&bytes);
        read.map(|_| true).map_err(|source| Error::Json { path, source })
    };
    is_there("tokenizer_config.json")?;
    folder::chat_template(files)?;
    let has = |name| Ok::<_, Error>(files.optional(name)?.is_some());
    let is_whole = is_there("tokenizer.json")?
        || is_there("vocab.json")? && has("merges.txt")?
        || has("tiktoken.model")?;
    if is_whole {
        return Ok(());
    }
    Err(Error::Tokenizer { problem: TextFiles::NO_FILES.into() })
}
