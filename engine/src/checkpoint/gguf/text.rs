//! The tokenizer in a file's metadata, written as the `tokenizer.json` it came from.
//!
//! Only byte-level BPE (`tokenizer.ggml.model` = `gpt2`) is known, which is what every DeepSeek model has. How text is
//! split before merging is not in the file but behind a name, `tokenizer.ggml.pre`: the expressions below are those of the
//! released tokenizers of that name.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::super::{GenerationConfig, TextFiles};
use super::container::{Container, Value};
use crate::error::{Error, Result};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// Entries of a list: the largest vocabularies have some 200,000.
const ENTRIES_MAX: u64 = 1 << 22;

/// Token types: the rest are `NORMAL` (1) and `BYTE` (6), which byte-level vocabularies do not have.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;

const DEEPSEEK_V3: &[&str] = &[
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

/// Letters of scripts with two cases, as the first tokenizer lists them; by number, since some look like others.
const DEEPSEEK_LLM: &[&str] = &[
    r"[\r\n]",
    concat!(
        r"\s?[",
        r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
        r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}",
        r"\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}",
        r"\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}",
        r"\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}",
        r"\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}",
        r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}",
        r"\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}",
        r"\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}",
        r"\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}",
        r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}",
        r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}",
        r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}",
        r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}",
        "]+",
    ),
    r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
    r"\s+$",
    "[一-龥ࠀ-一가-퟿]+",
];

const DEEPSEEK_CODER: &[&str] = &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"];

const KIMI_K2: &[&str] = &[concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)];

const LLAMA_3: &[&str] = &[
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// How text is split before merging.
pub(super) struct Splits {
    /// None: words as GPT-2 has them.
    expressions: &'static [&'static str],
    /// Every digit is a word of its own.
    digits: bool,
    /// A piece that is a token by itself is taken whole, whatever the merges would make of it.
    whole_first: bool,
    /// A text begins with the beginning-of-sequence token, unless the file says something else.
    begins: bool,
}

/// The splits behind a name.
pub(super) fn splits(file: &Container) -> Result<Splits> {
    let name = file.text(PRE)?.unwrap_or("missing");
    let of =
        |expressions, digits| Ok(Splits { expressions, digits, whole_first: false, begins: false });
    match name {
        "deepseek-v3" => of(DEEPSEEK_V3, false),
        "deepseek-llm" => of(DEEPSEEK_LLM, true),
        "deepseek-coder" => of(DEEPSEEK_CODER, true),
        "kimi-k2" => of(KIMI_K2, false),
        "chatglm-bpe" => of(LLAMA_3, false),
        "glm4" | "glm5" => Ok(Splits { whole_first: true, ..of(LLAMA_3, false)? }),
        "llama-bpe" | "llama3" | "llama-v3" => {
            Ok(Splits { whole_first: true, begins: true, ..of(LLAMA_3, false)? })
        }
        "gpt-2" | "gpt2" => of(&[], false),
        _ => {
            let want =
                "deepseek-v3, deepseek-llm, deepseek-coder, kimi-k2, glm4, llama-bpe or gpt-2";
            Err(file.wrong(PRE, want))
        }
    }
}

/// Tokenizer, its settings and the chat template; nothing in a file without a tokenizer.
///
/// # Errors
/// Names the key, with what was found and wanted.
pub(super) fn text(file: &Container) -> Result<TextFiles> {
    let chat_template = file.text("tokenizer.chat_template")?.map(ToOwned::to_owned);
    match file.text(MODEL)? {
        None => return Ok(TextFiles { chat_template, ..TextFiles::default() }),
        Some("gpt2") => {}
        Some(other) => {
            let what = format!(
                "`{MODEL}` is `{}`: byte-level BPE (`gpt2`) is supported; a GGUF file made from the released DeepSeek \
                 checkpoint has it",
                other.chars().take(60).collect::<String>()
            );
            return Err(Error::Unsupported { path: file.path.clone(), what });
        }
    }
    let vocabulary = Vocabulary::read(file)?;
    let problem = |source| Error::Json { path: file.path.clone(), source };
    let special = |key: &str| -> Result<Json> {
        let id = file.count(key)?.and_then(|id| u32::try_from(id).ok());
        Ok(id.and_then(|id| vocabulary.controls.get(&id)).map_or(Json::Null, |text| json!(text)))
    };
    let settings = json!({
        "bos_token": special("tokenizer.ggml.bos_token_id")?,
        "eos_token": special("tokenizer.ggml.eos_token_id")?,
        "add_bos_token": file.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(splits(file)?.begins),
    });
    let tokenizer_config = Some(serde_json::to_vec(&settings).map_err(problem)?);
    let tokenizer = Some(serde_json::to_vec(&vocabulary.tokenizer(file)?).map_err(problem)?);
    Ok(TextFiles { tokenizer, tokenizer_config, chat_template, ..TextFiles::default() })
}

/// Ids and sampling defaults.
///
/// # Errors
/// Names the key, with what was found and wanted.
pub(super) fn generation(file: &Container) -> Result<GenerationConfig> {
    let id = |key: &str| -> Result<Option<u32>> {
        let id = file.count(key)?;
        id.map(|id| u32::try_from(id).map_err(|_| file.wrong(key, "a token id"))).transpose()
    };
    let mut eos_token_ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        let id = id(&format!("tokenizer.ggml.{key}"))?;
        eos_token_ids.extend(id.filter(|id| !eos_token_ids.contains(id)));
    }
    let number = |key: &str, is_right: fn(f64) -> bool| -> Result<Option<f32>> {
        match file.number(key)? {
            Some(number) if !is_right(number) => Err(file.wrong(key, "a number above 0")),
            number => Ok(number.map(|number| number as f32)),
        }
    };
    let top_k = file.count("general.sampling.top_k")?;
    Ok(GenerationConfig {
        eos_token_ids,
        bos_token_id: id("tokenizer.ggml.bos_token_id")?,
        temperature: number("general.sampling.temp", |n| n >= 0.0)?,
        top_p: number("general.sampling.top_p", |n| n > 0.0)?.map(|p| p.min(1.0)),
        top_k: top_k.and_then(|k| u32::try_from(k).ok()),
        repetition_penalty: number("general.sampling.penalty_repeat", |n| n > 0.0)?,
    })
}

/// The tokens.
struct Vocabulary<'a> {
    ids: Vec<(&'a str, usize)>,
    /// Some word is longer than a byte.
    has_words: bool,
    added: Vec<Json>,
    /// Text of the tokens that begin, end or structure a text, and of those that the keys may name.
    controls: BTreeMap<u32, String>,
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a Container) -> Result<Self> {
        for key in [TOKENS, TYPES, MERGES] {
            if let Some(Value::Array(_, ENTRIES_MAX.., _)) = file.metadata.get(key) {
                return Err(file.wrong(key, "a list of less than 4194304"));
            }
        }
        let mut types = Vec::new();
        file.each(TYPES, |value| {
            types.push(match value {
                Value::Signed(kind) => kind,
                Value::Unsigned(kind) => i64::try_from(kind).unwrap_or(i64::MAX),
                _ => return Err(file.wrong(TYPES, "a list of whole numbers")),
            });
            Ok(())
        })?;
        let named = ["bos", "eos", "eot", "eom"]
            .map(|name| file.count(&format!("tokenizer.ggml.{name}_token_id")));
        let named: Vec<u64> =
            named.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let mut all = Self {
            has_words: false,
            ids: Vec::new(),
            added: Vec::new(),
            controls: BTreeMap::new(),
        };
        let found = file.texts(TOKENS, |id, text| {
            let kind = types.get(id).copied().unwrap_or(1);
            let is_named = named.contains(&(id as u64));
            // What fills a vocabulary up to a round size has no text.
            if kind == UNUSED && !is_named {
                return Ok(());
            }
            all.ids.push((text, id));
            all.has_words |= kind == 1 && text.chars().nth(1).is_some();
            if matches!(kind, UNKNOWN | CONTROL | USER_DEFINED) || is_named {
                let special = kind != USER_DEFINED || is_named;
                all.added.push(json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                }));
                all.controls.extend(u32::try_from(id).ok().map(|id| (id, text.to_owned())));
            }
            Ok(())
        })?;
        if found { Ok(all) } else { Err(file.wrong(TOKENS, "a list of texts")) }
    }

    /// `tokenizer.json`.
    fn tokenizer(self, file: &'a Container) -> Result<TokenizerFile<'a>> {
        let Splits { expressions, digits, whole_first, .. } = splits(file)?;
        let mut steps: Vec<Json> = expressions
            .iter()
            .map(|expression| {
                json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false})
            })
            .collect();
        if digits {
            steps.push(json!({"type": "Digits", "individual_digits": true}));
        }
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        steps.push(byte_level(expressions.is_empty()));
        let mut merges = Vec::new();
        let found = file.texts(MERGES, |_, merge| {
            merges.push(merge);
            Ok(())
        })?;
        // Writers leave an empty list out.
        if !found && self.has_words {
            return Err(file.wrong(MERGES, "a list of texts: some tokens are longer than a byte"));
        }
        Ok(TokenizerFile {
            version: "1.0",
            added_tokens: self.added,
            pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
            decoder: byte_level(true),
            model: Model { kind: "BPE", ignore_merges: whole_first, vocab: Ids(self.ids), merges },
        })
    }
}

/// `tokenizer.json`; what is left out there is `null` or `false`. Written from the file's own texts: as a tree of values it
/// takes many times as long.
#[derive(Serialize)]
struct TokenizerFile<'a> {
    version: &'static str,
    added_tokens: Vec<Json>,
    pre_tokenizer: Json,
    decoder: Json,
    model: Model<'a>,
}

/// Its model.
#[derive(Serialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    ignore_merges: bool,
    vocab: Ids<'a>,
    merges: Vec<&'a str>,
}

/// Texts to ids; of a text that is there twice the last one counts, as in any JSON.
struct Ids<'a>(Vec<(&'a str, usize)>);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().copied())
    }
}
