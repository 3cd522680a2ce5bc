//! Products at the ends of what numbers may be, where sums of sixteen bits are largest.

use super::*;
use crate::backend::cpu::simd::groups::groups_of;
use crate::backend::cpu::testing::ways;

/// A panel of two units, all numbers `byte`, and factors that are finite.
fn panel_of(dtype: DType, byte: u8) -> (usize, Vec<u8>) {
    let layout = Layout::of(dtype).unwrap();
    let mut panel = vec![byte; 2 * layout.unit_bytes()];
    for unit in panel.chunks_mut(layout.unit_bytes()) {
        for factor in unit[..layout.head_bytes].chunks_mut(2) {
            // 1.0 as f16; as scales in whole numbers 0 and 60.
            factor.copy_from_slice(&0x3c00_u16.to_le_bytes());
        }
    }
    (2 * layout.groups * GROUP, panel)
}

/// The product of a panel with `rows` inputs, by `run`.
fn outputs(
    dtype: DType,
    (dim, panel): (usize, &[u8]),
    rows: usize,
    x: impl Fn(usize) -> f32,
    run: impl Fn(&PanelProduct),
) -> Vec<u32> {
    let rows_of: Vec<Vec<Group>> = (0..rows)
        .map(|row| groups_of(&(0..dim).map(|k| x(row * dim + k)).collect::<Vec<_>>()))
        .collect();
    let (x_stride, x, mut y) = (rows_of[0].len(), rows_of.concat(), vec![0.0_f32; rows * OUTS]);
    let (panels, y_at) = (panel.as_ptr(), y.as_mut_ptr());
    run(&PanelProduct {
        panels,
        next: panels,
        dtype,
        outs: OUTS,
        dim,
        x: x.as_ptr(),
        x_stride,
        rows,
        y: y_at,
        y_stride: OUTS,
    });
    y.iter().map(|y| y.to_bits()).collect()
}

/// Calls a function that has a format as its parameter.
#[cfg(target_arch = "x86_64")]
macro_rules! of_format {
    ($dtype:expr, $run:ident, $p:expr) => {
        match $dtype {
            DType::Q8_0 => $run::<Q8_0>($p),
            DType::Q4_0 => $run::<Q4_0>($p),
            DType::Q5_0 => $run::<Q5_0>($p),
            DType::Q5_1 => $run::<Q5_1>($p),
            DType::Q4K => $run::<Q4K>($p),
            DType::Q5K => $run::<Q5K>($p),
            DType::Q6K => $run::<Q6K>($p),
            _ => unreachable!(),
        }
    };
}

/// What AVX-VNNI runs, with AVX2's instructions.
///
/// # Safety
/// As [`product`] on a processor with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn in_registers<P: Panel>(p: &PanelProduct) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<InRegisters<Avx2, TILE_ROWS_AVX2>, P>(p, Asks::Not) }
}

#[test]
fn the_largest_numbers_give_the_same_bits_on_every_instruction_set() {
    for dtype in DType::ALL.into_iter().filter(|dtype| Layout::of(*dtype).is_some()) {
        // All bits set; of `Q8_0`, whose sign bit is turned, -128 and the smallest sizes too.
        for byte in [0xff, 0, 0x80, 0x7f] {
            let (dim, panel) = panel_of(dtype, byte);
            let signs: [fn(usize) -> f32; 3] =
                [|_| 127.0, |_| -127.0, |i| if i % 5 < 2 { -127.0 } else { 127.0 }];
            for x in signs {
                for rows in [1, 3, 16, 17] {
                    let on = |isa: Isa| {
                        outputs(dtype, (dim, &panel), rows, x, |p| {
                            let mut rooms = Rooms::new((isa, true), 1, dim);
                            let (rooms, len) = rooms.each(1);
                            // SAFETY: one panel, its inputs and outputs; the room is this thread's alone, and half of it
                            // is for tiles.
                            unsafe { product(isa, p, &mut rooms.slice(0, len)[len / 2..]) }
                        })
                    };
                    let want = on(Isa::Portable);
                    for way in ways() {
                        assert!(on(way.isa) == want, "{dtype:?} {byte:#x} {rows} {way:?}");
                    }
                    #[cfg(target_arch = "x86_64")]
                    if Isa::Avx2.is_available() {
                        // SAFETY: as above; the processor has AVX2.
                        let got = outputs(dtype, (dim, &panel), rows, x, |p| unsafe {
                            of_format!(dtype, in_registers, p);
                        });
                        assert!(got == want, "{dtype:?} {byte:#x} {rows} in registers");
                    }
                }
            }
        }
    }
}
