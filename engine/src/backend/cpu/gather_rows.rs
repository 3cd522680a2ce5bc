//! The rows that want a token.

use super::Plan;

/// `y[i] = x[sample_rows[i]]`, `dim` numbers each.
pub(super) fn gather_rows(y: &mut [f32], x: &[f32], dim: usize, plan: &Plan) {
    for (row, y) in plan.sample_rows.iter().zip(y.chunks_mut(dim)) {
        y.copy_from_slice(&x[*row as usize * dim..][..dim]);
    }
}
