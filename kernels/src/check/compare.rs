//! Holding a kernel's numbers to an oracle's.

use super::Plain;
use crate::{Failure, Result};

/// How far a number may be from the oracle's: `relative * |want| + absolute`.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Share of the wanted number.
    pub relative: f64,
    /// Beside that.
    pub absolute: f64,
}

impl Tolerance {
    /// A result rounded to bf16: half a unit in its last place of 2^-8, and as much again for a sum that fell on the
    /// other side of a tie. `absolute` is for sums whose terms cancel: an error there is in proportion to the terms.
    pub fn bf16(absolute: f64) -> Self {
        Self { relative: 1.0 / 256.0, absolute }
    }

    /// A result in f32 after `n` roundings that may add up.
    pub fn f32(n: usize, absolute: f64) -> Self {
        Self { relative: n as f64 * f64::from(f32::EPSILON), absolute }
    }
}

/// Every number within its tolerance; the worst one is named.
///
/// # Errors
/// The place and size of the worst difference.
pub fn close(what: &str, got: &[f32], want: &[f64], tolerance: Tolerance) -> Result<()> {
    if got.len() != want.len() {
        return Err(Failure(format!("{what}: {} numbers, wanted {}", got.len(), want.len())));
    }
    // How many times its tolerance a number is off; a NaN is off without end.
    let off = |i: usize| {
        let allowed = tolerance.relative * want[i].abs() + tolerance.absolute;
        let off = (f64::from(got[i]) - want[i]).abs() / allowed;
        if off.is_nan() { f64::INFINITY } else { off }
    };
    let bad = || (0..got.len()).filter(|i| off(*i) > 1.0);
    let Some(first) = bad().next() else { return Ok(()) };
    let worst = bad().fold(first, |worst, i| if off(i) > off(worst) { i } else { worst });
    Err(Failure(format!(
        "{what}: {} of {} numbers differ, the first at {first}: {}, wanted {}; the worst at {worst}: {}, wanted {}, \
         {:.1} times the tolerance",
        bad().count(),
        got.len(),
        got[first],
        want[first],
        got[worst],
        want[worst],
        off(worst),
    )))
}

/// The same bits.
///
/// # Errors
/// The first place where they differ.
pub fn same<T: Plain + PartialEq + std::fmt::Debug>(
    what: &str,
    got: &[T],
    want: &[T],
) -> Result<()> {
    if got.len() != want.len() {
        return Err(Failure(format!("{what}: {} values, wanted {}", got.len(), want.len())));
    }
    match got.iter().zip(want).position(|(got, want)| got != want) {
        None => Ok(()),
        Some(at) => Err(Failure(format!("{what}: {:?} at {at}, wanted {:?}", got[at], want[at]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_and_named() {
        let tolerance = Tolerance { relative: 0.0, absolute: 0.5 };
        assert!(close("x", &[1.0, 2.0], &[1.2, 2.0], tolerance).is_ok());
        let failure = close("x", &[1.0, 2.0, 9.0], &[1.0, 3.0, 3.0], tolerance).unwrap_err().0;
        assert!(failure.contains("2 of 3") && failure.contains("first at 1"), "{failure}");
        assert!(close("x", &[f32::NAN], &[0.0], tolerance).is_err());
        assert!(close("x", &[1.0], &[f64::NAN], tolerance).is_err());
        assert!(close("x", &[1.0], &[1.0, 1.0], tolerance).is_err());
        assert!(same("x", &[1u32, 2], &[1, 3]).unwrap_err().0.contains("at 1"));
    }
}
