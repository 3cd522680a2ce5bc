//! The text side of a model: conversations to token ids, ids to text. Beside the engine's loop, never inside it.
//!
//! What a person or a tool writes is text and nothing else: a control token's name inside a message is encoded as the
//! characters it is made of. Before rendering, each look-alike is marked with a character that no text has; after
//! rendering, control tokens are recognised only where no mark stands before them.

mod detokenizer;
mod jinja;
mod marks;
mod runner;
pub mod stop;
mod template;
mod tokenizer;

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

pub use detokenizer::Detokenizer;

use crate::checkpoint::TextFiles;
use crate::error::{Error, Result};
use crate::step::TokenId;
use marks::Part;
use template::Template;
use tokenizer::Tokenizer;

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
pub struct Text {
    tokenizer: Arc<Tokenizer>,
    /// `None`: plain turns.
    template: Option<Template>,
    stops: Vec<String>,
    eos: Vec<TokenId>,
}

impl Text {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] or [`Error::Template`], with what was found.
    pub fn open(files: &TextFiles) -> Result<Self> {
        let problem = |problem: String| Error::Tokenizer { problem };
        let json = files.tokenizer.as_deref();
        let json =
            json.ok_or_else(|| problem("there is no `tokenizer.json` beside the weights".into()))?;
        let tokenizer = Arc::new(Tokenizer::open(json)?);
        let config: Value = match &files.tokenizer_config {
            None => Value::Null,
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|e| problem(format!("`tokenizer_config.json` is not valid JSON: {e}")))?,
        };
        let (bos, eos) = (token(&config, "bos_token"), token(&config, "eos_token"));
        let source = files.chat_template.clone().or_else(|| template_of(&config));
        let template = source.map(|source| Template::new(&source, &bos, &eos)).transpose()?;
        let stops = if template.is_none() { vec!["\n\nHuman:".to_owned()] } else { Vec::new() };
        let eos = tokenizer.id(&eos).into_iter().collect();
        Ok(Self { tokenizer, template, stops, eos })
    }

    /// A conversation, rendered by the template (else as plain `Human:` / `Assistant:` turns) and encoded, ending
    /// where the assistant begins.
    ///
    /// # Errors
    /// What the template refuses, or the fuel limit.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Encoded> {
        let marked: Vec<Message> =
            messages.iter().map(|message| marks::mark(&self.tokenizer, message)).collect();
        let rendered = match &self.template {
            Some(template) => template.render(marked)?,
            None => plain_turns(&marked),
        };
        self.encode_marked(&rendered)
    }

    /// Encodes a rendered conversation part by part.
    fn encode_marked(&self, rendered: &str) -> Result<Encoded> {
        let mut encoded = Encoded::default();
        for part in marks::parts(&self.tokenizer, rendered) {
            match part {
                Part::Control(id) => encoded.tokens.push(id),
                Part::Text { text, answers } => {
                    let first = encoded.tokens.len();
                    let pieces = self.tokenizer.encode_plain(&text)?;
                    for answer in answers {
                        let inside = |(_, (start, end)): &(TokenId, (usize, usize))| {
                            answer.start <= *start && *end <= answer.end && start < end
                        };
                        let from = pieces.iter().position(inside);
                        let to = pieces.iter().rposition(inside);
                        if let (Some(from), Some(to)) = (from, to) {
                            encoded
                                .decode_spans
                                .push((first + from) as u32..(first + to + 1) as u32);
                        }
                    }
                    encoded.tokens.extend(pieces.iter().map(|(id, _)| *id));
                }
            }
        }
        Ok(encoded)
    }

    /// Raw text, as `prompt` of the older routes: special tokens are recognised, the beginning-of-sequence token is
    /// put in front where the tokenizer asks for it.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn encode_raw(&self, prompt: &str) -> Result<Encoded> {
        Ok(Encoded { tokens: self.tokenizer.encode_raw(prompt)?, decode_spans: Vec::new() })
    }

    /// Stop strings the chat form brings along (`\n\nHuman:` for plain turns).
    pub fn default_stops(&self) -> &[String] {
        &self.stops
    }

    /// The end token that `tokenizer_config.json` names.
    pub fn eos_ids(&self) -> &[TokenId] {
        &self.eos
    }

    /// A fresh incremental decoder.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.tokenizer))
    }

    /// Text of ids, special tokens left out.
    pub fn decode(&self, ids: &[TokenId]) -> String {
        let mut detokenizer = self.detokenizer();
        let mut text: String = ids.iter().map(|id| detokenizer.push(*id)).collect();
        text.push_str(&detokenizer.finish());
        text
    }
}

/// A token of `tokenizer_config.json`: text, or an object with `content`.
fn token(config: &Value, field: &str) -> String {
    let value = config.get(field);
    let text = value.and_then(Value::as_str).or_else(|| value?.get("content")?.as_str());
    text.unwrap_or_default().to_owned()
}

/// The template of `tokenizer_config.json`: text, or a list of named ones of which `default` is meant.
fn template_of(config: &Value) -> Option<String> {
    let value = config.get("chat_template")?;
    let named = || {
        let list = value.as_array()?;
        let default = list
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))?;
        default.get("template")?.as_str()
    };
    value.as_str().or_else(named).map(ToOwned::to_owned)
}

/// The seed's turns: what an educational checkpoint without a template was trained on.
fn plain_turns(messages: &[Message]) -> String {
    let mut text = String::new();
    for Message { role, content } in messages {
        match role {
            Role::System => text.extend(["System: ", content, "\n\n"]),
            Role::User | Role::Tool => text.extend(["Human: ", content, "\n\n"]),
            Role::Assistant => text.extend(["Assistant: ", content, "\n\n"]),
        }
    }
    text + "Assistant:"
}
