//! A folder in Hugging Face layout: configuration, text files and weights.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::files::Files;
use super::json::{Fields, parse_object};
use super::safetensors::Entry;
use super::text_side::TextSide;
use super::{Bytes, Contents, ModelConfig, Source, TextFiles};
use super::{gpt2, mini, pt, safetensors};
use crate::error::{Error, Result};

/// The checkpoint's own defaults, from `generation_config.json` (else `config.json`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Ids that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Id that begins a sequence.
    pub bos_token_id: Option<u32>,
    /// Sampling default, when the file has one.
    pub temperature: Option<f32>,
    /// Sampling default, when the file has one.
    pub top_p: Option<f32>,
    /// Sampling default, when the file has one.
    pub top_k: Option<u32>,
    /// Sampling default, when the file has one.
    pub repetition_penalty: Option<f32>,
}

/// Reads everything but the weights themselves.
///
/// # Errors
/// Names the file, what was found and what was wanted.
pub(super) fn read(source: &Source) -> Result<Contents> {
    let files = Files::new(source);
    let (config_path, config_bytes) = files.required("config.json")?;
    let object = parse_object(&config_path, &config_bytes)?;
    let is_mini = mini::is_settings(&object);
    let config = if is_mini { None } else { Some(ModelConfig::of(&config_path, &object)?) };
    let generation = generation(&files, &config_path, &object)?;
    let mut tensors = BTreeMap::new();
    let mut mapped = Vec::new();
    for (path, bytes) in files.weights()? {
        for (name, entry) in entries(&path, &bytes)? {
            if tensors.insert(name.clone(), entry).is_some() {
                let problem = "it is in another file of this checkpoint too".to_owned();
                return Err(Error::TensorRange { path, name, problem });
            }
        }
        mapped.push(bytes);
    }
    // mini-deepseek's sizes are partly in its tensors.
    let config = match config {
        Some(config) => config,
        None => mini::config(&config_path, Some(&object), &tensors)?,
    };
    let (path, text) = (files.path().to_owned(), TextSide::Files(source.clone(), is_mini));
    Ok(Contents { path, config, generation, text, tensors, files: mapped })
}

/// One weight file's tensors.
fn entries(path: &Path, bytes: &Bytes) -> Result<BTreeMap<String, Entry>> {
    if path.extension().is_some_and(|ending| ending == "safetensors") {
        safetensors::entries(path, bytes)
    } else {
        Ok(pt::read(path, bytes)?.tensors)
    }
}

/// `generation_config.json`; ids that it does not give come from `config.json`.
pub(super) fn generation(
    files: &Files,
    config_path: &Path,
    config: &Map<String, Value>,
) -> Result<GenerationConfig> {
    let (path, object) = match files.optional("generation_config.json")? {
        Some((path, bytes)) => (path.clone(), parse_object(&path, &bytes)?),
        None => (config_path.to_owned(), serde_json::Map::new()),
    };
    let (own, config) =
        (Fields { path: &path, object: &object }, Fields { path: config_path, object: config });
    let ids = |field: &str| -> Result<Vec<u32>> {
        let ids = own.token_ids(field)?;
        if ids.is_empty() { config.token_ids(field) } else { Ok(ids) }
    };
    let positive = |field: &str| own.get(field).map(|_| own.positive_or(field, None)).transpose();
    Ok(GenerationConfig {
        eos_token_ids: ids("eos_token_id")?,
        bos_token_id: ids("bos_token_id")?.first().copied(),
        temperature: own
            .get("temperature")
            .map(|_| own.number_or_zero("temperature"))
            .transpose()?
            .map(|t| t as f32),
        top_p: positive("top_p")?.map(|p| p.min(1.0) as f32),
        top_k: own
            .get("top_k")
            .map(|_| own.count_or("top_k", 0))
            .transpose()?
            .and_then(|k| u32::try_from(k).ok()),
        repetition_penalty: positive("repetition_penalty")?.map(|r| r as f32),
    })
}

/// `chat_template.jinja`, when it is there.
pub(super) fn chat_template(files: &Files) -> Result<Option<String>> {
    let Some((path, bytes)) = files.optional("chat_template.jinja")? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|error| Error::Format {
        path,
        problem: format!("not UTF-8 after {} bytes", error.utf8_error().valid_up_to()),
    })?;
    Ok(Some(text))
}

/// Tokenizer and template as bytes; the text side says what it misses. A GPT-2 vocabulary is as good as the
/// `tokenizer.json` made of it.
pub(super) fn text_files(files: &Files, is_mini: bool) -> Result<TextFiles> {
    let bytes = |name| Ok::<_, Error>(files.optional(name)?.map(|(_, bytes)| bytes));
    let chat_template = chat_template(files)?;
    let mut tokenizer = bytes("tokenizer.json")?;
    let mut tokenizer_config = bytes("tokenizer_config.json")?;
    let vocabulary = (files.optional("vocab.json")?, files.optional("merges.txt")?);
    if let (None, (Some(vocab), Some(merges))) = (&tokenizer, &vocabulary) {
        tokenizer = Some(gpt2::tokenizer((&vocab.0, &vocab.1), (&merges.0, &merges.1))?);
    }
    let tiktoken = if tokenizer.is_none() { bytes("tiktoken.model")? } else { None };
    // Its trainers know GPT-2's vocabulary alone, and nothing else says what ends an answer.
    if is_mini && tokenizer_config.is_none() {
        tokenizer_config = Some(gpt2::tokenizer_config());
    }
    Ok(TextFiles { tokenizer, tiktoken, tokenizer_config, chat_template, missing: None })
}
