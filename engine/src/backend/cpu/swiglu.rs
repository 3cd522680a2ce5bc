//! The gated activation of every MLP.

use super::Cpu;
use super::simd::row::silu_product;

/// Numbers of one task.
const PART: usize = 4096;

/// `y = silu(gate) * up` over `rows * dim` numbers.
pub(super) fn swiglu(
    cpu: &mut Cpu,
    y: &mut [f32],
    gate: &[f32],
    up: &[f32],
    dim: usize,
    rows: usize,
) {
    let (len, isa) = (rows * dim, cpu.isa);
    let part = |task: usize| task * PART..((task + 1) * PART).min(len);
    cpu.pool.run_parts(
        16 * len,
        &mut y[..len],
        &mut cpu.threads,
        len.div_ceil(PART),
        part,
        |task, y, _| {
            let at = part(task);
            silu_product(isa, y, &gate[at.clone()], &up[at]);
        },
    );
}

#[cfg(test)]
mod tests {
    use crate::backend::Backend;
    use crate::backend::cpu::testing::{assert_close, assert_same_bits, backend, numbers, ways};

    #[test]
    fn it_is_silu_of_gate_times_up_on_any_threads() {
        for dim in [1, 17, 64, 4099] {
            let gate: Vec<f32> = numbers(1, 3 * dim).iter().map(|x| x * 20.0).collect();
            let up = numbers(2, 3 * dim);
            let pairs = gate.iter().zip(&up).map(|(g, u)| (f64::from(*g), f64::from(*u)));
            let want: Vec<f64> = pairs.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            for way in ways() {
                let mut one = Vec::new();
                for threads in 1..=3 {
                    let mut cpu = backend(way, threads);
                    let (gate, up) = (cpu.vector(&gate).unwrap(), cpu.vector(&up).unwrap());
                    let mut y = cpu.vector(&vec![9.0; 4 * dim]).unwrap();
                    cpu.swiglu(&mut y, &gate, &up, dim, 3);
                    // An exponential of 2 ulps, a sum, a division, a product.
                    assert_close(&y[..3 * dim], &want, |i| want[i].abs() * 2f64.powi(-21) + 1e-35);
                    assert!(y[3 * dim..].iter().all(|y| *y == 9.0));
                    if threads == 1 {
                        one = y.to_vec();
                    }
                    assert_same_bits(&y, &one);
                }
            }
        }
    }

    #[test]
    fn the_far_ends_are_zero_and_the_identity() {
        let gate = [-1e4, -200.0, -89.0, 0.0, -0.0, 89.0, 200.0, 1e30, f32::NEG_INFINITY, f32::NAN];
        for way in ways() {
            let mut cpu = backend(way, 1);
            let (gate, up) = (cpu.vector(&gate).unwrap(), cpu.vector(&[1.0; 10]).unwrap());
            let mut y = cpu.alloc(1, 10, crate::backend::Role::Inner).unwrap();
            cpu.swiglu(&mut y, &gate, &up, 10, 1);
            assert!(y[..3].iter().all(|y| *y <= 0.0 && *y > -1e-30), "{:?}", &y[..3]);
            assert_eq!(&y[3..8], &[0.0, 0.0, 89.0, 200.0, 1e30]);
            assert!(y[9].is_nan());
        }
    }
}
