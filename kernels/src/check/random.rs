//! Seeded numbers, and rows of them as they lie on a card.

/// A number's nearest bf16, ties to even.
pub fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The number of a bf16.
pub fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Numbers that a seed alone decides (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for every seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// A number in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// About normal, variance 1: the sum of twelve even numbers.
    pub fn normal(&mut self) -> f32 {
        (0..6).map(|_| self.unit() + self.unit()).sum::<f32>() / 2.0
    }

    /// `n` of those.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// Rows of `dim` numbers, `stride` apart, zero behind `dim`.
#[derive(Debug, Clone)]
pub struct Rows {
    /// How many.
    pub n: usize,
    /// Numbers in a row.
    pub dim: usize,
    /// Places from one row to the next.
    pub stride: usize,
    /// `[n, stride]`.
    pub values: Vec<f32>,
}

impl Rows {
    /// Zeros.
    pub fn zero(n: usize, dim: usize, stride: usize) -> Self {
        Self { n, dim, stride, values: vec![0.0; n * stride] }
    }

    /// Normal numbers times `scale`.
    pub fn normal(random: &mut Random, n: usize, dim: usize, stride: usize, scale: f32) -> Self {
        let mut rows = Self::zero(n, dim, stride);
        for row in 0..n {
            rows.row_mut(row).iter_mut().for_each(|x| *x = random.normal() * scale);
        }
        rows
    }

    /// The same with every number as bf16 has it.
    #[must_use]
    pub fn rounded(mut self) -> Self {
        self.values.iter_mut().for_each(|x| *x = from_bf16(bf16(*x)));
        self
    }

    /// One row's numbers.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride..][..self.dim]
    }

    /// One row's numbers, to be changed.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.stride..][..self.dim]
    }

    /// As the card has them in bf16.
    pub fn as_bf16(&self) -> Vec<u16> {
        self.values.iter().map(|x| bf16(*x)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_the_nearest_and_ties_to_even() {
        // Two ties, and a number just above the first.
        let step = 1.0 / 128.0;
        for (x, want) in [
            (1.0, 0x3f80),
            (1.0 + 0.5 * step, 0x3f80),
            (1.0 + 0.51 * step, 0x3f81),
            (1.0 + 1.5 * step, 0x3f82),
            (-2.0, 0xc000),
        ] {
            assert_eq!(bf16(x), want, "{x}");
        }
        assert!(from_bf16(bf16(f32::NAN)).is_nan());
        assert_eq!(from_bf16(bf16(f32::MAX)), f32::INFINITY);
    }
}
