//! `hadal logits`: a model's numbers for given tokens, as a file, so that a reference that shares no code with us can
//! check them (`cargo xtask golden`, or anybody's script).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use hadal_engine::step::TokenId;
use hadal_engine::trace::{self, Trace, TraceData, TraceOptions, TraceTensor};
use hadal_engine::{DeviceChoice, Limits};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::Value;

use super::locate::locate;
use super::unfinished::Unfinished;
use super::{Failure, Outcome, tell};
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
    #[arg(long, value_name = "N", default_value_t = Limits::default().answer_step_rows_max)]
    pub(crate) step_rows: usize,
    /// How to compute.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// Runs the tokens and writes the tensors.
pub(crate) fn run(args: &LogitsArgs, unfinished: &Unfinished) -> Outcome {
    let model = locate(&args.model)?;
    let text = std::fs::read_to_string(&args.tokens)
        .map_err(|problem| Failure::file(&args.tokens, problem))?;
    let options = TraceOptions {
        tokens: tokens(&text).map_err(|problem| Failure::file(&args.tokens, problem))?,
        n_greedy: args.greedy,
        all: args.trace,
        step_rows: args.step_rows,
        cpu: args.compute.options(),
        cuda: match args.compute.device {
            DeviceChoice::Cuda(ordinal) => Some(ordinal),
            DeviceChoice::Auto | DeviceChoice::Cpu => None,
        },
    };
    let making = unfinished.begin_cache(&model.source, options.cpu.quant);
    let trace = trace::run(&model.source, &options)?;
    drop(making);
    if let Some(warning) = &trace.warning {
        tell(format_args!("warning: {warning}"));
    }
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

/// Writes to whatever stands at the path, a pipe or a device too; a new file gets the mode that any new file gets.
fn write(trace: &Trace, path: &Path) -> Outcome {
    // The wider first: then each tensor is aligned to its elements.
    let (wide, narrow): (Vec<_>, Vec<_>) =
        trace.tensors.iter().partition(|tensor| matches!(tensor.data, TraceData::I64(_)));
    let tensors = [wide, narrow].concat();
    let header = header(&tensors).map_err(|problem| Failure::file(path, problem))?;
    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for tensor in &tensors {
            data(&mut out, &tensor.data)?;
        }
        out.flush()
    };
    write().map_err(|problem| Failure::file(path, problem))
}

/// What a safetensors file begins with: each tensor's dtype, shape and place, and spaces up to a multiple of eight.
fn header(tensors: &[&TraceTensor]) -> Result<Vec<u8>, String> {
    let mut entries = Vec::with_capacity(tensors.len());
    let mut end = 0;
    for TraceTensor { name, shape, data } in tensors {
        let (dtype, bytes) = match data {
            TraceData::F32(values) => (Dtype::F32, size_of_val(values.as_slice())),
            TraceData::I64(values) => (Dtype::I64, size_of_val(values.as_slice())),
        };
        let data_offsets = (end, end + bytes);
        end += bytes;
        entries.push((name.clone(), TensorInfo { dtype, shape: shape.clone(), data_offsets }));
    }
    let metadata = Metadata::new(None, entries).map_err(|problem| problem.to_string())?;
    let mut header = serde_json::to_vec(&metadata).map_err(|problem| problem.to_string())?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// A tensor's elements, little-endian.
fn data(out: &mut impl Write, data: &TraceData) -> std::io::Result<()> {
    match data {
        TraceData::F32(values) => {
            values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
        }
        TraceData::I64(values) => {
            values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

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
        let path = scratch("reads-back");
        write(&trace(tensors), &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let logits = read.tensor("logits").unwrap();
        assert_eq!((logits.dtype(), logits.shape()), (Dtype::F32, &[1, 2][..]));
        assert_eq!(logits.data(), [1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat());
        assert_eq!(
            read.tensor("decode_tokens").unwrap().data(),
            [4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]
        );
        assert!(write(&trace(Vec::new()), Path::new("no-such-folder/x")).is_err());
        let short = vec![tensor("logits", vec![3], TraceData::F32(vec![1.0]))];
        assert!(write(&trace(short), &path).is_err(), "a shape that is not the data's");
    }

    fn trace(tensors: Vec<TraceTensor>) -> Trace {
        Trace { tensors, warning: None }
    }

    /// A path of this process alone.
    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("hadal-logits-{}-{name}", std::process::id()))
    }

    fn small() -> Trace {
        let data = TraceData::F32(vec![1.5]);
        trace(vec![TraceTensor { name: "logits".into(), shape: vec![1], data }])
    }

    #[test]
    fn a_new_file_gets_the_mode_of_any_new_file_and_a_link_is_followed() {
        let (path, other, link) = (scratch("mode"), scratch("other"), scratch("link"));
        File::create(&other).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        write(&small(), &path).unwrap();
        assert_eq!(mode(&path), mode(&other));
        std::os::unix::fs::symlink(&other, &link).unwrap();
        write(&small(), &link).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&other).unwrap(), std::fs::read(&path).unwrap());
        for file in [path, other, link] {
            std::fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn a_pipe_is_written_to_and_stays_a_pipe() {
        let path = scratch("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let read = std::thread::spawn({
            let path = path.clone();
            move || std::fs::read(path).unwrap()
        });
        write(&small(), &path).unwrap();
        assert!(std::fs::metadata(&path).unwrap().file_type().is_fifo());
        std::fs::remove_file(&path).unwrap();
        let bytes = read.join().unwrap();
        assert!(safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor("logits").is_ok());
    }
}
