//! Ordinary kernels against plain arithmetic.

use cuda_sim::{Class, Grid};

use crate::card::{Arg, Card, Random, bf16, from_bf16};

const PTX: &str = include_str!("../kernels/scalar.ptx");

#[test]
fn rms_norm_is_within_a_bf16_step_and_reads_what_it_must() {
    let (rows, dim, eps) = (3, 1024, 1e-6f32);
    let mut random = Random::new(1);
    let x: Vec<u16> = (0..rows * dim).map(|_| bf16(random.next_f32() * 3.0)).collect();
    let weight: Vec<u16> = (0..dim).map(|_| bf16(random.next_f32())).collect();
    let mut card = Card::new(PTX);
    let (x_at, w_at) = (card.upload(&x), card.upload(&weight));
    let y_at = card.device.alloc((rows * dim * 2) as u64).unwrap();
    let args = [
        Arg::Pointer(x_at),
        Arg::Pointer(w_at),
        Arg::Pointer(y_at),
        Arg::U32(dim as u32),
        Arg::F32(eps),
    ];
    let counters = card.launch("rms_norm", Grid::flat(rows as u32, 256, 0), &args).unwrap();
    let y: Vec<u16> = card.download(y_at, rows * dim);
    for row in 0..rows {
        let values: Vec<f64> =
            x[row * dim..(row + 1) * dim].iter().map(|x| from_bf16(*x)).collect();
        let mean = values.iter().map(|v| v * v).sum::<f64>() / dim as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        for (i, value) in values.iter().enumerate() {
            let want = value * scale * from_bf16(weight[i]);
            let got = from_bf16(y[row * dim + i]);
            // One rounding to bf16 (2^-8 of the value at most) on top of f32 arithmetic.
            assert!(
                (got - want).abs() <= want.abs() * 0.003_92 + 1e-30,
                "row {row} at {i}: {got}, wanted {want}"
            );
        }
    }
    // x twice, the weights once a row, in 2-byte steps of neighbours: no sector too many.
    assert_eq!(counters.global_read_bytes, (rows * dim * 6) as u64);
    assert_eq!(counters.global_write_bytes, (rows * dim * 2) as u64);
    assert_eq!(counters.global_read_sectors, counters.global_read_sectors_ideal);
    assert_eq!((counters.blocks, counters.barriers), (3, 3));
    assert_eq!(counters.instructions(Class::Mma), 0);
    assert_eq!(counters.local_bytes, 0);
}

#[test]
fn the_mathematical_functions_are_near_their_values() {
    let x: Vec<f32> = (0..200).map(|n| (n as f32 - 100.0) * 0.073 + 0.001).collect();
    let mut card = Card::new(PTX);
    let (x_at, out_at) = (card.upload(&x), card.device.alloc(200 * 12 * 4).unwrap());
    let args = [Arg::Pointer(x_at), Arg::Pointer(out_at), Arg::U32(200)];
    card.launch("functions", Grid::flat(2, 128, 0), &args).unwrap();
    let out: Vec<f32> = card.download(out_at, 200 * 12);
    for (x, got) in x.iter().zip(out.chunks_exact(12)) {
        let v = f64::from(*x);
        let want = [
            v.exp(),
            (v.abs() + 0.5).ln(),
            v.sin(),
            v.cos(),
            v.tanh(),
            v.abs().sqrt(),
            (v.abs() + f64::from(0.1f32)).powf(1.5),
            1.0 / (1.0 + (-v).exp()),
            v / 3.0,
            v % f64::from(0.7f32),
        ];
        for (f, (got, want)) in got.iter().zip(want).enumerate() {
            let error = (f64::from(*got) - want).abs();
            assert!(error <= want.abs() * 1e-6 + 3e-7, "function {f} of {x}: {got}, wanted {want}");
        }
        assert!((f64::from(got[11]) - v.abs().ln_1p()).abs() <= 1e-6);
    }
    // The error function's known value at 1.
    let one = card.upload(&[1f32]);
    card.launch(
        "functions",
        Grid::flat(1, 32, 0),
        &[Arg::Pointer(one), Arg::Pointer(out_at), Arg::U32(1)],
    )
    .unwrap();
    let got: Vec<f32> = card.download(out_at, 12);
    assert!((got[10] - 0.842_700_8).abs() < 1e-6);
}

/// What the kernel `integers` computes, in Rust's words.
fn integers(x: u32, y: u32) -> [u32; 20] {
    let (sx, sy) = (x as i32, y as i32);
    let wide = u64::from(x) << 32 | u64::from(y);
    let bytes: Vec<u8> = x.to_le_bytes().into_iter().chain(y.to_le_bytes()).collect();
    let dot: i32 = (0..4).map(|n| i32::from(bytes[n] as i8) * i32::from(bytes[n + 4] as i8)).sum();
    let both = u64::from(y) << 32 | u64::from(x);
    [
        x / (y | 1),
        sx.wrapping_rem((y | 1) as i32) as u32,
        (u64::from(x) * u64::from(y) >> 32) as u32,
        (i64::from(sx) * i64::from(sy) >> 32) as u32,
        x.count_ones(),
        x.leading_zeros(),
        x.reverse_bits(),
        u32::from_le_bytes([bytes[5], bytes[1], bytes[7], bytes[3]]),
        (both << (x & 31) >> 32) as u32,
        (both >> (y & 31)) as u32,
        x >> (y & 7) & 0x1f | y << 9,
        dot.wrapping_add(7) as u32,
        if x == 0 { 0 } else { x.trailing_zeros() + 1 },
        (wide / (u64::from(y) + 3) >> 3) as u32,
        (wide.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32,
        (x & y) ^ (!x | y) ^ (x << 3),
        (sx >> (y & 31)) as u32,
        (sx.min(sy) as u32).wrapping_add(x.max(y)),
        (x as i8 as u32).wrapping_add(u32::from((y >> 3) as u16)),
        (u128::from(wide) * u128::from(!wide) >> 64) as u32,
    ]
}

#[test]
fn integer_instructions_are_exact() {
    let mut random = Random::new(2);
    let mut a: Vec<u32> = (0..500).map(|_| random.next_u32()).collect();
    let mut b: Vec<u32> = (0..500).map(|_| random.next_u32() >> (random.next_u32() % 32)).collect();
    a[..6].copy_from_slice(&[0, 1, u32::MAX, 0x8000_0000, 0x7fff_ffff, 0]);
    b[..6].copy_from_slice(&[0, u32::MAX, u32::MAX, 2, 31, 32]);
    let mut card = Card::new(PTX);
    let (a_at, b_at, out_at) =
        (card.upload(&a), card.upload(&b), card.device.alloc(500 * 80).unwrap());
    let args = [Arg::Pointer(a_at), Arg::Pointer(b_at), Arg::Pointer(out_at), Arg::U32(500)];
    card.launch("integers", Grid::flat(4, 128, 0), &args).unwrap();
    let out: Vec<u32> = card.download(out_at, 500 * 20);
    for (n, got) in out.chunks_exact(20).enumerate() {
        assert_eq!(*got, integers(a[n], b[n]), "of {:#x} and {:#x}", a[n], b[n]);
    }
}

#[test]
fn atomics_count_every_thread() {
    let mut random = Random::new(3);
    let x: Vec<u8> = (0..3000).map(|_| random.next_u32() as u8).collect();
    let mut card = Card::new(PTX);
    let (x_at, out_at) = (card.upload(&x), card.upload(&[0u32; 256]));
    let args = [Arg::Pointer(x_at), Arg::Pointer(out_at), Arg::U32(3000)];
    card.launch("histogram", Grid::flat(3, 96, 0), &args).unwrap();
    let mut want = [0u32; 256];
    for x in &x {
        want[usize::from(*x)] += 1;
    }
    assert_eq!(card.download::<u32>(out_at, 256), want);
}

#[test]
fn narrow_formats_convert_and_compute() {
    let x = [0.3f32, -1.7, 100.0, 1e-3, 600.0, -0.02];
    // The e4m3 values nearest to them, from the format's definition: 3 bits behind the leading one, steps of 2^-9 below 2^-6.
    let eight = [0.3125f32, -1.75, 96.0, 0.001_953_125, 448.0, -0.019_531_25];
    let mut card = Card::new(PTX);
    let (x_at, out_at) = (card.upload(&x), card.device.alloc(6 * 16).unwrap());
    let args = [Arg::Pointer(x_at), Arg::Pointer(out_at), Arg::U32(6)];
    card.launch("narrow", Grid::flat(1, 32, 0), &args).unwrap();
    let out: Vec<f32> = card.download(out_at, 24);
    for (n, got) in out.chunks_exact(4).enumerate() {
        let v = f64::from(x[n]);
        assert_eq!(got[0], eight[n], "e4m3 of {v}");
        let near = |got: f32, want: f64, step: f64| {
            (f64::from(got) - want).abs() <= want.abs() * step + 1e-7
        };
        // f16 overflows to infinity at 600 squared.
        assert!(near(got[1], v * v + 1.0, 0.002) || got[1].is_infinite() && v == 600.0, "{got:?}");
        let b = from_bf16(bf16(x[n]));
        assert_eq!(f64::from(got[2]), from_bf16(bf16((b * b + b) as f32)), "bf16 of {v}");
        let third = from_bf16(bf16(0.3));
        assert_eq!(f64::from(got[3]), from_bf16(bf16((b * third) as f32)), "bf16 of {v}");
    }
}

#[test]
fn every_space_holds_its_own() {
    let x: Vec<i32> = (0..64).map(|n| n * 7 % 11).collect();
    let mut card = Card::new(PTX);
    let (x_at, out_at) = (card.upload(&x), card.device.alloc(256).unwrap());
    let counters = card
        .launch("spaces", Grid::flat(1, 64, 256), &[Arg::Pointer(x_at), Arg::Pointer(out_at)])
        .unwrap();
    let table = [0.5f32, -1.0, 2.0, 8.0];
    let dynamic: Vec<f32> = (0..64)
        .map(|t| {
            let i = (x[t] & 7) as usize;
            table[(i + t) % 4] * i as f32
        })
        .collect();
    let above = x.iter().filter(|x| **x > 2).count() as f32;
    let got: Vec<f32> = card.download(out_at, 64);
    for t in 0..64 {
        let odd = x[t / 32 * 32..][..32].iter().filter(|x| **x & 1 == 1).count() as f32;
        let generic = if t % 2 == 1 { dynamic[t % 4] } else { table[t % 4] };
        assert_eq!(
            got[t],
            dynamic[63 - t] + odd * 100.0 + above * 10_000.0 + generic,
            "thread {t}"
        );
    }
    assert!(counters.local_bytes > 0);
}

#[test]
fn lanes_part_and_come_together() {
    let x: Vec<u32> = (0..64).map(|n| n * 37 % 97 + 1).collect();
    let steps: Vec<u32> = x
        .iter()
        .map(|x| {
            let (mut v, mut n) = (*x, 0);
            while v != 1 {
                v = if v % 2 == 1 { 3 * v + 1 } else { v / 2 };
                n += 1;
            }
            n
        })
        .collect();
    let mut card = Card::new(PTX);
    let (x_at, out_at) = (card.upload(&x), card.device.alloc(512).unwrap());
    card.launch("divergent", Grid::flat(1, 64, 0), &[Arg::Pointer(x_at), Arg::Pointer(out_at)])
        .unwrap();
    let out: Vec<u32> = card.download(out_at, 128);
    for t in 0..64 {
        let warp = &steps[t / 32 * 32..][..32];
        let rank = warp.iter().filter(|s| **s < steps[t]).count() as u32;
        let most = warp.iter().max().unwrap();
        assert_eq!(out[2 * t..2 * t + 2], [steps[t], rank + 1000 * most], "thread {t}");
    }
}
