//! What attention on AMX tiles is made of: tiles in memory, their instructions, and the vector code between two products.
//!
//! `TDPBF16PS C, A, B` adds `A [16, 32]` times `B [32, 16]` onto `C [16, 16]`, f32. `A` lies as its rows do; `B` as sixteen
//! rows of words, each two numbers of neighbouring rows. Numbers that are not bf16 enter as pairs, value and remainder
//! (docs/decisions/0004): three products, the one of both remainders left out. Intel 64 and IA-32 Architectures Software
//! Developer's Manual, volume 2.

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_storeu_si256, _mm512_load_si512, _mm512_loadu_si512,
    _mm512_setzero_si512, _mm512_store_si512,
};

use super::super::amx::configure_tiles;
use super::words::{self, SIDE, transpose};

/// bf16 numbers of a row of a tile.
pub(super) const STEP: usize = 32;
/// Bytes from one row of a tile to the next, in a [`Tile`].
pub(super) const ROW_BYTES: usize = 64;

/// A tile in memory: sixteen rows of sixteen words.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Tile(pub(super) [[u32; SIDE]; SIDE]);

impl Tile {
    pub(super) const ZERO: Self = Self([[0; SIDE]; SIDE]);
}

/// A vector's worth of f32.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Lane16(pub(super) [f32; SIDE]);

/// All eight tiles are whole ones.
///
/// # Safety
/// The processor has tiles, and the process may use them.
pub(super) unsafe fn configure() {
    // SAFETY: the caller's promise.
    unsafe { configure_tiles([ROW_BYTES as u16; 8], [SIDE as u8; 8]) }
}

/// Loads a tile from rows `$stride` bytes apart, or from a [`Tile`].
macro_rules! load {
    ($tile:literal, $at:expr) => {
        load!($tile, $at, super::tiles::ROW_BYTES)
    };
    ($tile:literal, $at:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tileloadd ", $tile, ", [{} + {}]"),
            in(reg) $at, in(reg) $stride, options(nostack, readonly)
        )
    };
}

/// Stores a tile into a [`Tile`].
macro_rules! store {
    ($tile:literal, $at:expr) => {
        std::arch::asm!(
            concat!("tilestored [{} + {}], ", $tile),
            in(reg) $at, in(reg) super::tiles::ROW_BYTES, options(nostack)
        )
    };
}

/// `c += a b`.
macro_rules! add {
    ($c:literal, $a:literal, $b:literal) => {
        std::arch::asm!(concat!("tdpbf16ps ", $c, ", ", $a, ", ", $b), options(nostack, nomem))
    };
}

/// Adds two left tiles (4, 5) times two right ones (6, 7) onto four sums (0 to 3), left by right.
macro_rules! add_four {
    () => {
        add!("tmm0", "tmm4", "tmm6");
        add!("tmm1", "tmm4", "tmm7");
        add!("tmm2", "tmm5", "tmm6");
        add!("tmm3", "tmm5", "tmm7");
    };
}

/// Sets tiles to zero.
macro_rules! zero {
    ($($tile:literal)*) => {
        $(std::arch::asm!(concat!("tilezero ", $tile), options(nostack, nomem));)*
    };
}

/// Gives the tiles back.
macro_rules! release {
    () => {
        std::arch::asm!("tilerelease", options(nostack, nomem))
    };
}

pub(super) use {add, add_four, load, release, store, zero};

/// Sixteen rows of 64 bytes, `stride` bytes apart and the rest of them zero, turned into a `B` tile: word `w` of row `r`
/// becomes word `r` of row `w`.
///
/// # Safety
/// `n <= 16` rows of 64 bytes are valid at `from`.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn turn(to: &mut Tile, from: *const u8, stride: usize, n: usize) {
    let mut rows = [_mm512_setzero_si512(); SIDE];
    for (i, row) in rows.iter_mut().enumerate().take(n) {
        // SAFETY: the caller's promise.
        *row = unsafe { _mm512_loadu_si512(from.add(i * stride).cast()) };
    }
    transpose(&mut rows);
    fill(to, &rows);
}

/// Sixteen rows of 32 f32 numbers as two `B` tiles of words of neighbouring numbers: values and remainders. Missing rows
/// are zero.
///
/// # Safety
/// `n <= 16` rows of 32 numbers are valid at `from`, `stride` numbers apart.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
pub(super) unsafe fn split_and_turn(
    (hi, lo): (&mut Tile, &mut Tile),
    from: *const f32,
    stride: usize,
    n: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let rows = (0..n).map(|i| from.wrapping_add(i * stride));
        let [values, rests] = words::split_and_turn(rows);
        fill(hi, &values);
        fill(lo, &rests);
    }
}

/// Writes a tile's rows.
#[target_feature(enable = "avx512f")]
#[inline]
fn fill(tile: &mut Tile, rows: &[__m512i; SIDE]) {
    for (to, row) in tile.0.iter_mut().zip(rows) {
        // SAFETY: a tile's rows are aligned.
        unsafe { _mm512_store_si512(to.as_mut_ptr().cast(), *row) }
    }
}

/// Puts sixteen bf16 numbers into one half of a row of an `A` tile.
///
/// # Safety
/// `row < 16`, `half < 2`.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
pub(super) unsafe fn put(tile: &mut Tile, row: usize, half: usize, numbers: __m256i) {
    // SAFETY: the caller's promise.
    unsafe {
        let at = tile.0.as_mut_ptr().add(row).cast::<__m256i>().add(half);
        _mm256_storeu_si256(at, numbers);
    }
}

/// A row of a tile.
///
/// # Safety
/// `row < 16`.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn row(tile: &Tile, row: usize) -> __m512i {
    // SAFETY: the caller's promise; rows are aligned.
    unsafe { _mm512_load_si512(tile.0.as_ptr().add(row).cast()) }
}
