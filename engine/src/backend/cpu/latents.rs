//! The latent cache of one layer, `[n_page, 64]` rows `[c_kv, k_pe]`, in one of three formats.
//!
//! | format | bytes of a row of 512 + 64 | `c_kv` | `k_pe` |
//! | --- | --- | --- | --- |
//! | f32 | 2,304 | as computed | as computed |
//! | bf16 | 1,152 | rounded, off by 2^-8 of itself at most | the same |
//! | int8 | 656 | whole numbers, a factor for every 128: off by 1/254 of their largest at most | bf16 |
//!
//! The rotary part stays in bf16: it has no norm, and few large channels that others' steps would follow.

use super::aligned::Aligned;
#[cfg(target_arch = "x86_64")]
use super::simd::attention::words::split_rows;
use super::simd::row;
use super::simd::rows::Rows;
use super::{CacheType, Isa};
use crate::backend::MlaShape;
use crate::quant::{DType, bf16};
use crate::step::PAGE_TOKENS;

/// Numbers of a row that share a factor in int8.
const GROUP: usize = 128;

/// Where the parts of a row are.
#[derive(Debug, Clone, Copy, Default)]
struct Layout {
    kind: CacheType,
    /// `c`.
    latent: usize,
    /// `c + n_k_pe * r`.
    dim: usize,
}

impl Layout {
    fn of(kind: CacheType, shape: &MlaShape) -> Self {
        Self { kind, latent: shape.kv_lora_rank, dim: shape.latent_dim() }
    }

    /// Factors of an int8 row.
    fn factors(self) -> usize {
        self.latent.div_ceil(GROUP)
    }

    fn row_bytes(self) -> usize {
        match self.kind {
            CacheType::F32 => self.dim * 4,
            CacheType::Bf16 => self.dim * 2,
            CacheType::Int8 => self.latent + self.factors() * 4 + (self.dim - self.latent) * 2,
        }
    }
}

/// Bytes of a row in the cache.
pub(super) fn row_bytes(kind: CacheType, shape: &MlaShape) -> usize {
    Layout::of(kind, shape).row_bytes()
}

/// One layer's rows.
#[derive(Debug, Default)]
pub struct Latents {
    layout: Layout,
    /// Zeroed by the system: pages that no sequence has used yet take no memory. Rows of released shapes begin at cache lines.
    bytes: Aligned<u8>,
    /// A row on its way in.
    room: Aligned<f32>,
}

impl Latents {
    /// Room for `n_page` pages.
    pub(super) fn new(kind: CacheType, shape: &MlaShape, n_page: usize) -> Self {
        let layout = Layout::of(kind, shape);
        let bytes = Aligned::zeros(n_page * PAGE_TOKENS * layout.row_bytes());
        Self { layout, bytes, room: Aligned::zeros(layout.dim) }
    }

    /// A row's bytes.
    fn row(&self, slot: usize) -> &[u8] {
        let bytes = self.layout.row_bytes();
        &self.bytes[slot * bytes..][..bytes]
    }

    /// Stores the row that `fill` writes, at `slot`.
    pub(super) fn store(&mut self, slot: usize, fill: impl FnOnce(&mut [f32])) {
        let Self { layout, bytes, room } = self;
        fill(room);
        let row_bytes = layout.row_bytes();
        let to = &mut bytes[slot * row_bytes..][..row_bytes];
        match layout.kind {
            CacheType::F32 => {
                for (to, x) in to.as_chunks_mut::<4>().0.iter_mut().zip(&**room) {
                    *to = x.to_le_bytes();
                }
            }
            CacheType::Bf16 => round(to, room),
            CacheType::Int8 => {
                let (numbers, rest) = to.split_at_mut(layout.latent);
                let (factors, k_pe) = rest.split_at_mut(layout.factors() * 4);
                let (c_kv, from) = room.split_at(layout.latent);
                let groups = numbers.chunks_mut(GROUP).zip(c_kv.chunks(GROUP));
                for ((to, x), factor) in groups.zip(factors.as_chunks_mut::<4>().0) {
                    *factor = quantise(to, x).to_le_bytes();
                }
                round(k_pe, from);
            }
        }
    }

    /// The row at `slot`, as attention reads it.
    pub(super) fn read(&self, slot: usize, out: &mut [f32]) {
        let row = self.row(slot);
        match self.layout.kind {
            CacheType::F32 => DType::F32.decode(row, out),
            CacheType::Bf16 => DType::Bf16.decode(row, out),
            CacheType::Int8 => {
                let (numbers, factors, k_pe) = self.parts(row);
                let (c_kv, rotary) = out.split_at_mut(self.layout.latent);
                let groups = c_kv.chunks_mut(GROUP).zip(numbers.chunks(GROUP));
                for ((out, numbers), factor) in groups.zip(factors) {
                    let factor = f32::from_le_bytes(*factor);
                    for (out, number) in out.iter_mut().zip(numbers) {
                        let number = f32::from(number.cast_signed()) * factor;
                        *out = bf16::to_f32(bf16::from_f32(number));
                    }
                }
                DType::Bf16.decode(k_pe, rotary);
            }
        }
    }

    /// Whole numbers, factors, rotary key of an int8 row.
    fn parts<'a>(&self, row: &'a [u8]) -> (&'a [u8], &'a [[u8; 4]], &'a [u8]) {
        let (numbers, rest) = row.split_at(self.layout.latent);
        let (factors, k_pe) = rest.split_at(self.layout.factors() * 4);
        (numbers, factors.as_chunks::<4>().0, k_pe)
    }

    /// The first `n_key` rows of a page, as products read them: in place, or from `room` where int8 was widened.
    pub(super) fn page<'a>(
        &'a self,
        isa: Isa,
        page: usize,
        n_key: usize,
        room: &'a mut PageRoom,
    ) -> Rows<'a> {
        let (first, row_bytes) = (page * PAGE_TOKENS, self.layout.row_bytes());
        let rows = &self.bytes[first * row_bytes..][..PAGE_TOKENS * row_bytes];
        let dtype = match self.layout.kind {
            CacheType::F32 => DType::F32,
            CacheType::Bf16 => DType::Bf16,
            CacheType::Int8 => {
                let dim = self.layout.dim;
                for (row, to) in rows.chunks(row_bytes).zip(room.rows.chunks_mut(dim)).take(n_key) {
                    let (numbers, factors, k_pe) = self.parts(row);
                    let (c_kv, rotary) = to.split_at_mut(self.layout.latent);
                    let groups = c_kv.chunks_mut(GROUP).zip(numbers.chunks(GROUP));
                    for ((to, numbers), factor) in groups.zip(factors) {
                        row::scaled_bf16(isa, to, numbers, f32::from_le_bytes(*factor));
                    }
                    for (to, from) in rotary.iter_mut().zip(k_pe.as_chunks::<2>().0) {
                        *to = u16::from_le_bytes(*from);
                    }
                }
                return Rows::bf16(&room.rows, PAGE_TOKENS, dim).first(n_key);
            }
        };
        Rows::of(rows, PAGE_TOKENS, self.layout.dim, dtype).first(n_key)
    }
}

/// One page of bf16 rows: what int8 was widened to, or f32 split into.
#[derive(Debug, Default)]
pub(super) struct PageRoom {
    rows: Vec<u16>,
    rests: Vec<u16>,
}

impl PageRoom {
    /// Room for what pages in `kind` become, on tiles or not.
    pub(super) fn new(kind: CacheType, shape: &MlaShape, has_tiles: bool) -> Self {
        let [rows, rests] = Self::sizes(kind, shape, has_tiles).map(|len| vec![0; len]);
        Self { rows, rests }
    }

    fn sizes(kind: CacheType, shape: &MlaShape, has_tiles: bool) -> [usize; 2] {
        let page = PAGE_TOKENS * shape.latent_dim();
        match kind {
            CacheType::F32 if has_tiles => [page, page],
            CacheType::F32 | CacheType::Bf16 => [0, 0],
            CacheType::Int8 => [page, 0],
        }
    }

    /// Bytes of [`PageRoom::new`].
    pub(super) fn bytes(kind: CacheType, shape: &MlaShape, has_tiles: bool) -> u64 {
        (Self::sizes(kind, shape, has_tiles).iter().sum::<usize>() * 2) as u64
    }
}

/// A page's rows in bf16, and what rounding to it left over where the cache has more.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) rests: Option<Rows<'a>>,
}

impl Latents {
    /// A page's bytes, as they lie.
    pub(super) fn page_bytes(&self, page: usize) -> &[u8] {
        let len = PAGE_TOKENS * self.layout.row_bytes();
        &self.bytes[page * len..][..len]
    }
}

#[cfg(target_arch = "x86_64")]
impl Latents {
    /// [`Latents::page`] as tiles take it.
    pub(super) fn halves<'a>(
        &'a self,
        isa: Isa,
        page: usize,
        n_key: usize,
        room: &'a mut PageRoom,
    ) -> Halves<'a> {
        if self.layout.kind != CacheType::F32 {
            return Halves { rows: self.page(isa, page, n_key, room), rests: None };
        }
        let dim = self.layout.dim;
        let PageRoom { rows, rests } = room;
        let mut unused = PageRoom::default();
        let page = self.page(isa, page, n_key, &mut unused);
        split_rows(page, (rows, rests));
        Halves {
            rows: Rows::bf16(rows, PAGE_TOKENS, dim).first(n_key),
            rests: Some(Rows::bf16(rests, PAGE_TOKENS, dim).first(n_key)),
        }
    }
}

/// To bf16, to the nearest, ties to even.
fn round(to: &mut [u8], x: &[f32]) {
    for (to, x) in to.as_chunks_mut::<2>().0.iter_mut().zip(x) {
        *to = bf16::from_f32(*x).to_le_bytes();
    }
}

/// Whole numbers within 127, to the nearest, and their factor; NaN where a number is none, so that it is seen.
fn quantise(to: &mut [u8], x: &[f32]) -> f32 {
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    if !x.iter().all(|x| x.is_finite()) {
        to.fill(1);
        return f32::NAN;
    }
    let factor = largest / 127.0;
    // A largest number so small that its inverse is infinite counts as zero.
    let inverse = if factor < 1e-36 { 0.0 } else { 127.0 / largest };
    for (to, x) in to.iter_mut().zip(x) {
        *to = ((x * inverse).round_ties_even() as i8).cast_unsigned();
    }
    factor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::attention::score;
    use crate::backend::cpu::testing::{
        CACHES, EVEN, ODD, OWN_KEYS, assert_same_bits, numbers, ways,
    };

    #[test]
    fn a_page_has_the_numbers_of_its_rows_on_every_instruction_set() {
        for shape in [ODD, EVEN, OWN_KEYS] {
            let dim = shape.latent_dim();
            for kind in CACHES {
                let mut latents = Latents::new(kind, &shape, 2);
                for slot in PAGE_TOKENS..PAGE_TOKENS + 3 {
                    latents.store(slot, |to| to.copy_from_slice(&numbers(slot as u64, dim)));
                }
                for isa in ways().into_iter().map(|way| way.isa) {
                    let mut room = PageRoom::new(kind, &shape, false);
                    let page = latents.page(isa, 1, 3, &mut room);
                    for i in 0..3 {
                        let (mut want, mut got) = (vec![0.0; dim], vec![9.0; dim]);
                        latents.read(PAGE_TOKENS + i, &mut want);
                        page.widen(isa, i, &mut got);
                        assert_same_bits(&got, &want);
                        page.columns(3, 7).widen(isa, i, &mut got[..7]);
                        assert_same_bits(&got[..7], &want[3..10]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_comes_back_as_close_as_its_format_says() {
        for shape in [ODD, EVEN, OWN_KEYS] {
            let dim = shape.latent_dim();
            let row: Vec<f32> = numbers(3, dim).iter().map(|x| x * 7.0).collect();
            for kind in [CacheType::F32, CacheType::Bf16, CacheType::Int8] {
                let mut latents = Latents::new(kind, &shape, 3);
                latents.store(130, |to| to.copy_from_slice(&row));
                let mut got = vec![0.0; dim];
                latents.read(130, &mut got);
                for (i, (got, want)) in got.iter().zip(&row).enumerate() {
                    let bound = match kind {
                        CacheType::F32 => 0.0,
                        CacheType::Int8 if i < shape.kv_lora_rank => {
                            7.0 / 254.0 * 1.001 + want.abs() / 256.0
                        }
                        _ => want.abs() / 512.0 * 2.0,
                    };
                    assert!((got - want).abs() <= bound, "{kind:?} {i}: {got}, {want}");
                }
                latents.read(129, &mut got);
                assert!(got.iter().all(|x| *x == 0.0), "its neighbour is untouched");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_none_in_the_cache() {
        for kind in [CacheType::F32, CacheType::Bf16, CacheType::Int8] {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut latents = Latents::new(kind, &EVEN, 1);
                latents.store(5, |to| {
                    to.fill(1.0);
                    to[3] = bad;
                });
                let mut got = vec![0.0; EVEN.latent_dim()];
                latents.read(5, &mut got);
                assert!(!got[3].is_finite(), "{kind:?}");
            }
        }
    }

    #[test]
    fn a_page_is_what_its_rows_are() {
        for shape in [ODD, EVEN] {
            for kind in [CacheType::F32, CacheType::Bf16, CacheType::Int8] {
                let (dim, mut latents) = (shape.latent_dim(), Latents::new(kind, &shape, 2));
                for i in 0..PAGE_TOKENS {
                    latents
                        .store(PAGE_TOKENS + i, |to| to.copy_from_slice(&numbers(i as u64, dim)));
                }
                let mut room = PageRoom::new(kind, &shape, false);
                let page = latents.page(Isa::best(), 1, 63, &mut room);
                assert_eq!((page.n(), page.dim()), (63, dim));
                // One query of ones: every row's sum.
                let (mut got, mut want) = (vec![0.0; 64], vec![0.0; dim]);
                score(Isa::best(), page, (&vec![1.0; dim], dim), 1, &mut got);
                for (i, got) in got.iter().take(63).enumerate() {
                    latents.read(PAGE_TOKENS + i, &mut want);
                    let (sum, size): (f32, f32) =
                        (want.iter().sum(), want.iter().map(|x| x.abs()).sum());
                    assert!((got - sum).abs() <= size * 1e-5, "{kind:?} {i}: {got}, {sum}");
                }
            }
        }
    }
}
