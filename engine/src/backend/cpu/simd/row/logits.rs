//! Loops over one row of logits or of their weights: what drawing a token asks of all of them.

use super::{LANES, lanes_sum, larger};
use crate::backend::cpu::Isa;

on_isa! {
    /// Whether all are numbers.
    fn is_finite(x: &[f32]) -> bool = finite;
}

#[inline(always)]
fn finite<const FUSED: bool>(x: &[f32]) -> bool {
    // Without signs, floats are ordered as their bits are, and what is not finite is above all others.
    let size = x.iter().fold(0, |size, x| (x.to_bits() & !SIGN).max(size));
    size < f32::INFINITY.to_bits()
}

/// A number's sign.
const SIGN: u32 = 1 << 31;

/// Numbers of a block of [`lane_maxima`].
pub(in crate::backend::cpu) const BLOCK: usize = LANES * LANES;

on_isa! {
    /// `out[b, i]` is the largest of lane `i` of block `b`, which has the numbers `256 b + i`, `256 b + i + 16`, ...; minus
    /// infinity where it has none. All are numbers.
    fn lane_maxima(out: &mut [f32], x: &[f32]) = maxima;
}

#[inline(always)]
fn maxima<const FUSED: bool>(out: &mut [f32], x: &[f32]) {
    for (out, block) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(x.chunks(BLOCK)) {
        let (vectors, tail) = block.as_chunks::<LANES>();
        let mut best = [f32::NEG_INFINITY; LANES];
        for vector in vectors {
            for i in 0..LANES {
                best[i] = larger(best[i], vector[i]);
            }
        }
        for (i, x) in tail.iter().enumerate() {
            best[i] = larger(best[i], *x);
        }
        *out = best;
    }
}

/// Bounds of [`masses_above`].
const BOUNDS: usize = 8;

on_isa! {
    /// The sums of what is at least `first`, `first / 2`, `first / 4`, ...
    fn masses_above(x: &[f32], first: f32) -> [f32; BOUNDS] = masses;
}

#[inline(always)]
fn masses<const FUSED: bool>(x: &[f32], first: f32) -> [f32; BOUNDS] {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let bounds: [f32; BOUNDS] = std::array::from_fn(|i| first * 0.5f32.powi(i as i32));
    let mut sums = [[0.0f32; LANES]; BOUNDS];
    // So many that they stay in the first-level cache for all bounds.
    for chunks in chunks.chunks(64) {
        for (sums, bound) in sums.iter_mut().zip(bounds) {
            let mut lanes = *sums;
            for chunk in chunks {
                for i in 0..LANES {
                    lanes[i] += if chunk[i] >= bound { chunk[i] } else { 0.0 };
                }
            }
            *sums = lanes;
        }
    }
    for (sums, bound) in sums.iter_mut().zip(bounds) {
        for (sum, x) in sums.iter_mut().zip(tail).filter(|(_, x)| **x >= bound) {
            *sum += x;
        }
    }
    std::array::from_fn(|i| lanes_sum(&sums[i]))
}

on_isa! {
    /// Makes zero of what is below `least`; the sum of the rest.
    fn sum_from(x: &mut [f32], least: f32) -> f32 = kept;
}

#[inline(always)]
fn kept<const FUSED: bool>(x: &mut [f32], least: f32) -> f32 {
    for x in x.iter_mut() {
        *x = if *x >= least { *x } else { 0.0 };
    }
    lanes_sum(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::testing::{numbers, ways};

    #[test]
    fn what_is_not_finite_is_found_wherever_it_is() {
        for way in ways() {
            for n in [1, 15, 16, 17, 40] {
                let row = numbers(3, n);
                assert!(is_finite(way.isa, &row));
                for at in 0..n {
                    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                        let mut row = row.clone();
                        row[at] = bad;
                        assert!(!is_finite(way.isa, &row), "{:?} {n} {at}", way.isa);
                    }
                }
            }
        }
    }

    #[test]
    fn lanes_have_their_largest_and_sums_all_of_them() {
        for way in ways() {
            for n in [1, 15, 16, 17, 40, 256, 1000] {
                let row = numbers(7, n);
                let mut got = vec![0.0; n.div_ceil(BLOCK) * LANES];
                lane_maxima(way.isa, &mut got, &row);
                let mut want = vec![f32::NEG_INFINITY; got.len()];
                for (i, x) in row.iter().enumerate() {
                    let lane = &mut want[i / BLOCK * LANES + i % LANES];
                    *lane = lane.max(*x);
                }
                assert_eq!(got, want);
                let want: f64 = row.iter().copied().map(f64::from).sum();
                let size: f64 = row.iter().copied().map(|x| f64::from(x).abs()).sum();
                // Chains of n / 16 sums, then four more.
                let bound = (n as f64 / 16.0 + 5.0) * 2f64.powi(-24) * size;
                let got = sum_from(way.isa, &mut row.clone(), f32::NEG_INFINITY);
                assert!((f64::from(got) - want).abs() <= bound);
                let mut kept = row.clone();
                let got = sum_from(way.isa, &mut kept, 0.25);
                let least = |x: &f32| if *x >= 0.25 { *x } else { 0.0 };
                assert_eq!(kept, row.iter().map(least).collect::<Vec<_>>());
                let want: f64 = kept.iter().copied().map(f64::from).sum();
                assert!((f64::from(got) - want).abs() <= bound);
                for (i, mass) in masses_above(way.isa, &row, 0.25).into_iter().enumerate() {
                    let above = row.iter().filter(|x| **x >= 0.25 * 0.5f32.powi(i as i32));
                    let want: f64 = above.copied().map(f64::from).sum();
                    assert!((f64::from(mass) - want).abs() <= bound, "{i} of {n}");
                }
            }
        }
    }
}
