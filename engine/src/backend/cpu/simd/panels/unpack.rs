//! Panels back to rows of bf16, for products that want whole tiles of them.

use std::arch::x86_64::{
    __m512, _mm512_and_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_srl_epi32, _mm512_storeu_si512, _mm512_sub_epi32,
};
use std::arch::x86_64::{_mm_cvtsi32_si128, _mm256_storeu_si256};

use super::super::attention::words::{pair, rounded, transpose};
use super::super::groups::Group;
use super::super::{Avx512, Lanes};
use super::formats::{Panel, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, layout};
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

/// Writes the rows of whole panels, `[n_out, dim]`, as bf16: `to [n_out, dim]`, or turned round `to [dim, n_out]`.
///
/// # Panics
/// When lengths disagree, or rows are no whole panels and pairs of groups: a bug of the caller.
pub(in super::super::super) fn unpack(
    dtype: DType,
    panels: &[u8],
    dim: usize,
    way: Way,
    to: &mut [u16],
) {
    let n_out = to.len() / dim.max(1);
    let bytes = Layout::of(dtype).and_then(|layout| layout.panel_bytes(dim)).unwrap_or(0);
    assert!(n_out.is_multiple_of(OUTS) && to.len() == n_out * dim && dim.is_multiple_of(GROUP));
    assert!(panels.len() == n_out / OUTS * bytes, "panels of another shape");
    for (i, panel) in panels.chunks(bytes.max(1)).enumerate() {
        // SAFETY: asked for where the processor has tiles, and AVX-512 with them; lengths checked above.
        unsafe {
            let to = match way {
                Way::Rows => to.as_mut_ptr().add(i * OUTS * dim),
                Way::Turned => to.as_mut_ptr().add(i * OUTS),
            };
            let stride = if way == Way::Rows { dim } else { n_out };
            match dtype {
                DType::Q8_0 => one::<Q8_0>(panel, dim, way, to, stride),
                DType::Q4_0 => one::<Q4_0>(panel, dim, way, to, stride),
                DType::Q5_0 => one::<Q5_0>(panel, dim, way, to, stride),
                DType::Q5_1 => one::<Q5_1>(panel, dim, way, to, stride),
                DType::Q4K => one::<Q4K>(panel, dim, way, to, stride),
                DType::Q5K => one::<Q5K>(panel, dim, way, to, stride),
                DType::Q6K => one::<Q6K>(panel, dim, way, to, stride),
                DType::F32 | DType::Bf16 | DType::F16 | DType::Fp8E4m3 => {}
            }
        }
    }
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

/// # Safety
/// The processor has AVX-512; the panel has rows of `dim` numbers, and `to` room for them, `stride` numbers apart.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
unsafe fn one<P: Panel>(panel: &[u8], dim: usize, way: Way, to: *mut u16, stride: usize) {
    let layout = layout::<P>();
    for group in 0..dim / GROUP {
        let unit = panel[group / layout.groups * layout.unit_bytes()..].as_ptr();
        let within = group % layout.groups;
        // SAFETY: the group is inside its unit.
        unsafe {
            let numbers = unit.add(layout.head_bytes + within * layout.group_bytes);
            let read = P::read::<Avx512>(unit, within, numbers);
            match way {
                Way::Rows => rows::<P>(&read, to.add(group * GROUP), stride),
                Way::Turned => turned::<P>(&read, to.add(group * GROUP * stride), stride),
            }
        }
    }
}

/// Number `k` of a group's sixteen rows.
///
/// # Safety
/// The processor has AVX-512; `k` is below 32.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
unsafe fn number<P: Panel>(group: &P::Group<Avx512>, k: usize) -> __m512 {
    // SAFETY: no memory is touched.
    unsafe {
        let words = P::numbers::<Avx512>(group)[k / 4];
        let bytes = _mm512_srl_epi32(words, _mm_cvtsi32_si128((k % 4 * 8) as i32));
        let bytes = _mm512_and_si512(bytes, _mm512_set1_epi32(255));
        let whole = _mm512_sub_epi32(bytes, _mm512_set1_epi32(i32::from(P::MINUS)));
        let whole = Avx512::to_f32(P::scaled::<Avx512>(whole, group, k));
        P::finish::<Avx512>(_mm512_setzero_ps(), whole, group, &ONE)
    }
}

/// # Safety
/// As [`one`]: 32 numbers of sixteen rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
#[inline]
unsafe fn rows<P: Panel>(group: &P::Group<Avx512>, to: *mut u16, stride: usize) {
    let mut words = [_mm512_setzero_si512(); OUTS];
    // SAFETY: the caller's promise.
    unsafe {
        for (i, words) in words.iter_mut().enumerate() {
            let even = rounded(number::<P>(group, 2 * i));
            *words = pair(even, rounded(number::<P>(group, 2 * i + 1)));
        }
        transpose(&mut words);
        for (row, words) in words.into_iter().enumerate() {
            _mm512_storeu_si512(to.add(row * stride).cast(), words);
        }
    }
}

/// # Safety
/// As [`one`]: 32 rows of sixteen numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
#[inline]
unsafe fn turned<P: Panel>(group: &P::Group<Avx512>, to: *mut u16, stride: usize) {
    for k in 0..GROUP {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_si256(to.add(k * stride).cast(), rounded(number::<P>(group, k))) }
    }
}
