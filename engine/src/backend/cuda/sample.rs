//! Launches `sample.cu`, and brings its tokens over: the one thing that the host waits for in a step.

use hadal_kernels::abi::SampleParams;
use hadal_kernels::geometry::sample as geometry;

use super::{Buf, Cuda, Number, Plan, check};
use crate::error::Result;
use crate::step::{Sampled, TokenId};

/// Most rows that draw a token in a step: the largest number of sequences there can be.
const SAMPLES_MAX: usize = 1024;
/// Bytes of the counters in front of the tokens.
const COUNTER_BYTES: usize = 16;
/// Bytes of all results.
pub(super) const RESULT_BYTES: usize = COUNTER_BYTES + 4 * SAMPLES_MAX;

/// Draws on the card.
pub(super) fn draw(cuda: &Cuda, logits: &mut Buf, vocab_size: usize, plan: &Plan) -> Result<()> {
    let rows = plan.n_sample.min(SAMPLES_MAX);
    check("sample: logits", logits, Number::F32, plan.n_sample, vocab_size)?;
    let tokens: *mut u8 = cuda.results()?.at_mut();
    let params = SampleParams {
        token: tokens.wrapping_add(COUNTER_BYTES).cast(),
        logits: logits.at_mut(),
        rule: plan.rules(),
        penalty_start: plan.penalty_start(),
        penalty: plan.penalties(),
        bias_start: plan.bias_start(),
        bias: plan.biases(),
        masks: std::ptr::null(),
        n_row: rows as u32,
        vocab_size: vocab_size as u32,
        logits_stride: logits.stride(),
        unused: 0,
    };
    // SAFETY: the kernel's own struct; logits are held to their shape above, and the step's tokens are below the
    // vocabulary.
    unsafe { cuda.device.launch(geometry::sample(&params), &params) }
}

/// The first `n` tokens drawn, and the number of experts touched so far.
pub(super) fn collect(cuda: &Cuda, n: usize, out: &mut Vec<Sampled>) -> Result<u64> {
    let mut bytes = [0u8; RESULT_BYTES];
    let bytes = &mut bytes[..COUNTER_BYTES + 4 * n.min(SAMPLES_MAX)];
    cuda.device.download(cuda.results()?, 0, bytes)?;
    let (counters, tokens) = bytes.split_at(COUNTER_BYTES);
    out.clear();
    out.extend(tokens.chunks_exact(4).map(|token| {
        match u32::from_le_bytes([token[0], token[1], token[2], token[3]]) {
            u32::MAX => Sampled::NotFinite,
            token => Sampled::Token(TokenId(token)),
        }
    }));
    let mut touched = [0; 8];
    touched.copy_from_slice(&counters[..8]);
    Ok(u64::from_le_bytes(touched))
}
