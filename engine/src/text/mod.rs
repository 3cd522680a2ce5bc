//! The text side of a model: conversations to token ids, ids to text. Beside the engine's loop, never inside it.

use std::ops::Range;

use crate::checkpoint::TextFiles;
use crate::error::Result;
use crate::step::TokenId;

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool's answer.
    Tool,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who.
    pub role: Role,
    /// What.
    pub content: String,
}

/// A prompt as token ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The ids.
    pub tokens: Vec<TokenId>,
    /// Parts an assistant wrote; see [`crate::Request::decode_spans`].
    pub decode_spans: Vec<Range<u32>>,
}

/// A checkpoint's tokenizer and chat template.
pub struct Text {}

impl Text {
    /// Reads the files.
    ///
    /// # Errors
    /// [`crate::Error::Tokenizer`] or [`crate::Error::Template`], with what was found.
    pub fn open(_files: &TextFiles) -> Result<Self> {
        Ok(Self {})
    }

    /// A conversation, rendered by the template (else as plain `Human:` / `Assistant:` turns) and encoded, ending
    /// where the assistant begins.
    ///
    /// # Errors
    /// What the template refuses, or the fuel limit.
    pub fn encode_chat(&self, _messages: &[Message]) -> Result<Encoded> {
        Ok(Encoded::default())
    }

    /// Raw text, as `prompt` of the older routes: special tokens are recognised, the beginning-of-sequence token is
    /// put in front where the tokenizer asks for it.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn encode_raw(&self, _prompt: &str) -> Result<Encoded> {
        Ok(Encoded::default())
    }

    /// Stop strings the chat form brings along (`\n\nHuman:` for plain turns).
    pub fn default_stops(&self) -> &[String] {
        &[]
    }

    /// A fresh incremental decoder.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer {}
    }
}

/// Turns ids into text, holding back bytes until a character is whole.
pub struct Detokenizer {}

impl Detokenizer {
    /// The text that became certain with this id; may be empty. Special tokens decode to nothing.
    pub fn push(&mut self, _id: TokenId) -> String {
        String::new()
    }

    /// What is left at the end: an incomplete character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
