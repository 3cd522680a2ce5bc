//! `kv_b_proj` in the forms that checkpoints have, and what both attention operations are held to.

use super::{EVEN, Matrix, ODD, matrix};
use crate::backend::cpu::{Cpu, Weight};
use crate::backend::{KvB, MlaShape};
use crate::quant::DType;

/// Latents that are whole blocks of every format.
const BLOCKS: MlaShape = MlaShape { kv_lora_rank: 256, ..ODD };

/// Keys too: the key half's rows are as long as a head's key.
const HALF_BLOCKS: MlaShape = MlaShape { qk_nope_head_dim: 256, ..BLOCKS };

/// A `kv_b_proj` as the backend has it, and its numbers as one matrix.
pub(in super::super) struct TestKvB {
    stored: KvB<Weight>,
    /// The halves, where it is in halves.
    halves: Option<[Matrix; 2]>,
    heads: usize,
    /// `[H * (n + v), c]`; its weight is nobody's.
    pub(in super::super) whole: Matrix,
}

impl TestKvB {
    /// As the operations take it.
    pub(in super::super) fn stored(&self) -> KvB<&Weight> {
        self.stored.as_ref()
    }

    /// Halves in blocks as panels, where every head begins at one.
    pub(in super::super) fn in_panels(&self, cpu: &mut Cpu) -> Option<KvB<Weight>> {
        let [key, value] = self.halves.as_ref()?;
        let is_blocks = [key, value].iter().all(|half| half.weight.dtype.block_len() > 1);
        let (c, v) = (key.n_out / self.heads, value.n_out / self.heads);
        (is_blocks && c.is_multiple_of(16) && v.is_multiple_of(16))
            .then(|| KvB::Halves { key: key.in_panels(cpu), value: value.in_panels(cpu) })
    }

    /// In one matrix.
    pub(in super::super) fn whole(seed: u64, dtype: DType, shape: &MlaShape) -> Self {
        let n_out = shape.n_head * (shape.qk_nope_head_dim + shape.v_head_dim);
        let whole = matrix(seed, dtype, n_out, shape.kv_lora_rank);
        let stored = matrix(seed, dtype, n_out, shape.kv_lora_rank).weight;
        Self { stored: KvB::Whole(stored), halves: None, heads: shape.n_head, whole }
    }

    /// In halves.
    pub(in super::super) fn halves(seed: u64, dtype: DType, shape: &MlaShape) -> Self {
        let (n, v, c) = (shape.qk_nope_head_dim, shape.v_head_dim, shape.kv_lora_rank);
        let key = matrix(seed, dtype, shape.n_head * c, n);
        let value = matrix(seed + 1, dtype, shape.n_head * v, c);
        let mut whole = matrix(seed, DType::F32, shape.n_head * (n + v), c);
        for (row, numbers) in whole.values.chunks_mut(c).enumerate() {
            let (head, i) = (row / (n + v), row % (n + v));
            for (j, number) in numbers.iter_mut().enumerate() {
                *number = match i.checked_sub(n) {
                    None => key.values[(head * c + j) * n + i],
                    Some(i) => value.values[(head * v + i) * c + j],
                };
            }
        }
        let stored = KvB::Halves { key: key.stored(), value: value.stored() };
        Self { stored, halves: Some([key, value]), heads: shape.n_head, whole }
    }
}

/// Shapes with every format, in both forms.
pub(in super::super) fn kv_b_forms(seed: u64) -> Vec<(MlaShape, DType, TestKvB)> {
    let mut forms = Vec::new();
    for dtype in DType::ALL {
        let (shape, half_shape) = match dtype.block_len() {
            1 => (ODD, ODD),
            32 => (EVEN, EVEN),
            _ => (BLOCKS, HALF_BLOCKS),
        };
        forms.push((shape, dtype, TestKvB::whole(seed, dtype, &shape)));
        forms.push((half_shape, dtype, TestKvB::halves(seed, dtype, &half_shape)));
    }
    let fp8 = DType::Fp8E4m3;
    forms.push((EVEN, fp8, TestKvB::whole(seed + 1, fp8, &EVEN)));
    forms.push((EVEN, DType::F32, TestKvB::whole(seed, DType::F32, &EVEN)));
    forms.push((EVEN, DType::Bf16, TestKvB::whole(seed, DType::Bf16, &EVEN)));
    forms.push((EVEN, DType::Bf16, TestKvB::halves(seed, DType::Bf16, &EVEN)));
    forms
}
