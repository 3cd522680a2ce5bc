//! One row out of a panel, as its stored blocks decode.

use super::DType;
use super::block::factor;
use super::panels::{GROUP, Layout, OUTS, VECTOR};

/// Row `lane` of `panel`, of `out.len()` numbers: the same bits as [`DType::decode`] gives of the row as it was stored.
pub(crate) fn unpack_row(dtype: DType, panel: &[u8], lane: usize, out: &mut [f32]) {
    let Some(layout) = Layout::of(dtype) else { return };
    let units = panel.chunks_exact(layout.unit_bytes());
    for (unit, out) in units.zip(out.chunks_mut(layout.groups * GROUP)) {
        let (head, numbers) = unit.split_at(layout.head_bytes);
        let groups = numbers.chunks_exact(layout.group_bytes);
        for (group, (numbers, out)) in groups.zip(out.chunks_mut(GROUP)).enumerate() {
            let at = Row { dtype, head, group, lane };
            for (i, out) in out.iter_mut().enumerate() {
                *out = at.value(number(dtype, numbers, lane, i), i);
            }
        }
    }
}

/// Number `i` of a group, as it is stored.
fn number(dtype: DType, numbers: &[u8], lane: usize, i: usize) -> u8 {
    let byte = |vector: usize| numbers[vector * VECTOR + lane * 4 + i % 4];
    let vector = i / 4;
    if dtype == DType::Q8_0 {
        return byte(vector);
    }
    let low = (byte(vector % 4) >> (vector / 4 * 4)) & 15;
    match dtype {
        DType::Q5_0 | DType::Q5_1 | DType::Q5K => low | (((byte(4) >> vector) & 1) << 4),
        DType::Q6K => low | (((byte(4 + vector / 4) >> (vector % 4 * 2)) & 3) << 4),
        _ => low,
    }
}

/// A row's factors in one group.
struct Row<'a> {
    dtype: DType,
    head: &'a [u8],
    group: usize,
    lane: usize,
}

impl Row<'_> {
    /// Factor number `index` of the unit.
    fn factor(&self, index: usize) -> f32 {
        factor(self.head, (index * OUTS + self.lane) * 2)
    }

    /// Byte number `index` of the group.
    fn byte(&self, index: usize) -> u8 {
        self.head[VECTOR + (2 * self.group + index) * OUTS + self.lane]
    }

    /// What number `i` of the group is, stored as `q`; in the same order of operations as the formats' own decoders.
    fn value(&self, q: u8, i: usize) -> f32 {
        let number = f32::from(q);
        match self.dtype {
            DType::Q8_0 => self.factor(self.group) * (number - 128.0),
            DType::Q4_0 => self.factor(self.group) * (number - 8.0),
            DType::Q5_0 => self.factor(self.group) * (number - 16.0),
            DType::Q5_1 => self.factor(2 * self.group) * number + self.factor(2 * self.group + 1),
            DType::Q4K | DType::Q5K => {
                let (scale, min) = (f32::from(self.byte(0)), f32::from(self.byte(1)));
                self.factor(0) * scale * number - self.factor(1) * min
            }
            DType::Q6K => {
                let scale = f32::from(self.byte(i / (GROUP / 2)).cast_signed());
                self.factor(0) * scale * (number - 32.0)
            }
            DType::F32 | DType::Bf16 | DType::F16 | DType::Fp8E4m3 => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::panels::pack;
    use super::*;

    #[test]
    fn a_row_comes_back_as_it_was_stored() {
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1) {
            // Rows of one block more than a unit of 64 numbers; any bytes are blocks, but factors must be numbers.
            let dim = 3 * dtype.block_len();
            let row_bytes = dtype.row_bytes(dim).unwrap();
            let mut state = 7u32;
            let mut rows = vec![0u8; 13 * row_bytes];
            for byte in &mut rows {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8 & 0xbf;
            }
            let bytes = Layout::of(dtype).unwrap().panel_bytes(dim).unwrap();
            let mut panel = vec![0xaa; bytes];
            pack(dtype, &rows, dim, &mut panel);
            for (lane, row) in rows.chunks(row_bytes).enumerate() {
                let (mut want, mut got) = (vec![0.0; dim], vec![1.0; dim]);
                dtype.decode(row, &mut want);
                unpack_row(dtype, &panel, lane, &mut got);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got), bits(&want), "{dtype:?}, row {lane}");
            }
        }
    }
}
