//! `hadal logits`: a model's numbers for given tokens, as a file, so that a reference that shares no code with us can
//! check them (`cargo xtask golden`, or anybody's script).

use std::path::{Path, PathBuf};

use clap::Args;
use hadal_engine::Limits;
use hadal_engine::step::TokenId;
use hadal_engine::trace::{self, Trace, TraceData, TraceOptions, TraceTensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use super::locate::locate;
use super::{Failure, Outcome};
use crate::args::{ComputeArgs, ModelArgs};

/// Flags of `hadal logits`.
#[derive(Debug, Args)]
pub(crate) struct LogitsArgs {
    /// The model.
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Token ids of the prompt: a JSON list of numbers, or an object with such a list under `input_ids`
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: PathBuf,
    /// Tokens to decode greedily after the prompt
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) greedy: usize,
    /// Where to write the tensors (safetensors)
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Also write the residual stream, attention, latent cache and routing of every layer, and the MTP layer's drafts
    #[arg(long)]
    pub(crate) trace: bool,
    /// Rows of one forward pass: the prompt is cut into chunks of this many
    #[arg(long, value_name = "N", default_value_t = Limits::default().step_rows_max)]
    pub(crate) step_rows: usize,
    /// How to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// Runs the tokens and writes the tensors.
pub(crate) fn run(args: &LogitsArgs) -> Outcome {
    let model = locate(&args.model)?;
    let text = std::fs::read_to_string(&args.tokens)
        .map_err(|problem| Failure::file(&args.tokens, problem))?;
    let options = TraceOptions {
        tokens: tokens(&text).map_err(|problem| Failure::file(&args.tokens, problem))?,
        n_greedy: args.greedy,
        all: args.trace,
        step_rows: args.step_rows,
        cpu: args.compute.options(),
    };
    let trace = trace::run(&model.source, &options)?;
    write(&trace, &args.out)
}

/// A list of ids, or an object that has one under `input_ids`.
fn tokens(text: &str) -> Result<Vec<TokenId>, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|problem| format!("not valid JSON: {problem}"))?;
    let list = if value.is_object() { value.get("input_ids") } else { Some(&value) };
    let Some(list) = list.and_then(Value::as_array) else {
        return Err(
            "wanted a list of token ids, or an object with such a list under `input_ids`".into()
        );
    };
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(TokenId).ok_or_else(|| format!("{value} is no token id"))
    };
    list.iter().map(id).collect()
}

/// Little-endian safetensors.
fn write(trace: &Trace, path: &Path) -> Outcome {
    let mut tensors = Vec::with_capacity(trace.tensors.len());
    for TraceTensor { name, shape, data } in &trace.tensors {
        let (dtype, bytes): (Dtype, Vec<u8>) = match data {
            TraceData::F32(values) => {
                (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            TraceData::I64(values) => {
                (Dtype::I64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
        };
        tensors.push((name, dtype, shape.clone(), bytes));
    }
    let mut views = Vec::with_capacity(tensors.len());
    for (name, dtype, shape, bytes) in &tensors {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        views.push((
            name.as_str(),
            view.map_err(|problem| Failure::Failed(format!("tensor `{name}`: {problem}")))?,
        ));
    }
    safetensors::serialize_to_file(views, None, path)
        .map_err(|problem| Failure::file(path, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_a_list_or_stand_under_input_ids() {
        assert_eq!(tokens("[0, 7]").unwrap(), [TokenId(0), TokenId(7)]);
        assert_eq!(tokens(r#"{"input_ids": [3], "case": "x"}"#).unwrap(), [TokenId(3)]);
    }

    #[test]
    fn what_is_no_list_of_ids_is_refused_by_name() {
        assert!(tokens("[0,").unwrap_err().contains("JSON"));
        assert!(tokens("{}").unwrap_err().contains("input_ids"));
        assert!(tokens("[1, -2]").unwrap_err().contains("-2"));
        assert!(tokens("[1, true]").unwrap_err().contains("true"));
        assert!(tokens("[4294967296]").unwrap_err().contains("4294967296"));
    }

    #[test]
    fn what_is_written_reads_back() {
        let tensor = |name: &str, shape, data| TraceTensor { name: name.to_owned(), shape, data };
        let tensors = vec![
            tensor("logits", vec![1, 2], TraceData::F32(vec![1.5, -2.0])),
            tensor("decode_tokens", vec![2], TraceData::I64(vec![4, 5])),
        ];
        let path =
            std::env::temp_dir().join(format!("hadal-logits-{}.safetensors", std::process::id()));
        write(&Trace { tensors }, &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("logits").unwrap().shape(), [1, 2]);
        assert_eq!(
            read.tensor("decode_tokens").unwrap().data(),
            [4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]
        );
        assert!(write(&Trace { tensors: Vec::new() }, Path::new("no-such-folder/x")).is_err());
    }
}
