//! The gated activation of every MLP.

use super::Cpu;

/// Numbers of one task.
const PART: usize = 4096;

/// `silu(gate) * up`, `silu(z) = z / (1 + e^-z)`.
pub(super) fn product(gate: f32, up: f32) -> f32 {
    gate / (1.0 + (-gate).exp()) * up
}

/// `y = silu(gate) * up` over `rows * dim` numbers.
pub(super) fn swiglu(
    cpu: &mut Cpu,
    y: &mut [f32],
    gate: &[f32],
    up: &[f32],
    dim: usize,
    rows: usize,
) {
    let len = rows * dim;
    let part = |task: usize| task * PART..((task + 1) * PART).min(len);
    cpu.pool.run_parts(
        16 * len,
        &mut y[..len],
        &mut cpu.threads,
        len.div_ceil(PART),
        part,
        |task, y, _| {
            let at = part(task);
            for ((y, gate), up) in y.iter_mut().zip(&gate[at.clone()]).zip(&up[at]) {
                *y = product(*gate, *up);
            }
        },
    );
}
