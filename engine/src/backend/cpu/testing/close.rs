//! Numbers held to an oracle, or to each other.

/// Holds every number to its oracle; says which is worst.
#[track_caller]
pub(in super::super) fn assert_close(got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len());
    let off = |i: usize| (f64::from(got[i]) - want[i]).abs() / bound(i);
    // NaN compares false with everything: look for what is not within its bound.
    if let Some(first) = (0..got.len()).find(|i| off(*i).is_nan() || off(*i) > 1.0) {
        let worst = (0..got.len()).map(off).fold(0.0, f64::max);
        panic!(
            "at {first}: got {}, want {}, bound {:e}; worst is {worst} bounds off",
            got[first],
            want[first],
            bound(first)
        );
    }
}

/// Holds all numbers together to their oracle: the error's length within `share` of the oracle's own.
#[track_caller]
pub(in super::super) fn assert_near(got: &[f32], want: &[f64], share: f64) {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    let size: f64 = want.iter().map(|w| w * w).sum();
    let off = (error / size).sqrt();
    assert!(off < share, "{off} of the oracle's length off, bound {share}");
}

/// The same bits, NaN included.
#[track_caller]
pub(in super::super) fn assert_same_bits(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let differs = (0..got.len()).find(|i| got[*i].to_bits() != want[*i].to_bits());
    if let Some(i) = differs {
        panic!("at {i} of {}: {:e} and {:e} differ in bits", got.len(), got[i], want[i]);
    }
}
