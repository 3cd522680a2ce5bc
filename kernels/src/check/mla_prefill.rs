//! `mla_prefill.cu` against its formulas in f64.

use super::measure::{Measure, Model, Traffic};
use super::tiles::{MID, many, product};
use super::weights::Weight;
use super::{Bench, Check, Random, Rows, Tolerance, bf16, close, from_bf16, same};
use crate::abi::{MlaExpandParams, MlaPrefillParams};
use crate::geometry::linear::Form;
use crate::geometry::mla_prefill as geometry;
use crate::{Failure, Family, Format, Kernel, PAGE_TOKENS, Result};

/// Sizes of attention.
#[derive(Debug, Clone, Copy)]
struct Shape {
    n_head: usize,
    c: usize,
    n: usize,
    r: usize,
    v: usize,
    own_keys: bool,
}

/// Released sizes, sizes that fill no fragment, heads that begin anywhere, heads with rotary keys of their own.
const SHAPES: [Shape; 6] = [
    Shape { n_head: 3, c: 32, n: 12, r: 8, v: 20, own_keys: false },
    Shape { n_head: 2, c: 24, n: 16, r: 8, v: 12, own_keys: false },
    Shape { n_head: 3, c: 20, n: 10, r: 6, v: 33, own_keys: true },
    Shape { n_head: 2, c: 64, n: 56, r: 8, v: 64, own_keys: false },
    Shape { n_head: 1, c: 512, n: 128, r: 64, v: 128, own_keys: false },
    Shape { n_head: 1, c: 160, n: 192, r: 64, v: 256, own_keys: false },
];

/// Rows of one sequence, behind tokens that are in the cache already.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    position: usize,
    n_row: usize,
}

/// One row, a page's last and the next page's first, tiles that are full and not.
const SEQUENCES: [Sequence; 4] = [
    Sequence { position: 0, n_row: 1 },
    Sequence { position: 60, n_row: 9 },
    Sequence { position: 0, n_row: 70 },
    Sequence { position: 131, n_row: 3 },
];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for shape in SHAPES {
        for form in [Form::Mid, Form::Many] {
            let name = format!("{form:?}, {shape:?}");
            checks
                .push(Check::new(Family::MlaPrefill, name, move |bench| check(bench, shape, form)));
        }
    }
    checks.push(Check::new(
        Family::MlaPrefill,
        "a row has its bits in any chunk and group of heads",
        invariant,
    ));
    checks
}

struct Case {
    shape: Shape,
    sequences: Vec<Sequence>,
    w_uk: Weight,
    w_uv: Weight,
    q: Rows,
    cache: Rows,
    /// Each sequence's tokens in the cache.
    slots: Vec<Vec<u32>>,
    o_stride: usize,
    scale: f32,
}

/// Rows of a launch: which of the case's sequences, its rows from one to another.
type Part = (usize, std::ops::Range<usize>);

impl Case {
    fn new(shape: Shape, sequences: &[Sequence]) -> Self {
        Self::with(shape, sequences, Weight::new)
    }

    /// The same with matrices that `weight` makes.
    fn with(
        shape: Shape,
        sequences: &[Sequence],
        weight: fn(&mut Random, Format, usize, usize) -> Weight,
    ) -> Self {
        let Shape { n_head, c, n, r, v, own_keys } = shape;
        let random = &mut Random::new((c + n + v) as u64);
        let lengths: Vec<usize> = sequences.iter().map(|s| s.position + s.n_row).collect();
        let n_page: usize = lengths.iter().map(|length| length.div_ceil(PAGE_TOKENS)).sum();
        let mut free: Vec<usize> = (0..=n_page).collect();
        let slots = lengths.iter().map(|length| {
            let take = |_| free.swap_remove(random.below(free.len()));
            let pages: Vec<usize> = (0..length.div_ceil(PAGE_TOKENS)).map(take).collect();
            let slot = |u: usize| (pages[u / PAGE_TOKENS] * PAGE_TOKENS + u % PAGE_TOKENS) as u32;
            (0..*length).map(slot).collect()
        });
        let slots = slots.collect();
        let width = c + if own_keys { n_head * r } else { r };
        let n_row = sequences.iter().map(|s| s.n_row).sum();
        let queries = n_head * (n + r);
        let cache_rows = (n_page + 1) * PAGE_TOKENS;
        Self {
            shape,
            sequences: sequences.to_vec(),
            w_uk: weight(random, Format::Bf16, n_head * n, c),
            w_uv: weight(random, Format::Bf16, n_head * v, c),
            q: Rows::normal(random, n_row, queries, queries.next_multiple_of(8), 1.0).rounded(),
            cache: Rows::normal(random, cache_rows, width, width.next_multiple_of(8), 1.0)
                .rounded(),
            slots,
            o_stride: (n_head * v).next_multiple_of(8),
            // Scores of about 2; weights are of 0.1.
            scale: 2.0 / ((n * c) as f32 * 0.01 + r as f32).sqrt(),
        }
    }

    /// The first of a sequence's rows among all.
    fn row_first(&self, sequence: usize) -> usize {
        self.sequences[..sequence].iter().map(|s| s.n_row).sum()
    }

    /// Slots of the tokens that the rows of `parts` see, and tiles of these rows.
    fn tiles(&self, parts: &[Part]) -> (Vec<u32>, Vec<u32>) {
        let (mut slot, mut tile): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        for (sequence, rows) in parts {
            let first = self.sequences[*sequence].position;
            for row in rows.clone().step_by(geometry::TILE_ROWS) {
                let n_row = (rows.end - row).min(geometry::TILE_ROWS);
                let of_step = self.row_first(*sequence) + row;
                let numbers = [of_step, n_row, first + row, slot.len()];
                tile.extend(numbers.map(|number| number as u32));
            }
            slot.extend(&self.slots[*sequence][..first + rows.end]);
        }
        (slot, tile)
    }

    /// Launches for the rows of `parts`, heads `heads` at a time; all of `o`, other rows as they were.
    fn run(
        &self,
        bench: &mut Bench<'_>,
        form: Form,
        parts: &[Part],
        heads: usize,
    ) -> Result<Vec<u16>> {
        let Shape { n_head, c, n, r, v, own_keys } = self.shape;
        let (k_stride, v_stride) = ((n + r).next_multiple_of(16), v.next_multiple_of(16));
        let (slot, tile) = self.tiles(parts);
        let o_len = self.q.n * self.o_stride;
        let o = bench.upload(&vec![0u16; o_len])?;
        let (w_uk, w_uv) = (self.w_uk.upload(bench)?, self.w_uv.upload(bench)?);
        let q = bench.upload(&self.q.as_bf16())?;
        let cache = bench.upload(&self.cache.as_bf16())?;
        let (slot_at, tile_at) = (bench.upload(&slot)?, bench.upload(&tile)?);
        for head_first in (0..n_head).step_by(heads) {
            let group = heads.min(n_head - head_first);
            let k = bench.alloc::<u16>(slot.len() * group * k_stride)?;
            let values = bench.alloc::<u16>(slot.len() * group * v_stride)?;
            let expand = MlaExpandParams {
                w_uk,
                w_uv,
                k: k as *mut _,
                v: values as *mut _,
                cache: cache as *const _,
                slot: slot_at as *const _,
                n_token: slot.len() as u32,
                head_first: head_first as u32,
                n_head: group as u32,
                qk_nope_head_dim: n as u32,
                qk_rope_head_dim: r as u32,
                v_head_dim: v as u32,
                kv_lora_rank: c as u32,
                k_pe_head_stride: if own_keys { r as u32 } else { 0 },
                uk_row_stride: n as u32,
                uv_row_first: 0,
                uv_row_stride: v as u32,
                k_head_stride: k_stride as u32,
                v_head_stride: v_stride as u32,
                cache_stride: self.cache.stride as u32,
            };
            bench.launch(geometry::launch_expand(&expand, form), &expand)?;
            let prefill = MlaPrefillParams {
                o: o as *mut _,
                q: q as *const _,
                k: k as *const _,
                v: values as *const _,
                tile: tile_at as *const _,
                n_tile: (tile.len() / 4) as u32,
                head_first: head_first as u32,
                n_head: group as u32,
                qk_head_dim: (n + r) as u32,
                v_head_dim: v as u32,
                o_stride: self.o_stride as u32,
                q_stride: self.q.stride as u32,
                k_head_stride: k_stride as u32,
                v_head_stride: v_stride as u32,
                scale: self.scale,
            };
            let geometry = geometry::prefill(&prefill)
                .ok_or_else(|| Failure(format!("heads of {k_stride} and {v_stride}")))?;
            bench.launch(geometry, &prefill)?;
        }
        bench.download(o, o_len)
    }

    fn all_parts(&self) -> Vec<Part> {
        self.sequences.iter().enumerate().map(|(i, sequence)| (i, 0..sequence.n_row)).collect()
    }

    /// A head's keys and values of one sequence, rounded to bf16 as the workspace has them.
    fn expanded(&self, sequence: usize, head: usize) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let Shape { c, n, r, v, own_keys, .. } = self.shape;
        let round = |x: &f64| f64::from(from_bf16(bf16(*x as f32)));
        let token = |slot: &u32| {
            let (latent, keys) = self.cache.row(*slot as usize).split_at(c);
            let k_pe = if own_keys { &keys[head * r..][..r] } else { keys };
            let up = self.w_uk.apply(latent).0;
            let key = up[head * n..][..n].iter().map(round);
            let key = key.chain(k_pe.iter().map(|x| f64::from(*x))).collect();
            let value = self.w_uv.apply(latent).0[head * v..][..v].iter().map(round).collect();
            (key, value)
        };
        self.slots[sequence].iter().map(token).unzip()
    }
}

fn check(bench: &mut Bench<'_>, shape: Shape, form: Form) -> Result<()> {
    // Wide heads see fewer sequences: the simulation counts every product.
    let sequences = if shape.c > 100 { &SEQUENCES[1..2] } else { &SEQUENCES[..] };
    let case = Case::new(shape, sequences);
    let heads = shape.n_head.div_ceil(2);
    let o = case.run(bench, form, &case.all_parts(), heads)?;
    let width = shape.n + shape.r;
    for (i, sequence) in sequences.iter().enumerate() {
        for head in 0..shape.n_head {
            let (keys, values) = case.expanded(i, head);
            for row in 0..sequence.n_row {
                let at = case.row_first(i) + row;
                let q = &case.q.row(at)[head * width..][..width];
                let seen = sequence.position + row + 1;
                let score = |key: &Vec<f64>| -> f64 {
                    key.iter().zip(q).map(|(k, q)| k * f64::from(*q)).sum::<f64>()
                        * f64::from(case.scale)
                };
                let scores: Vec<f64> = keys[..seen].iter().map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                let (mut want, mut squares) = (vec![0.0; shape.v], 0.0);
                for (score, value) in scores.iter().zip(&values) {
                    let weight = (score - max).exp() / sum;
                    squares += weight * weight;
                    want.iter_mut().zip(value).for_each(|(want, v)| *want += weight * v);
                }
                let got = &o[at * case.o_stride + head * shape.v..][..shape.v];
                let got: Vec<f32> = got.iter().map(|bits| from_bf16(*bits)).collect();
                // Weights are rounded to bf16, each by itself by up to 2^-9; values are up to three times sqrt(c) / 10.
                let size = 0.3 * (shape.c as f64).sqrt();
                let absolute = squares.sqrt() * size / 512.0 * 2.0 + 1e-4;
                let what = format!("sequence {i}, row {row}, head {head}");
                close(&what, &got, &want, Tolerance::bf16(absolute))?;
            }
        }
    }
    Ok(())
}

/// At once, or in chunks, one head at a time, alone or beside another sequence.
fn invariant(bench: &mut Bench<'_>) -> Result<()> {
    let shape = Shape { n_head: 2, c: 40, n: 16, r: 8, v: 24, own_keys: false };
    let sequences = [Sequence { position: 5, n_row: 150 }, Sequence { position: 70, n_row: 40 }];
    let case = Case::new(shape, &sequences);
    let all = case.run(bench, Form::Many, &case.all_parts(), 2)?;
    let parts = [(0, 0..50), (0, 50..57), (0, 57..58), (0, 58..150), (1, 0..9), (1, 9..40)];
    let mut together = vec![0u16; all.len()];
    for part in parts {
        let some = case.run(bench, Form::Mid, std::slice::from_ref(&part), 1)?;
        let first = case.row_first(part.0);
        let range = (first + part.1.start) * case.o_stride..(first + part.1.end) * case.o_stride;
        together[range.clone()].copy_from_slice(&some[range]);
    }
    same("in chunks", &together, &all)
}

/// Keys and values of so many tokens: two products a head, and the rotary part, which is copied.
fn expand_traffic(shape: Shape, form: Form, n_token: usize) -> Traffic {
    let Shape { n_head, c, n, r, v, .. } = shape;
    let tile = if form == Form::Mid { MID } else { many(Format::Bf16) };
    let keys = product(Format::Bf16, tile, [n_token, c, n], 2);
    let values = product(Format::Bf16, tile, [n_token, c, v], 2);
    let rotary = (n_token * r * 2) as u64;
    let copied = Traffic {
        memory_bytes: 2 * rotary,
        read_bytes: rotary,
        write_bytes: rotary,
        flops: 0,
        is_mma: false,
    };
    keys.and(values).and(copied).times(n_head)
}

/// Rows of a prompt from its first token on: keys and values once for every tile of rows.
fn prefill_traffic(shape: Shape, n_row: usize) -> Traffic {
    let Shape { n_head, n, r, v, .. } = shape;
    let (q, o) = (n_row * (n + r) * 2, n_row * v * 2);
    let read = |tile: usize| (n_row.min((tile + 1) * geometry::TILE_ROWS)) * (n + r + v) * 2;
    let tokens: usize = (0..n_row.div_ceil(geometry::TILE_ROWS)).map(read).sum();
    let seen = n_row * (n_row + 1) / 2;
    let head = Traffic {
        memory_bytes: (q + o + n_row * (n + r + v) * 2) as u64,
        read_bytes: (q + tokens) as u64,
        write_bytes: o as u64,
        flops: 2 * (seen * (n + r + v)) as u64,
        is_mma: true,
    };
    head.times(n_head)
}

pub(super) fn measures() -> Vec<Measure> {
    let v3 = Shape { n_head: 1, c: 512, n: 128, r: 64, v: 128, own_keys: false };
    let narrow = Shape { n: 48, r: 16, v: 64, c: 128, ..v3 };
    let wide = Shape { n: 192, v: 256, c: 128, ..v3 };
    let measure = |kernel: Kernel, shape: Shape, form: Form, is_expand: bool| {
        let n_row = if form == Form::Mid { 64 } else { 128 };
        let case = Case::new(shape, &[Sequence { position: 0, n_row }]);
        let run = move |bench: &mut Bench<'_>| {
            case.run(bench, form, &case.all_parts(), shape.n_head).map(drop)
        };
        let large = Shape { n_head: 128, ..shape };
        let (here, traffic) = if is_expand {
            (expand_traffic(shape, form, n_row), expand_traffic(large, form, 4096))
        } else {
            (prefill_traffic(shape, n_row), prefill_traffic(large, 4096))
        };
        let model = Model::new("128 heads, 4096 tokens", traffic, move |bench, shrink| {
            let shape = Shape { n_head: shrink.of(128), ..shape };
            let sequence = Sequence { position: 0, n_row: shrink.of(4096) };
            let case = Case::with(shape, &[sequence], Weight::repeated);
            case.run(bench, form, &case.all_parts(), shape.n_head).map(drop)
        });
        let words = format!("{n_row} tokens, {} and {} wide", shape.n + shape.r, shape.v);
        Measure::new(kernel, words, here, vec![model], run)
    };
    vec![
        measure(Kernel::MlaExpandMid, v3, Form::Mid, true),
        measure(Kernel::MlaExpandMany, v3, Form::Many, true),
        measure(Kernel::MlaPrefill64, narrow, Form::Mid, false),
        measure(Kernel::MlaPrefill192, v3, Form::Mid, false),
        measure(Kernel::MlaPrefill256, wide, Form::Mid, false),
    ]
}
