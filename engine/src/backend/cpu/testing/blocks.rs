//! GGUF blocks packed from chosen numbers: what a block means is known before it is written, and no decoder is asked.

use super::numbers;
use crate::quant::DType;

/// Whole numbers that a seed decides.
struct Draw(std::vec::IntoIter<f32>);

impl Draw {
    /// 0 to `below - 1`.
    fn next(&mut self, below: u32) -> u32 {
        let x = self.0.next().unwrap();
        (((x * 0.5 + 0.5) * below as f32) as u32).min(below - 1)
    }

    /// `len` numbers below `below`.
    fn list(&mut self, len: usize, below: u32) -> Vec<u32> {
        (0..len).map(|_| self.next(below)).collect()
    }

    /// A half between 2^exponent and twice that: its bytes and its value.
    fn half(&mut self, exponent: i32) -> ([u8; 2], f64) {
        let (steps, minus) = (self.next(1024), self.next(2));
        let bits = (minus << 15) | (((exponent + 15) as u32) << 10) | steps;
        let size = (1.0 + f64::from(steps) / 1024.0) * 2f64.powi(exponent);
        ((bits as u16).to_le_bytes(), if minus == 1 { -size } else { size })
    }
}

/// Writes `value` into bits `at..` of `bytes`, which are zero.
fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at / 8] |= (value << (at % 8)) as u8;
}

/// One seeded block, and what it holds.
pub(super) fn block(seed: u64, dtype: DType) -> (Vec<u8>, Vec<f64>) {
    let mut draw = Draw(numbers(seed, 1024).into_iter());
    match dtype {
        DType::Q8_0 => q8_0(&mut draw),
        DType::Q4_0 => {
            let (d, factor) = draw.half(-4);
            let q = draw.list(32, 16);
            let values = q.iter().map(|q| factor * (f64::from(*q) - 8.0)).collect();
            ([&d[..], &halves(&q, 16)].concat(), values)
        }
        DType::Q5_0 | DType::Q5_1 => q5(&mut draw, dtype),
        DType::Q4K | DType::Q5K => k(&mut draw, dtype),
        DType::Q6K => q6_k(&mut draw),
        _ => panic!("{dtype:?} has no blocks"),
    }
}

/// Lower four bits of each number, `apart` numbers between the two of a byte.
fn halves(q: &[u32], apart: usize) -> Vec<u8> {
    let pair = |pair: &[u32]| -> Vec<u8> {
        (0..apart).map(|i| (pair[i] % 16 + pair[i + apart] % 16 * 16) as u8).collect()
    };
    q.chunks(2 * apart).flat_map(pair).collect()
}

fn q8_0(draw: &mut Draw) -> (Vec<u8>, Vec<f64>) {
    let (d, factor) = draw.half(-8);
    let q = draw.list(32, 256);
    let values = q.iter().map(|q| factor * (f64::from(*q) - 128.0)).collect();
    let q = q.iter().map(|q| (*q as i32 - 128) as i8 as u8);
    (d.into_iter().chain(q).collect(), values)
}

fn q5(draw: &mut Draw, dtype: DType) -> (Vec<u8>, Vec<f64>) {
    let ((d, factor), (m, offset)) = (draw.half(-6), draw.half(-2));
    let q = draw.list(32, 32);
    let mut high = vec![0; 4];
    q.iter().enumerate().for_each(|(i, q)| put(&mut high, i, q / 16));
    let value = |q: &u32| match dtype {
        DType::Q5_0 => factor * (f64::from(*q) - 16.0),
        _ => factor * f64::from(*q) + offset,
    };
    let m = if dtype == DType::Q5_0 { &[] } else { &m[..] };
    ([&d[..], m, &high, &halves(&q, 16)].concat(), q.iter().map(value).collect())
}

fn k(draw: &mut Draw, dtype: DType) -> (Vec<u8>, Vec<f64>) {
    let five = dtype == DType::Q5K;
    let ((d, factor), (m, min_factor)) = (draw.half(if five { -12 } else { -11 }), draw.half(-9));
    let (scales, mins) = (draw.list(8, 64), draw.list(8, 64));
    let q = draw.list(256, if five { 32 } else { 16 });
    let mut packed = vec![0; 12];
    for i in 0..8 {
        let (scale, min) = (scales[i], mins[i]);
        if i < 4 {
            put(&mut packed, i * 8, scale);
            put(&mut packed, (i + 4) * 8, min);
        } else {
            put(&mut packed, (i + 4) * 8, scale % 16);
            put(&mut packed, (i + 4) * 8 + 4, min % 16);
            put(&mut packed, (i - 4) * 8 + 6, scale / 16);
            put(&mut packed, i * 8 + 6, min / 16);
        }
    }
    let mut high = vec![0; if five { 32 } else { 0 }];
    if five {
        q.iter().enumerate().for_each(|(i, q)| put(&mut high, i % 32 * 8 + i / 32, q / 16));
    }
    let value = |(i, q): (usize, &u32)| {
        let (scale, min) = (f64::from(scales[i / 32]), f64::from(mins[i / 32]));
        factor * scale * f64::from(*q) - min_factor * min
    };
    let values = q.iter().enumerate().map(value).collect();
    ([&d[..], &m, &packed, &high, &halves(&q, 32)].concat(), values)
}

fn q6_k(draw: &mut Draw) -> (Vec<u8>, Vec<f64>) {
    let (d, factor) = draw.half(-14);
    let (q, scales) = (draw.list(256, 64), draw.list(16, 256));
    let (mut low, mut high) = (vec![0; 128], vec![0; 64]);
    for (i, q) in q.iter().enumerate() {
        let (half, run, at) = (i / 128, i % 128 / 32, i % 32);
        // Runs 0 and 2 share bytes, and so do 1 and 3.
        let byte = half * 64 + (run % 2) * 32 + at;
        put(&mut low, byte * 8 + if run < 2 { 0 } else { 4 }, q % 16);
        put(&mut high, (half * 32 + at) * 8 + 2 * run, q / 16);
    }
    let value = |(i, q): (usize, &u32)| {
        factor * (f64::from(scales[i / 16]) - 128.0) * (f64::from(*q) - 32.0)
    };
    let values = q.iter().enumerate().map(value).collect();
    let scales: Vec<u8> = scales.iter().map(|s| (*s as i32 - 128) as i8 as u8).collect();
    ([&low[..], &high, &scales, &d].concat(), values)
}
