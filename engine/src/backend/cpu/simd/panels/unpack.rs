//! Panels back to rows: numbers as stored blocks decode, for products that take no panels.
//!
//! A number is its group's product with the number one. Whole numbers times scales are exact, so one rounding remains, that
//! of the blocks' own decoders; only a zero has no sign.

#[cfg(target_arch = "x86_64")]
mod halves;

use super::formats::{Panel, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::backend::cpu::Isa;
use crate::backend::cpu::simd::groups::Group;
use crate::backend::cpu::simd::ints::Ints;
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::{Avx2, Avx512};
use crate::backend::cpu::simd::{LANES, Portable};
use crate::quant::DType;
use crate::quant::panels::{GROUP, Layout, OUTS};

/// Which way a panel's rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super::super) enum Way {
    /// Row after row.
    Rows,
    /// Turned round: number `k` of all rows side by side in row `k`.
    Turned,
}

/// Rows of panels and where they go, `[n_out, dim]` or turned round `[dim, n_out]`.
#[derive(Clone, Copy)]
pub(in super::super::super) struct Shape {
    n_out: usize,
    dim: usize,
    way: Way,
}

impl Shape {
    /// Of `len` numbers.
    ///
    /// # Panics
    /// When lengths disagree, or rows are no whole panels and groups: a bug of the caller.
    fn new(dtype: DType, panels: &[u8], dim: usize, way: Way, len: usize) -> Self {
        let n_out = len / dim.max(1);
        assert!(n_out.is_multiple_of(OUTS) && len == n_out * dim && dim.is_multiple_of(GROUP));
        let bytes = Layout::of(dtype).and_then(|layout| layout.panel_bytes(dim)).unwrap_or(0);
        assert!(panels.len() == n_out / OUTS * bytes, "panels of another shape");
        Self { n_out, dim, way }
    }

    /// Numbers before those of panel `index`.
    fn first(self, index: usize) -> usize {
        index * OUTS * if self.way == Way::Rows { self.dim } else { 1 }
    }

    /// Numbers from one line of the result to the next.
    fn stride(self) -> usize {
        if self.way == Way::Rows { self.dim } else { self.n_out }
    }
}

/// What rows are unpacked to: f32, or rounded to bf16 where the processor multiplies that.
pub(in super::super::super) trait Unpacked: Sized {
    /// Writes the rows of one panel.
    ///
    /// # Safety
    /// The processor has `isa`; `panel` is one of `P`'s, and `to` has room for its rows.
    unsafe fn write<P: Panel>(isa: Isa, panel: &[u8], shape: Shape, to: *mut Self);
}

/// Writes the rows of whole panels, `[n_out, dim]`: `to [n_out, dim]`, or turned round `to [dim, n_out]`.
///
/// # Panics
/// When lengths disagree, rows are no whole panels and groups, or bf16 is wanted where the processor does not multiply it: a
/// bug of the caller.
pub(in super::super::super) fn unpack<T: Unpacked>(
    isa: Isa,
    dtype: DType,
    panels: &[u8],
    dim: usize,
    way: Way,
    to: &mut [T],
) {
    let shape = Shape::new(dtype, panels, dim, way, to.len());
    let each = (panels.len() / (shape.n_out / OUTS).max(1)).max(1);
    for (i, panel) in panels.chunks(each).enumerate() {
        // SAFETY: lengths checked above; `isa` was checked when the backend was made.
        unsafe {
            let to = to.as_mut_ptr().add(shape.first(i));
            match dtype {
                DType::Q8_0 => T::write::<Q8_0>(isa, panel, shape, to),
                DType::Q4_0 => T::write::<Q4_0>(isa, panel, shape, to),
                DType::Q5_0 => T::write::<Q5_0>(isa, panel, shape, to),
                DType::Q5_1 => T::write::<Q5_1>(isa, panel, shape, to),
                DType::Q4K => T::write::<Q4K>(isa, panel, shape, to),
                DType::Q5K => T::write::<Q5K>(isa, panel, shape, to),
                DType::Q6K => T::write::<Q6K>(isa, panel, shape, to),
                DType::F32 | DType::Bf16 | DType::F16 | DType::Fp8E4m3 => {}
            }
        }
    }
}

impl Unpacked for f32 {
    unsafe fn write<P: Panel>(isa: Isa, panel: &[u8], shape: Shape, to: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 | Isa::AvxVnni => avx2::<P>(panel, shape, to),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Amx => avx512::<P>(panel, shape, to),
                _ => one::<Portable, P>(panel, shape, to),
            }
        }
    }
}

/// # Safety
/// As [`Unpacked::write`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<P: Panel>(panel: &[u8], shape: Shape, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { one::<Avx2, P>(panel, shape, to) }
}

/// # Safety
/// As [`Unpacked::write`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn avx512<P: Panel>(panel: &[u8], shape: Shape, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { one::<Avx512, P>(panel, shape, to) }
}

/// # Safety
/// As [`Unpacked::write`].
#[inline(always)]
unsafe fn one<L: Ints, P: Panel>(panel: &[u8], shape: Shape, to: *mut f32) {
    let stride = shape.stride();
    for group in 0..shape.dim / GROUP {
        // SAFETY: the caller's promise; the group is inside.
        unsafe {
            let read = read::<L, P>(panel, group);
            let mut turned = [[0.0f32; LANES]; GROUP];
            for (k, turned) in turned.iter_mut().enumerate() {
                let at = match shape.way {
                    Way::Rows => turned.as_mut_ptr(),
                    Way::Turned => to.add((group * GROUP + k) * stride),
                };
                L::store(at, number::<L, P>(&read, k));
            }
            if shape.way == Way::Rows {
                for row in 0..OUTS {
                    let to = to.add(row * stride + group * GROUP);
                    for (k, turned) in turned.iter().enumerate() {
                        *to.add(k) = turned[row];
                    }
                }
            }
        }
    }
}

/// Group number `group` of a panel.
///
/// # Safety
/// It is inside, and the processor has `L`.
#[inline(always)]
unsafe fn read<L: Ints, P: Panel>(panel: &[u8], group: usize) -> P::Group<L> {
    let layout = P::LAYOUT;
    let unit = panel[group / layout.groups * layout.unit_bytes()..].as_ptr();
    let within = group % layout.groups;
    // SAFETY: the group is inside its unit.
    unsafe { P::read::<L>(unit, within, unit.add(layout.head_bytes + within * layout.group_bytes)) }
}

/// What a product with the number one is: the weight itself.
const ONE: Group = Group {
    q: [0; GROUP],
    scale: 1.0,
    mass: 1.0,
    minus_8: 0,
    minus_16: 0,
    minus_128: 0,
    minus_32: [0; 2],
};

/// One of four numbers each.
static ONES: [[i8; 4]; 4] = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];

/// Number `k` of a group's sixteen rows.
///
/// # Safety
/// The processor has `L`; `k` is below 32.
#[inline(always)]
unsafe fn number<L: Ints, P: Panel>(group: &P::Group<L>, k: usize) -> L::V {
    // SAFETY: the caller's promise.
    unsafe {
        let (minus, one) = (L::splat_int(-i32::from(P::MINUS)), &raw const ONES[k % 4]);
        let whole = L::dot_wide(minus, P::numbers::<L>(group)[k / 4], one);
        let whole = L::to_f32(P::scaled::<L>(whole, group, k));
        P::finish::<L>(L::splat(0.0), whole, group, &ONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::testing::ways;
    use crate::quant::bf16;
    use crate::quant::panels::pack;

    #[test]
    fn rows_come_back_as_their_blocks_decode() {
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1) {
            // Three groups where a unit has two, more than a unit where it has more.
            let (dim, n_out) = (3 * dtype.block_len(), 2 * OUTS);
            let row_bytes = dtype.row_bytes(dim).unwrap();
            let mut state = 5u32;
            let mut rows = vec![0u8; n_out * row_bytes];
            for byte in &mut rows {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8 & 0xbf;
            }
            let panel_bytes = Layout::of(dtype).unwrap().panel_bytes(dim).unwrap();
            let mut panels = vec![0; 2 * panel_bytes];
            let each = rows.chunks(OUTS * row_bytes).zip(panels.chunks_mut(panel_bytes));
            each.for_each(|(rows, panel)| pack(dtype, rows, dim, panel));
            let mut want = vec![0.0; n_out * dim];
            let each = rows.chunks(row_bytes).zip(want.chunks_mut(dim));
            each.for_each(|(row, want)| dtype.decode(row, want));
            for isa in ways().into_iter().map(|way| way.isa) {
                for way in [Way::Rows, Way::Turned] {
                    let mut got = vec![9.0f32; n_out * dim];
                    unpack(isa, dtype, &panels, dim, way, &mut got);
                    #[cfg(target_arch = "x86_64")]
                    if isa.multiplies_bf16() {
                        let mut halves = vec![9u16; n_out * dim];
                        unpack(isa, dtype, &panels, dim, way, &mut halves);
                        let want: Vec<u16> = got.iter().map(|x| bf16::from_f32(*x)).collect();
                        assert!(halves == want, "{dtype:?} {way:?} in bf16");
                    }
                    for (row, want) in want.chunks(dim).enumerate() {
                        for (k, want) in want.iter().enumerate() {
                            let at = if way == Way::Rows { row * dim + k } else { k * n_out + row };
                            // A sum with zero takes away the sign of a zero.
                            let (got, want) = (got[at].to_bits(), (want + 0.0).to_bits());
                            assert_eq!(got, want, "{dtype:?} {isa:?} {way:?}, {row}, {k}");
                        }
                    }
                }
            }
        }
    }
}
