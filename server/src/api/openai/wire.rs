//! The wire types of chat completions: parsing with every field checked, and the shapes of answers.

use hadal_engine::checkpoint::GenerationConfig;
use hadal_engine::text::{Message, Role};
use hadal_engine::{Sampling, TokenId};
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::api::fields::Fields;
use crate::generate;
use crate::http::reply::Refusal;

/// Fields that would change the answer and that nothing here does yet.
const UNSUPPORTED: [&str; 47] = [
    "add_generation_prompt",
    "add_special_tokens",
    "allowed_token_ids",
    "audio",
    "bad_words",
    "best_of",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "ebnf",
    "echo",
    "enable_thinking",
    "function_call",
    "functions",
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "ignore_eos",
    "include_stop_str_in_output",
    "json_schema",
    "length_penalty",
    "logits_processors",
    "logprobs",
    "min_tokens",
    "modalities",
    "n",
    "prediction",
    "prompt_logprobs",
    "reasoning",
    "reasoning_effort",
    "regex",
    "response_format",
    "skip_special_tokens",
    "stop_token_ids",
    "structured_outputs",
    "thinking",
    "tool_choice",
    "tools",
    "top_logprobs",
    "truncate_prompt_tokens",
    "typical_p",
    "use_beam_search",
    "verbosity",
    "web_search_options",
];

/// Whether a value of such a field leaves the answer as it is.
fn changes_nothing(field: &str, value: &Value) -> bool {
    let is_empty = value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty);
    match field {
        "n" | "best_of" | "length_penalty" | "typical_p" => value.as_f64() == Some(1.0),
        "tool_choice" | "function_call" => value == "none" || value == "auto",
        "response_format" => value.get("type").is_some_and(|kind| kind == "text"),
        "modalities" => value.as_array().is_some_and(|list| list.iter().all(|kind| kind == "text")),
        "top_logprobs" | "min_tokens" => value == 0,
        "verbosity" => value == "medium",
        "add_generation_prompt" | "skip_special_tokens" => value == true,
        // An empty list allows nothing, empty options are the defaults of what they turn on.
        "allowed_token_ids" | "web_search_options" => false,
        _ => is_empty || value == false,
    }
}

/// A parsed request, but for the model's own sampling defaults.
pub(super) struct ChatRequest {
    pub(super) model: Option<String>,
    pub(super) messages: Vec<Message>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) max_tokens: u32,
    pub(super) stops: Vec<String>,
    sampling: Asked,
}

/// Sampling as far as the request gives it.
struct Asked {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    repetition: Option<f32>,
    presence: Option<f32>,
    frequency: Option<f32>,
    seed: Option<u64>,
    biases: Vec<(TokenId, f32)>,
}

impl ChatRequest {
    pub(super) fn parse(fields: &Fields) -> Result<Self, Refusal> {
        for field in UNSUPPORTED {
            if fields.get(field).is_some_and(|value| !changes_nothing(field, value)) {
                let sentence =
                    format!("`{field}` is not supported yet with this value; leave it out");
                let refusal =
                    Refusal::new(StatusCode::BAD_REQUEST, "unsupported_parameter", sentence);
                return Err(Refusal { field: Some(field.to_owned()), ..refusal });
            }
        }
        let limit = |field| fields.integer(field, 1, 1 << 30);
        let max_tokens = limit("max_completion_tokens")?.or(limit("max_tokens")?);
        Ok(Self {
            model: fields.text("model")?.map(ToOwned::to_owned),
            messages: messages(fields)?,
            stream: fields.flag("stream")?.unwrap_or(false),
            include_usage: include_usage(fields)?,
            // The context is the bound when none is asked for; the engine cuts to it.
            max_tokens: max_tokens.and_then(|max| u32::try_from(max).ok()).unwrap_or(u32::MAX),
            stops: fields.stops()?,
            sampling: Asked::parse(fields)?,
        })
    }

    /// Completed by the checkpoint's defaults, else OpenAI's.
    pub(super) fn sampling(&self, defaults: &GenerationConfig) -> Sampling {
        let asked = &self.sampling;
        Sampling {
            temperature: asked.temperature.or(defaults.temperature).unwrap_or(1.0),
            top_k: asked.top_k.or(defaults.top_k).unwrap_or(0),
            top_p: asked.top_p.or(defaults.top_p).unwrap_or(1.0).max(f32::MIN_POSITIVE),
            min_p: asked.min_p.unwrap_or(0.0),
            repetition: asked
                .repetition
                .or(defaults.repetition_penalty)
                .unwrap_or(1.0)
                .max(f32::MIN_POSITIVE),
            presence: asked.presence.unwrap_or(0.0),
            frequency: asked.frequency.unwrap_or(0.0),
            seed: asked.seed.unwrap_or_else(generate::random),
            biases: asked.biases.clone(),
        }
    }
}

impl Asked {
    fn parse(fields: &Fields) -> Result<Self, Refusal> {
        let penalty =
            |field| fields.number(field, "a number from -2 to 2", |p| (-2.0..=2.0).contains(&p));
        let seed = fields.integer("seed", i64::MIN, u64::MAX)?;
        Ok(Self {
            temperature: fields
                .number("temperature", "a number from 0 to 2", |t| (0.0..=2.0).contains(&t))?,
            top_p: fields.number("top_p", "a number above 0, up to 1", |p| p > 0.0 && p <= 1.0)?,
            top_k: fields.top_k()?,
            min_p: fields.number("min_p", "a number from 0 to 1", |p| (0.0..=1.0).contains(&p))?,
            repetition: fields.number("repetition_penalty", "a number above 0, up to 10", |r| {
                r > 0.0 && r <= 10.0
            })?,
            presence: penalty("presence_penalty")?,
            frequency: penalty("frequency_penalty")?,
            // Negative seeds are seeds too: their bits count.
            seed: seed.map(|seed| seed as u64),
            biases: biases(fields)?,
        })
    }
}

/// `stream_options.include_usage`: whether a last chunk says what the answer cost.
fn include_usage(fields: &Fields) -> Result<bool, Refusal> {
    let wrong = || {
        let sentence = "`stream_options` is not `{\"include_usage\": true}` or `false`";
        Refusal::field("stream_options", sentence)
    };
    let Some(options) = fields.get("stream_options") else { return Ok(false) };
    match options.as_object().ok_or_else(wrong)?.get("include_usage") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(include)) => Ok(*include),
        Some(_) => Err(wrong()),
    }
}

/// `logit_bias`: token id to -100..=100.
fn biases(fields: &Fields) -> Result<Vec<(TokenId, f32)>, Refusal> {
    let want = || {
        Refusal::field(
            "logit_bias",
            "`logit_bias` maps up to 300 token ids to numbers from -100 to 100",
        )
    };
    let Some(value) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let map = value.as_object().filter(|map| map.len() <= 300).ok_or_else(want)?;
    let entry = |(id, bias): (&String, &Value)| {
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
        Some((TokenId(id.parse().ok()?), bias as f32))
    };
    map.iter().map(|pair| entry(pair).ok_or_else(want)).collect()
}

fn messages(fields: &Fields) -> Result<Vec<Message>, Refusal> {
    let wrong = |at: usize, what: &str| {
        let refusal = Refusal::malformed(format!("`messages[{at}]` {what}"));
        Refusal { field: Some("messages".into()), ..refusal }
    };
    let list = fields.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| {
        let refusal =
            Refusal::malformed("`messages` is missing, wanted a list of at least one message");
        Refusal { field: Some("messages".into()), ..refusal }
    })?;
    let message = |(at, entry): (usize, &Value)| {
        let role = match entry.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => Role::System,
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("tool") => Role::Tool,
            _ => {
                return Err(wrong(
                    at,
                    "has no `role` of system, developer, user, assistant or tool",
                ));
            }
        };
        if entry
            .get("tool_calls")
            .is_some_and(|calls| calls.as_array().is_some_and(|calls| !calls.is_empty()))
        {
            return Err(wrong(at, "has `tool_calls`, which are not supported yet"));
        }
        let content = content(entry.get("content"))
            .ok_or_else(|| wrong(at, "has no text `content`: a string, or text parts"))?;
        Ok(Message { role, content })
    };
    list.iter().enumerate().map(message).collect()
}

/// A string, or text parts put together.
fn content(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| {
                part.get("text")
                    .and_then(Value::as_str)
                    .filter(|_| part.get("type").is_some_and(|kind| kind == "text"))
            })
            .collect(),
        _ => None,
    }
}

/// What every answer and chunk begins with.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl Head {
    /// A chunk with one choice. Where the last chunk will carry the usage, the others say that they do not.
    pub(super) fn chunk(&self, delta: &Value, finish: Option<&str>, has_usage: bool) -> Value {
        let mut chunk = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": [{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }],
        });
        if let Some(object) = chunk.as_object_mut().filter(|_| has_usage) {
            object.insert("usage".into(), Value::Null);
        }
        chunk
    }

    /// The chunk that carries the usage, without a choice.
    pub(super) fn usage_chunk(&self, usage: &Value) -> Value {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": [], "usage": usage,
        })
    }

    /// A whole answer.
    pub(super) fn completion(&self, text: &str, finish: &str, usage: &Value) -> Value {
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": text, "refusal": null },
                "logprobs": null,
                "finish_reason": finish,
            }],
            "usage": usage,
        })
    }
}
