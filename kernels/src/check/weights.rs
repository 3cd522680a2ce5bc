//! Random matrices in every weight format: as `weight.h` lays them out, and as f64.

use super::{Bench, Random, bf16, from_bf16};
use crate::abi::WeightMatrix;
use crate::{Format, Result};

/// A matrix of seeded numbers.
pub(super) struct Weight {
    n_out: usize,
    n_in: usize,
    /// `[n_out, n_in]`, exactly what the planes say.
    pub(super) values: Vec<f64>,
    quants: Vec<u8>,
    scales: Vec<u8>,
    quant_stride: usize,
    scale_stride: usize,
}

/// e4m3 by its definition: a sign, four bits of exponent with a bias of 7, three of mantissa.
fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
    let size = if exponent == 0 {
        mantissa * 2f64.powi(-6)
    } else {
        (1.0 + mantissa) * 2f64.powi(exponent - 7)
    };
    if code >> 7 == 1 { -size } else { size }
}

/// A normal f16 between 2^-10 and 2^-9, and its number.
fn half(random: &mut Random) -> (u16, f64) {
    let mantissa = random.below(1024) as u16;
    (5 << 10 | mantissa, (1.0 + f64::from(mantissa) / 1024.0) * 2f64.powi(-10))
}

impl Weight {
    /// Numbers of about 0.1, whatever the format.
    pub(super) fn new(random: &mut Random, format: Format, n_out: usize, n_in: usize) -> Self {
        let quant_stride = n_in.next_multiple_of(128);
        let mut weight = Self {
            n_out,
            n_in,
            values: vec![0.0; n_out * n_in],
            quants: Vec::new(),
            scales: Vec::new(),
            quant_stride,
            scale_stride: 0,
        };
        match format {
            Format::Bf16 => weight.fill_bf16(random),
            Format::Fp8 => weight.fill_fp8(random),
            Format::Int8 => weight.fill_groups(random, 32, 8),
            Format::Int4G32 => weight.fill_groups(random, 32, 4),
            Format::Int4G128 => weight.fill_groups(random, 128, 4),
        }
        weight
    }

    /// The same many times over, for launches that nobody checks: it has planes and no values.
    pub(super) fn repeated(random: &mut Random, format: Format, n_out: usize, n_in: usize) -> Self {
        let block = Self::new(random, format, n_out.min(128), n_in.min(1024));
        let Some(planes) = format.planes(n_out, n_in) else { return block };
        let fill = |bytes: &[u8], n: usize| bytes.iter().copied().cycle().take(n).collect();
        Self {
            n_out,
            n_in,
            values: Vec::new(),
            quants: fill(&block.quants, planes.quant_bytes),
            scales: fill(&block.scales, planes.scale_bytes),
            quant_stride: planes.quant_stride,
            scale_stride: planes.scale_stride,
        }
    }

    /// Its sizes, without planes.
    pub(super) fn describe(&self) -> WeightMatrix {
        WeightMatrix {
            quants: std::ptr::null(),
            scales: std::ptr::null(),
            n_out: self.n_out as u32,
            n_in: self.n_in as u32,
            quant_stride: self.quant_stride as u32,
            scale_stride: self.scale_stride as u32,
        }
    }

    /// On the card.
    pub(super) fn upload(&self, bench: &mut Bench<'_>) -> Result<WeightMatrix> {
        let quants = bench.upload(&self.quants)? as *const _;
        let scales = bench.upload(&self.scales)? as *const _;
        Ok(WeightMatrix { quants, scales, ..self.describe() })
    }

    /// `W x`, and the sum of the sizes of its terms, of one row.
    pub(super) fn apply(&self, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let row = |row: &[f64]| {
            let terms = row.iter().zip(x).map(|(w, x)| w * f64::from(*x));
            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
        };
        self.values.chunks(self.n_in).map(row).unzip()
    }

    fn fill_bf16(&mut self, random: &mut Random) {
        self.quants = vec![0; self.n_out * self.quant_stride * 2];
        for at in 0..self.values.len() {
            let code = bf16(random.normal() * 0.1);
            self.values[at] = f64::from(from_bf16(code));
            let place = (at / self.n_in * self.quant_stride + at % self.n_in) * 2;
            self.quants[place..place + 2].copy_from_slice(&code.to_le_bytes());
        }
    }

    fn fill_fp8(&mut self, random: &mut Random) {
        self.scale_stride = self.n_in.div_ceil(128);
        let n_scale = self.n_out.div_ceil(128) * self.scale_stride;
        let scales: Vec<f32> = (0..n_scale).map(|_| 0.01 + 0.005 * random.unit()).collect();
        self.scales = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        self.quants = vec![0; self.n_out * self.quant_stride];
        for at in 0..self.values.len() {
            let (row, column) = (at / self.n_in, at % self.n_in);
            // Every finite code, and small ones more often: else the largest decide alone.
            let code = loop {
                let code = random.below(256) as u8;
                if code & 0x7f != 0x7f && (e4m3(code).abs() < 32.0 || random.below(16) == 0) {
                    break code;
                }
            };
            let scale = scales[row / 128 * self.scale_stride + column / 128];
            self.values[at] = e4m3(code) * f64::from(scale);
            self.quants[row * self.quant_stride + packed_byte(column)] = code;
        }
    }

    fn fill_groups(&mut self, random: &mut Random, group: usize, bits: usize) {
        let (n_segment, n_row) = (self.n_in.div_ceil(128), self.n_out.next_multiple_of(16));
        self.scale_stride = n_row;
        let per_segment = 128 / group;
        let scales: Vec<_> = (0..n_segment * n_row * per_segment).map(|_| half(random)).collect();
        self.scales = scales.iter().flat_map(|(code, _)| code.to_le_bytes()).collect();
        let row_bytes = self.quant_stride * bits / 8;
        self.quants = vec![if bits == 4 { 0x88 } else { 0 }; self.n_out * row_bytes];
        for at in 0..self.values.len() {
            let (row, column) = (at / self.n_in, at % self.n_in);
            let place = (column / 128 * n_row + row) * per_segment + column % 128 / group;
            let scale = scales[place].1;
            if bits == 8 {
                let quant = random.below(256) as u8;
                self.values[at] = f64::from(quant as i8) * scale;
                self.quants[row * row_bytes + packed_byte(column)] = quant;
            } else {
                let quant = random.below(16) as u8;
                self.values[at] = (f64::from(quant) - 8.0) * scale;
                let nibble = packed_nibble(column);
                let byte = &mut self.quants[row * row_bytes + nibble / 2];
                let shift = nibble % 2 * 4;
                *byte = *byte & !(15 << shift) | quant << shift;
            }
        }
    }
}

/// Where a row keeps the byte of a column: in 64 columns, the eight of (j, t) are at 8 * (2 t + j), in the order
/// that brings neighbours to two halves of a word.
fn packed_byte(column: usize) -> usize {
    let (j, t, i) = (column % 64 / 32, column % 32 / 8, column % 8);
    let place = [0, 2, 1, 3, 4, 6, 5, 7].iter().position(|at| *at == i).unwrap_or_default();
    column / 64 * 64 + 8 * (2 * t + j) + place
}

/// Where a row keeps the four bits of a column, counted in fours of bits.
fn packed_nibble(column: usize) -> usize {
    let (j, t, i) = (column % 128 / 32, column % 32 / 8, column % 8);
    let place = [0, 2, 4, 6, 1, 3, 5, 7].iter().position(|at| *at == i).unwrap_or_default();
    column / 128 * 128 + 8 * (4 * t + j) + place
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planes that are filled here by their description, and those that an upload packs.
    #[test]
    fn planes_are_packed_as_they_are_described() {
        for format in Format::ALL {
            for (n_out, n_in) in [(1, 1), (17, 300), (130, 128)] {
                let weight = Weight::new(&mut Random::new(7), format, n_out, n_in);
                let planes = format.planes(n_out, n_in).unwrap();
                assert_eq!(planes.quant_bytes, weight.quants.len(), "{format:?}");
                assert_eq!(planes.scale_bytes, weight.scales.len(), "{format:?}");
                assert_eq!(planes.quant_stride, weight.quant_stride);
                assert_eq!(planes.scale_stride, weight.scale_stride);
                for row in 0..n_out {
                    let want = &weight.quants[row * planes.row_bytes..][..planes.row_bytes];
                    let quants: Vec<u8> = match format {
                        Format::Bf16 => want[..2 * n_in].to_vec(),
                        Format::Fp8 | Format::Int8 => {
                            (0..n_in).map(|column| want[packed_byte(column)]).collect()
                        }
                        Format::Int4G32 | Format::Int4G128 => {
                            let nibble = |at: usize| want[at / 2] >> (at % 2 * 4) & 15;
                            (0..n_in).map(|column| nibble(packed_nibble(column))).collect()
                        }
                    };
                    let mut packed = vec![0x55; planes.row_bytes];
                    planes.pack_row(&quants, &mut packed);
                    assert!(packed == want, "{format:?}, row {row}");
                }
            }
        }
        let int8 = Format::Int8.planes(40, 300).unwrap();
        assert_eq!(int8.scale_place(39, 299), (2 * 48 + 39) * 4 + 1);
        let int4 = Format::Int4G128.planes(40, 300).unwrap();
        assert_eq!(int4.scale_place(39, 299), 2 * 48 + 39);
        let fp8 = Format::Fp8.planes(200, 300).unwrap();
        assert_eq!(fp8.scale_place(130, 299), 3 + 2);
        assert_eq!(Format::Bf16.planes(usize::MAX, 300), None);
    }

    #[test]
    fn packed_places_are_all_places() {
        let mut bytes: Vec<_> = (0..256).map(packed_byte).collect();
        let mut nibbles: Vec<_> = (0..256).map(packed_nibble).collect();
        bytes.sort_unstable();
        nibbles.sort_unstable();
        assert!(bytes.iter().chain(&nibbles).copied().eq((0..256).chain(0..256)));
    }

    #[test]
    fn e4m3_has_its_landmarks() {
        let codes = [0x00, 0x01, 0x08, 0x38, 0x7e, 0xb8];
        let numbers = [0.0, 1.0 / 512.0, 1.0 / 64.0, 1.0, 448.0, -1.0];
        assert_eq!(codes.map(e4m3), numbers);
    }
}
