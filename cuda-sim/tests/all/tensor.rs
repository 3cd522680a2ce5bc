//! A product on tensor cores: right against f64, and wrong for every mistake in its inline assembly.

use cuda_sim::{Class, Counters, Error, FaultKind, Grid};

use crate::card::{Arg, Card, Random, bf16, from_bf16};

const PTX: &str = include_str!("../kernels/tensor.ptx");
const SHAPE: [usize; 3] = [64, 96, 160];

/// The largest error against f64, over the largest result.
fn run(name: &str) -> Result<(f64, Counters), Error> {
    let [m, n, k] = SHAPE;
    let mut random = Random::new(7);
    let a: Vec<u16> = (0..m * k).map(|_| bf16(random.next_f32())).collect();
    let b: Vec<u16> = (0..k * n).map(|_| bf16(random.next_f32())).collect();
    let mut card = Card::new(PTX);
    let (a_at, b_at) = (card.upload(&a), card.upload(&b));
    let c_at = card.device.alloc((m * n * 4) as u64).unwrap();
    let grid =
        Grid { blocks: [n as u32 / 32, m as u32 / 32, 1], threads: [128, 1, 1], shared_bytes: 0 };
    let args = [
        Arg::Pointer(a_at),
        Arg::Pointer(b_at),
        Arg::Pointer(c_at),
        Arg::U32(n as u32),
        Arg::U32(k as u32),
    ];
    let counters = card.launch(name, grid, &args)?;
    let c: Vec<f32> = card.download(c_at, m * n);
    let (mut error, mut largest) = (0f64, 0f64);
    for row in 0..m {
        for column in 0..n {
            let want: f64 =
                (0..k).map(|i| from_bf16(a[row * k + i]) * from_bf16(b[i * n + column])).sum();
            error = error.max((f64::from(c[row * n + column]) - want).abs());
            largest = largest.max(want.abs());
        }
    }
    Ok((error / largest, counters))
}

#[test]
fn the_product_is_right_and_counts_what_it_moves() {
    let (error, counters) = run("product_right").unwrap();
    // Ten sums of sixteen products, each cut at 24 bits below its largest addend.
    assert!(error < 1e-6, "{error}");
    let [m, n, k] = SHAPE.map(|n| n as u64);
    // Every warp multiplies 16 x 16 by steps of 16: two instructions each.
    assert_eq!(counters.instructions(Class::Mma), m / 16 * (n / 16) * (k / 16) * 2);
    // Each block reads its rows of a and its columns of b once.
    assert_eq!(counters.global_read_bytes, (m / 32) * (n / 32) * (32 * k + 32 * k) * 2);
    assert_eq!(counters.global_read_sectors, counters.global_read_sectors_ideal);
    // Matrix loads have no conflict. A copy's eight lanes fill two rows of 64 bytes, 80 apart: four banks meet twice, for
    // 4 of the 12 passes of a step that a warp would need.
    assert_eq!(counters.shared_wavefronts * 3, counters.shared_wavefronts_ideal * 4);
    assert_eq!(counters.local_bytes, 0);
}

#[test]
fn mistakes_in_the_fragments_show_in_the_result() {
    for name in ["product_swapped_a", "product_swapped_halves", "product_without_trans"] {
        let (error, _) = run(name).unwrap();
        assert!(error > 0.05, "{name} passes with {error}");
    }
}

#[test]
fn a_wait_for_too_few_groups_is_found() {
    let Err(Error::Fault(fault)) = run("product_wrong_wait") else { panic!("not found") };
    assert_eq!(fault.kind, FaultKind::AsyncPending, "{fault}");
}

#[test]
fn rows_without_padding_are_right_and_slow() {
    let (error, counters) = run("product_without_pad").unwrap();
    assert!(error < 1e-6);
    let share = counters.shared_wavefronts as f64 / counters.shared_wavefronts_ideal as f64;
    // Rows of 64 bytes: eight rows of a matrix fall on four bank groups of two.
    assert!(share > 1.5, "{share}");
}
