//! The rows that want a token.

use super::Plan;

/// `y[i] = x[sample_rows[i]]`, `dim` numbers each.
pub(super) fn gather_rows(y: &mut [f32], x: &[f32], dim: usize, plan: &Plan) {
    for (row, y) in plan.sample_rows.iter().zip(y.chunks_mut(dim)) {
        y.copy_from_slice(&x[*row as usize * dim..][..dim]);
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::Backend;
    use crate::backend::cpu::testing::{
        EVEN, Sequence, assert_same_bits, backend_for, matrix, numbers, step, ways, width,
    };
    use crate::quant::DType;
    use crate::step::SampleRow;

    #[test]
    fn rows_come_in_the_order_of_the_samples() {
        let mut step = step(&[Sequence { id: 1, before: 0, rows: 9 }], 0);
        step.samples = [8, 0, 3].map(|row| SampleRow::greedy(row, 9)).to_vec();
        let (mut cpu, mut plan) = backend_for(ways()[0], 2, EVEN);
        cpu.begin(&mut plan, &step, crate::backend::Watch::Outcome).unwrap();
        let x = numbers(1, 9 * 13);
        let x_buf = cpu.vector(&x).unwrap();
        let mut y = cpu.vector(&[9.0; 4 * 13]).unwrap();
        cpu.gather_rows(&mut y, &x_buf, 13, &plan);
        let want = [&x[8 * 13..], &x[..13], &x[3 * 13..4 * 13], &[9.0; 13]].concat();
        assert_same_bits(&y, &want);
    }

    #[test]
    fn an_embedding_is_the_tables_row_widened() {
        let step = step(&[Sequence { id: 1, before: 5, rows: 9 }], 0);
        let (mut cpu, mut plan) = backend_for(ways()[0], 2, EVEN);
        cpu.begin(&mut plan, &step, crate::backend::Watch::Outcome).unwrap();
        for dtype in DType::ALL {
            let dim = width(dtype, 33);
            let table = matrix(2, dtype, 20, dim);
            let mut y = cpu.alloc(1, 9 * dim, crate::backend::Role::Inner).unwrap();
            cpu.embed(&mut y, &table.weight, &plan);
            // The step's tokens are its positions.
            let want: Vec<f32> =
                table.values[5 * dim..14 * dim].iter().map(|value| *value as f32).collect();
            assert_same_bits(&y, &want);
        }
    }
}
