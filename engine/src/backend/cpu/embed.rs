//! Rows of the embedding table.

use super::{Plan, Weight};

/// `y[row] = table[token[row]]`.
pub(super) fn embed(y: &mut [f32], table: &Weight, plan: &Plan) {
    for (token, y) in plan.tokens.iter().zip(y.chunks_mut(table.dim)) {
        table.row(token.0 as usize, y);
    }
}
