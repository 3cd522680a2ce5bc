//! The text side of a model: conversations to token ids, ids to text. Beside the engine's loop, never inside it.
//!
//! What a person or a tool writes is text and nothing else: a control token's name inside a message is encoded as the
//! characters it is made of. Before rendering, each look-alike is marked with a character that no text has; after
//! rendering, control tokens are recognised only where no mark stands before them.

mod blocks;
mod bytes;
mod controls;
mod detokenizer;
mod guard;
mod jinja;
mod longest;
mod marks;
mod runner;
pub mod stop;
mod template;
mod tiktoken;
mod tokenizer;

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

pub use detokenizer::Detokenizer;

use crate::checkpoint::TextFiles;
use crate::error::{Error, Result};
use crate::step::TokenId;
use marks::{Rendered, after_one_space};
use template::Template;
use tokenizer::{Piece, Tokenizer};

/// Texts up to this are encoded whatever the context: it takes little, and the refusal tells their exact length.
const COUNTED_BYTES_MAX: usize = 64 << 10;

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
    /// What raw text begins with.
    begin: Option<TokenId>,
    eos: Vec<TokenId>,
    /// Texts that are more tokens than this for certain are refused before they are encoded.
    context_tokens: usize,
}

impl Text {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] or [`Error::Template`], with what was found.
    pub fn open(files: &TextFiles) -> Result<Self> {
        let problem = |problem: String| Error::Tokenizer { problem };
        let config: Value = match &files.tokenizer_config {
            None => Value::Null,
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|e| problem(format!("`tokenizer_config.json` is not valid JSON: {e}")))?,
        };
        let tokenizer = match (&files.tokenizer, &files.tiktoken) {
            (Some(json), _) => Tokenizer::open(json)?,
            (None, Some(model)) => Tokenizer::open_tiktoken(model, &config)?,
            (None, None) => {
                let wanted = files.missing.unwrap_or(TextFiles::NO_FILES);
                return Err(problem(wanted.into()));
            }
        };
        let tokenizer = Arc::new(tokenizer);
        let (bos, eos) = (token(&config, "bos_token"), token(&config, "eos_token"));
        let source = match &files.chat_template {
            Some(source) => Some(source.clone()),
            None => template_of(&config)?,
        };
        let template = source.map(|source| Template::new(&source, &bos, &eos)).transpose()?;
        let stops = if template.is_none() { vec!["\n\nHuman:".to_owned()] } else { Vec::new() };
        let bos_id = tokenizer.id(&bos);
        let adds_bos = config.get("add_bos_token").and_then(Value::as_bool) == Some(true)
            || tokenizer.encode_raw("")?.first().copied() == bos_id;
        let begin = bos_id.filter(|_| adds_bos);
        let eos = tokenizer.id(&eos).into_iter().collect();
        Ok(Self { tokenizer, template, stops, begin, eos, context_tokens: usize::MAX })
    }

    /// Whether a chat template can be used, for who looks at a model without reading its tokenizer.
    ///
    /// # Errors
    /// [`Error::Template`], with what was found.
    pub fn check_template(source: &str) -> Result<()> {
        Template::new(source, "", "").map(drop)
    }

    /// Refuses from now on what is too long for a context of so many tokens by its bytes alone, before it is encoded:
    /// for a long text that takes seconds and some hundred times its size in memory.
    #[must_use]
    pub fn within(self, context_tokens: usize) -> Self {
        Self { context_tokens, ..self }
    }

    /// A conversation, rendered by the template (else as plain `Human:` / `Assistant:` turns) and encoded, ending
    /// where the assistant begins.
    ///
    /// # Errors
    /// What the template refuses, or the limits it hit; a tool's message that it has no place for;
    /// [`Error::PromptTooLarge`].
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Encoded> {
        let controls = self.tokenizer.controls();
        let marked: Vec<Message> =
            messages.iter().map(|message| marks::mark(controls, message)).collect();
        let (marked, begin) = match &self.template {
            Some(template) => (rendered(template, marked)?, None),
            None => (plain_turns(&marked), self.begin),
        };
        let rendered = marks::unmark(controls, &marked);
        self.check_length(&rendered.text)?;
        let pieces = self.tokenizer.encode(&rendered)?;
        let decode_spans = spans(&rendered, &pieces, begin.iter().count());
        let tokens = begin.into_iter().chain(pieces.into_iter().map(|(id, _)| id)).collect();
        Ok(Encoded { tokens, decode_spans })
    }

    /// Raw text, as `prompt` of the older routes: special tokens are recognised, the beginning-of-sequence token is
    /// put in front where the tokenizer or its configuration asks for it.
    ///
    /// # Errors
    /// What the tokenizer refuses; [`Error::PromptTooLarge`].
    pub fn encode_raw(&self, prompt: &str) -> Result<Encoded> {
        self.check_length(prompt)?;
        let mut tokens = self.tokenizer.encode_raw(prompt)?;
        if let Some(begin) = self.begin.filter(|begin| tokens.first() != Some(begin)) {
            tokens.insert(0, begin);
        }
        Ok(Encoded { tokens, decode_spans: Vec::new() })
    }

    fn check_length(&self, text: &str) -> Result<()> {
        let at_least = self.tokenizer.tokens_at_least(text.len());
        if text.len() <= COUNTED_BYTES_MAX || at_least < self.context_tokens {
            return Ok(());
        }
        Err(Error::PromptTooLarge { at_least, max: self.context_tokens.saturating_sub(1) })
    }

    /// Stop strings the chat form brings along (`\n\nHuman:` for plain turns).
    pub fn default_stops(&self) -> &[String] {
        &self.stops
    }

    /// The tokens that end an answer: those of the checkpoint's configuration (`eos_token_ids`), and the end token that
    /// `tokenizer_config.json` names. Ascending, each once.
    pub fn end_tokens(&self, configured: &[u32]) -> Vec<TokenId> {
        let configured = configured.iter().copied().map(TokenId);
        let mut tokens: Vec<TokenId> = configured.chain(self.eos.iter().copied()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// Ids that have a text; a model's own vocabulary may be larger.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
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

/// A conversation through the template. What a tool said is never left out in silence: many templates know no tools.
fn rendered(template: &Template, messages: Vec<Message>) -> Result<String> {
    let is_tool = |message: &Message| message.role == Role::Tool;
    if !messages.iter().any(is_tool) {
        return template.render(messages);
    }
    let others = messages.iter().filter(|message| !is_tool(message)).cloned().collect();
    let text = template.render(messages)?;
    if template.render(others).is_ok_and(|without| without == text) {
        let problem = "it has no place for messages of the role `tool`";
        return Err(Error::Template { problem: problem.into() });
    }
    Ok(text)
}

/// A token of `tokenizer_config.json`: text, or an object with `content`.
fn token(config: &Value, field: &str) -> String {
    let value = config.get(field);
    let text = value.and_then(Value::as_str).or_else(|| value?.get("content")?.as_str());
    text.unwrap_or_default().to_owned()
}

/// The template of `tokenizer_config.json`: text, or a list of named ones of which `default` is meant.
fn template_of(config: &Value) -> Result<Option<String>> {
    let named = |list: &Vec<Value>| {
        let name = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some("default");
        list.iter().find(name)?.get("template")?.as_str().map(ToOwned::to_owned)
    };
    let found = match config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => Some(source.clone()),
        Some(Value::Array(list)) => named(list),
        Some(_) => None,
    };
    let problem = "`chat_template` in `tokenizer_config.json` is neither a text nor a list with one named `default`";
    found.map(Some).ok_or_else(|| Error::Template { problem: problem.into() })
}

/// The tokens that lie in answers whole, behind `first` others.
fn spans(rendered: &Rendered, pieces: &[Piece], first: usize) -> Vec<Range<u32>> {
    let (mut spans, mut at) = (Vec::new(), 0);
    for answer in &rendered.answers {
        let rest = pieces.get(at..).unwrap_or_default();
        let before = rest.iter().take_while(|(_, bytes)| bytes.start < answer.start).count();
        let inside = rest.iter().skip(before).take_while(|(_, bytes)| bytes.end <= answer.end);
        let (from, len) = (at + before, inside.count());
        at = from + len;
        if len > 0 {
            spans.push((first + from) as u32..(first + at) as u32);
        }
    }
    spans
}

/// The seed's turns: what an educational checkpoint without a template was trained on.
fn plain_turns(messages: &[Message]) -> String {
    let mut text = String::new();
    for Message { role, content } in messages {
        match role {
            Role::System => text.extend(["System: ", content, "\n\n"]),
            Role::User | Role::Tool => text.extend(["Human: ", content, "\n\n"]),
            Role::Assistant => text.extend(["Assistant:", &after_one_space(content), "\n\n"]),
        }
    }
    text + "Assistant:"
}
