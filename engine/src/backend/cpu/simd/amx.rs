//! bf16 matrices on AMX tiles, inputs as one bf16 number each or two.
//!
//! `tdpbf16ps` multiplies a tile of 16 x 32 weights with a tile of 32 x 16 inputs in 16 cycles, sixteen times what
//! `vdpbf16ps` does. Weights are the left tile, read where they lie: sixteen matrix rows of 32 weights, a cache line
//! each. Inputs are the right tile: pairs of neighbouring numbers of up to sixteen inputs side by side, so they are
//! written once a product in columns ([`Columns`]).
//!
//! An output is one chain of sums, 32 weights at a time, values before remainders; it does not depend on what else is
//! in the tile. Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, `TDPBF16PS`; subnormal numbers
//! count as zero there, as they do in `vdpbf16ps`.

use std::arch::asm;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::narrow::Narrow;
use super::pair_rows::Parts;
use super::product::Product;

/// Rows of a tile: outputs on the left, pairs of inputs' numbers on the right.
const TILE: usize = 16;
/// Weights of one row of a tile.
const STEP: usize = 32;
/// Bytes of one row of a tile.
const ROW_BYTES: usize = 64;

// Many inputs: 128 outputs and 256 inputs at a time, 128 weights of each sum before the next 128. Weights are copied
// first, 32 KiB that stay in the second-level cache with the sums (their own rows are often a multiple of 4 KiB apart
// and would fall into one set of the first-level cache); 32 inputs of a chunk are 16 KiB and stay in the first-level
// cache while all outputs pass.
const OUTS: usize = 128;
const ROWS: usize = 256;
const CHUNK: usize = 128;

/// Inputs as bf16 numbers, turned: number `k` of input `row` is half `k % 2` of word `k / 2 * stride + row`.
/// Zero up to a multiple of 32 numbers.
#[derive(Clone, Copy)]
pub(in super::super) struct Columns {
    /// The rounded values.
    pub(in super::super) hi: *const u32,
    /// What rounding left over; not read where inputs have become one number.
    pub(in super::super) lo: *const u32,
    /// Words from one pair of numbers to the next.
    pub(in super::super) stride: usize,
    /// What an input has become.
    pub(in super::super) parts: Parts,
}

impl Columns {
    /// Values, and what rounding left over where that is kept.
    #[inline(always)]
    fn halves(&self) -> impl Iterator<Item = *const u32> + use<> {
        let n = if self.parts == Parts::Two { 2 } else { 1 };
        [self.hi, self.lo].into_iter().take(n)
    }
}

// SAFETY: read only.
unsafe impl Sync for Columns {}

/// Whether processor and system have tiles; asks the system for this process's use of them.
pub(in super::super) fn is_available() -> bool {
    use std::arch::x86_64::__cpuid_count;
    // Tiles, their bf16 products, and their products of bytes.
    const TILES: u32 = 1 << 24 | 1 << 22 | 1 << 25;
    if __cpuid_count(0, 0).eax < 7 || __cpuid_count(7, 0).edx & TILES != TILES {
        return false;
    }
    request()
}

/// Linux keeps the tiles' 8 KiB out of a process's state until it asks (`ARCH_REQ_XCOMP_PERM`, `XTILEDATA`).
#[cfg(target_os = "linux")]
fn request() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    // SAFETY: a system call that takes two numbers.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn request() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles 0 to 3 are sums (outputs by inputs), 4 and 5 weights, 6 and 7 `n` inputs.
///
/// # Safety
/// The processor has tiles, and the process may use them.
pub(super) unsafe fn configure(n: usize) {
    let (row, inputs) = (ROW_BYTES as u16, (n * size_of::<u32>()) as u16);
    let tiles = [inputs, inputs, inputs, inputs, row, row, inputs, inputs];
    // SAFETY: the caller's promise.
    unsafe { configure_tiles(tiles, [TILE as u8; 8]) }
}

/// Bytes of a row and number of rows of each of the eight tiles.
///
/// # Safety
/// As [`configure`].
pub(super) unsafe fn configure_tiles(row_bytes: [u16; 8], rows: [u8; 8]) {
    let mut config =
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    config.row_bytes[..8].copy_from_slice(&row_bytes);
    config.rows[..8].copy_from_slice(&rows);
    // SAFETY: 64 bytes that `ldtilecfg` takes; tiles are no state the compiler knows of.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack)) }
}

/// The outputs `outs` of a bf16 product on split inputs in columns; where weights are in twelve bits a number, `narrow` has
/// them, and `p.w` does not matter.
///
/// # Safety
/// As `product::product`; `x` covers `p.rows` inputs of `p.dim` (and 32 more words may be read), and [`is_available`].
// AVX-512 for the copies: a cache line is one load.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn product_amx(
    p: &Product,
    narrow: Option<&Narrow<'_>>,
    x: &Columns,
    outs: Range<usize>,
) {
    // SAFETY: the caller's promise; blocks lie inside.
    unsafe {
        if p.rows > TILE {
            configure(TILE);
            for first in (0..p.rows).step_by(ROWS) {
                for out in outs.clone().step_by(OUTS) {
                    let block = Block {
                        p,
                        narrow,
                        x,
                        outs: out..(out + OUTS).min(outs.end),
                        rows: first..(first + ROWS).min(p.rows),
                    };
                    block.many();
                }
            }
        } else {
            configure(p.rows);
            for out in outs.clone().step_by(2 * TILE) {
                let outs = out..(out + 2 * TILE).min(outs.end);
                let block = Block { p, narrow, x, outs, rows: 0..p.rows };
                match narrow {
                    Some(narrow) => block.few_narrow(narrow),
                    None => block.few(),
                }
            }
        }
        asm!("tilerelease", options(nostack, nomem));
    }
}

/// Loads a tile: `row_bytes` from one row to the next.
macro_rules! load {
    ($tile:literal, $at:expr, $row_bytes:expr) => {
        asm!(concat!("tileloadd ", $tile, ", [{} + {}]"), in(reg) $at, in(reg) $row_bytes, options(nostack, readonly))
    };
}

/// Stores a tile, row after row.
macro_rules! store {
    ($tile:literal, $at:expr) => {
        asm!(concat!("tilestored [{} + {}], ", $tile), in(reg) $at, in(reg) ROW_BYTES, options(nostack))
    };
}

/// Adds a product of two tiles to a third.
macro_rules! add {
    ($sum:literal, $weights:literal, $inputs:literal) => {
        asm!(concat!("tdpbf16ps ", $sum, ", ", $weights, ", ", $inputs), options(nostack, nomem))
    };
}

// After the macros that they use.
mod copy;
mod few;
mod narrow;

/// Sums of 32 outputs and 32 inputs: tiles of outputs by inputs.
type Sums = [[f32; TILE * TILE]; 4];

/// One step's weights of 32 outputs: two tiles.
type Weights = [[u16; STEP]; 2 * TILE];

/// What [`Block::many`] keeps between chunks.
#[repr(C, align(64))]
struct Room {
    sums: [[Sums; OUTS / (2 * TILE)]; ROWS / (2 * TILE)],
    weights: [[Weights; CHUNK / STEP]; OUTS / (2 * TILE)],
}

/// Some outputs of some inputs.
struct Block<'a> {
    p: &'a Product,
    narrow: Option<&'a Narrow<'a>>,
    x: &'a Columns,
    outs: Range<usize>,
    rows: Range<usize>,
}

impl Block<'_> {
    /// Up to 128 outputs of up to 256 inputs: bound by arithmetic.
    ///
    /// # Safety
    /// As [`product_amx`]; the tiles are configured for sixteen inputs.
    #[inline(always)]
    unsafe fn many(&self) {
        let mut room = MaybeUninit::<Room>::uninit();
        let room = room.as_mut_ptr();
        let outs = || {
            self.outs.clone().step_by(2 * TILE).map(|out| out..(out + 2 * TILE).min(self.outs.end))
        };
        let rows = || {
            self.rows.clone().step_by(2 * TILE).map(|row| row..(row + 2 * TILE).min(self.rows.end))
        };
        let rows_len = rows().len();
        // SAFETY: the caller's promise; sums are written in the first chunk and weights in each before they are read.
        unsafe {
            for chunk in (0..self.p.dim).step_by(CHUNK) {
                let steps = (self.p.dim - chunk).min(CHUNK).div_ceil(STEP);
                for (i, outs) in outs().enumerate() {
                    self.copy_chunk(&raw mut (*room).weights[i], outs, chunk);
                }
                for (j, rows) in rows().enumerate() {
                    for i in 0..outs().len() {
                        self.fetch(chunk + CHUNK, (j * outs().len() + i, rows_len * outs().len()));
                        let sums = &raw mut (*room).sums[j][i];
                        let weights = (&raw const (*room).weights[i]).cast();
                        if rows.len() > TILE {
                            self.pair(sums, weights, rows.start, chunk, steps);
                        } else {
                            self.single(sums, weights, rows.start, chunk, steps);
                        }
                    }
                }
            }
            for (j, rows) in rows().enumerate() {
                for (i, outs) in outs().enumerate() {
                    let sums: *const [f32; TILE * TILE] = (&raw const (*room).sums[j][i]).cast();
                    let middle = (rows.start + TILE).min(rows.end);
                    for (half, outs) in
                        [outs.clone(), outs.start + TILE..outs.end].into_iter().enumerate()
                    {
                        self.write(sums.add(2 * half), outs.clone(), rows.start..middle);
                        if middle < rows.end {
                            self.write(sums.add(2 * half + 1), outs, middle..rows.end);
                        }
                    }
                }
            }
        }
    }

    /// Adds some steps of a chunk for 32 inputs. Tiles 0 to 3 are `sums`.
    ///
    /// # Safety
    /// As [`Block::many`]; `sums` is written unless `chunk` is the first.
    unsafe fn pair(
        &self,
        sums: *mut Sums,
        weights: *const Weights,
        row: usize,
        chunk: usize,
        steps: usize,
    ) {
        let (word, stride) = (size_of::<u32>(), self.x.stride);
        let sums: *mut [f32; TILE * TILE] = sums.cast();
        // SAFETY: the caller's promise.
        unsafe {
            if chunk == 0 {
                asm!("tilezero tmm0", "tilezero tmm1", options(nostack, nomem));
                asm!("tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
            } else {
                load!("tmm0", sums, ROW_BYTES);
                load!("tmm1", sums.add(1), ROW_BYTES);
                load!("tmm2", sums.add(2), ROW_BYTES);
                load!("tmm3", sums.add(3), ROW_BYTES);
            }
            for step in 0..steps {
                let at = (chunk / 2 + step * (STEP / 2)) * stride + row;
                let weights: *const [u16; STEP] = weights.add(step).cast();
                load!("tmm4", weights, ROW_BYTES);
                load!("tmm5", weights.add(TILE), ROW_BYTES);
                for part in self.x.halves() {
                    load!("tmm6", part.add(at), stride * word);
                    load!("tmm7", part.add(at + TILE), stride * word);
                    add!("tmm0", "tmm4", "tmm6");
                    add!("tmm2", "tmm5", "tmm6");
                    add!("tmm1", "tmm4", "tmm7");
                    add!("tmm3", "tmm5", "tmm7");
                }
            }
            store!("tmm0", sums);
            store!("tmm1", sums.add(1));
            store!("tmm2", sums.add(2));
            store!("tmm3", sums.add(3));
        }
    }

    /// Adds the step of sixteen inputs that begins at word `at` of each half, to tiles 0 and 2.
    ///
    /// # Safety
    /// As [`Block::pair`].
    #[inline(always)]
    unsafe fn add_step(&self, weights: *const Weights, at: usize) {
        let weights: *const [u16; STEP] = weights.cast();
        let row_bytes = self.x.stride * size_of::<u32>();
        // SAFETY: the caller's promise.
        unsafe {
            load!("tmm4", weights, ROW_BYTES);
            load!("tmm5", weights.add(TILE), ROW_BYTES);
            load!("tmm6", self.x.hi.add(at), row_bytes);
            add!("tmm0", "tmm4", "tmm6");
            add!("tmm2", "tmm5", "tmm6");
            if self.x.parts == Parts::Two {
                load!("tmm7", self.x.lo.add(at), row_bytes);
                add!("tmm0", "tmm4", "tmm7");
                add!("tmm2", "tmm5", "tmm7");
            }
        }
    }

    /// [`Block::pair`] for sixteen inputs: tiles 0 and 2 are sums 0 and 2.
    ///
    /// # Safety
    /// As [`Block::pair`].
    unsafe fn single(
        &self,
        sums: *mut Sums,
        weights: *const Weights,
        row: usize,
        chunk: usize,
        steps: usize,
    ) {
        let sums: *mut [f32; TILE * TILE] = sums.cast();
        // SAFETY: the caller's promise.
        unsafe {
            if chunk == 0 {
                asm!("tilezero tmm0", "tilezero tmm2", options(nostack, nomem));
            } else {
                load!("tmm0", sums, ROW_BYTES);
                load!("tmm2", sums.add(2), ROW_BYTES);
            }
            for step in 0..steps {
                let at = (chunk / 2 + step * (STEP / 2)) * self.x.stride + row;
                self.add_step(weights.add(step), at);
            }
            store!("tmm0", sums);
            store!("tmm2", sums.add(2));
        }
    }

    /// Writes a tile of sums where its numbers belong.
    ///
    /// # Safety
    /// As [`product_amx`]; at most sixteen `rows`, whose sums are there, and the first sixteen of `outs` are written.
    unsafe fn write(
        &self,
        sums: *const [f32; TILE * TILE],
        outs: Range<usize>,
        rows: Range<usize>,
    ) {
        let sums: *const f32 = sums.cast();
        for (input, row) in rows.enumerate() {
            for (i, out) in outs.clone().take(TILE).enumerate() {
                // SAFETY: outputs and inputs of the block are inside, as the caller promises.
                unsafe { *self.p.y.add(row * self.p.y_stride + out) = *sums.add(i * TILE + input) }
            }
        }
    }
}
