//! Every bit comes back; and numbers of all kinds, for other tests.

use super::*;

fn numbers(seed: u64, n: usize) -> Vec<u16> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..n).map(|_| (next() >> 20) as u16).collect()
}

/// Exponents of weights, mostly, and any others between.
pub(crate) fn mixed(seed: u64, n: usize) -> Vec<u16> {
    let all = numbers(seed, n).into_iter().enumerate();
    all.map(|(i, x)| if i % 97 == 5 { x } else { (x & 0x83ff) | 0x3c00 }).collect()
}

#[test]
fn every_bit_of_every_number_comes_back() {
    for (n_row, dim) in [(16, 128), (16, 300), (3, 257), (1, 1), (16, 2048)] {
        for numbers in [mixed(dim as u64, n_row * dim), numbers(3, n_row * dim)] {
            let rows: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            let mut panel = vec![1; panel_bytes(dim).unwrap()];
            let mut strays = Vec::new();
            pack(&rows, dim, &mut panel, &mut strays);
            assert!(strays.is_sorted());
            for (lane, row) in numbers.chunks(dim).enumerate() {
                let mut out = vec![0.0; dim];
                unpack_row(&panel, &strays, lane, &mut out);
                let back: Vec<u32> = out.iter().map(|x| x.to_bits() >> 16).collect();
                assert!(back.iter().zip(row).all(|(got, want)| *got == u32::from(*want)));
            }
        }
    }
}

#[test]
fn few_weights_are_strays() {
    // A sum of twelve is nearly normal.
    let sums: Vec<f32> = numbers(9, 12 * 16 * 2048)
        .chunks(12)
        .map(|x| x.iter().map(|x| f32::from(*x) / 65536.0 - 0.5).sum::<f32>() * 0.02)
        .collect();
    let rows: Vec<u8> = sums.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
    let (mut panel, mut strays) = (vec![0; panel_bytes(2048).unwrap()], Vec::new());
    pack(&rows, 2048, &mut panel, &mut strays);
    assert!(strays.len() < 32768 / 1000, "{} strays", strays.len());
}

#[test]
fn a_matrix_of_few_numbers_or_of_any_exponents_is_not_worth_it() {
    assert!(!is_smaller(64, 64) && !is_smaller(3, 2048) && is_smaller(1408, 2048));
    assert_eq!(bytes(1408, 2048), Some(88 * (64 + 16 * 3072)));
    assert_eq!(bytes(usize::MAX, 2048), None);
    assert!(is_worth_it(512, 32768) && !is_worth_it(513, 32768));
}

#[test]
fn strays_of_panels_are_found_again() {
    let stray = |at| Stray { at, bits: 7 };
    let some = vec![(3, vec![stray(1)]), (0, vec![stray(5), stray(9)])];
    let strays = Strays::new(5, some).unwrap();
    assert_eq!(strays.of(0), [stray(5), stray(9)]);
    assert_eq!(strays.of(3), [stray(1)]);
    assert!([1, 2, 4, 5, 99].into_iter().all(|panel| strays.of(panel).is_empty()));
}
