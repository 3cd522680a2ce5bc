//! Rows of bf16, for products that want whole tiles of them.

use std::arch::x86_64::{_mm256_storeu_si256, _mm512_setzero_si512, _mm512_storeu_si512};

use super::super::formats::Panel;
use super::{Shape, Unpacked, Way, number, read};
use crate::backend::cpu::Isa;
use crate::backend::cpu::simd::Avx512;
use crate::backend::cpu::simd::attention::words::{pair, rounded, transpose};
use crate::quant::panels::{GROUP, OUTS};

impl Unpacked for u16 {
    unsafe fn write<P: Panel>(isa: Isa, panel: &[u8], shape: Shape, to: *mut Self) {
        assert!(isa.multiplies_bf16(), "no bf16 on {}", isa.name());
        // SAFETY: the caller's promise.
        unsafe { one::<P>(panel, shape, to) }
    }
}

/// # Safety
/// The processor has AVX-512; the panel is one of `P`'s, and `to` has room for its rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
unsafe fn one<P: Panel>(panel: &[u8], shape: Shape, to: *mut u16) {
    let stride = shape.stride();
    for group in 0..shape.dim / GROUP {
        // SAFETY: the caller's promise; the group is inside.
        unsafe {
            let read = read::<Avx512, P>(panel, group);
            match shape.way {
                Way::Rows => rows::<P>(&read, to.add(group * GROUP), stride),
                Way::Turned => turned::<P>(&read, to.add(group * GROUP * stride), stride),
            }
        }
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
            let even = rounded(number::<Avx512, P>(group, 2 * i));
            *words = pair(even, rounded(number::<Avx512, P>(group, 2 * i + 1)));
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
        unsafe {
            _mm256_storeu_si256(to.add(k * stride).cast(), rounded(number::<Avx512, P>(group, k)));
        }
    }
}
