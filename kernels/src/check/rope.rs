//! `rope.cu` and `cache_store.cu`: each channel by its own formula in f64.

use super::measure::{Measure, Model, Traffic, sectors};
use super::{Bench, Check, ROW_COUNTS, Random, Rows, Tolerance, bf16, close, from_bf16, same};
use crate::abi::{CacheStoreHeadsParams, CacheStoreParams, RopeParams};
use crate::geometry::rope as geometry;
use crate::{Family, Kernel, Result};

const CONTEXT: usize = 150;
const EPS: f32 = 1e-6;
/// Rotation adds two terms of any sign: their rounding to f32 is far below bf16's last place of the larger one.
const TOLERANCE: Tolerance = Tolerance { relative: 1.0 / 256.0, absolute: 4e-6 };

/// Widths of a head and how many there are: released ones, ones that fill no vector, one pair.
#[derive(Debug, Clone, Copy)]
struct Widths {
    n_head: usize,
    n: usize,
    r: usize,
    c: usize,
}

const WIDTHS: [Widths; 5] = [
    Widths { n_head: 16, n: 128, r: 64, c: 512 },
    Widths { n_head: 5, n: 16, r: 8, c: 24 },
    Widths { n_head: 3, n: 5, r: 6, c: 7 },
    Widths { n_head: 1, n: 3, r: 2, c: 1 },
    Widths { n_head: 9, n: 8, r: 24, c: 130 },
];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for widths in WIDTHS {
        for halves in [false, true] {
            let name = format!("{widths:?}, halves {halves}");
            let run = move |bench: &mut Bench<'_>| rope(bench, widths, halves);
            checks.push(Check::new(Family::Rope, &*name, run));
            let run = move |bench: &mut Bench<'_>| store(bench, widths, halves);
            checks.push(Check::new(Family::CacheStore, &*name, run));
        }
        let run = move |bench: &mut Bench<'_>| store_heads(bench, widths);
        checks.push(Check::new(Family::CacheStore, format!("{widths:?}, keys of heads"), run));
    }
    for halves in [false, true] {
        for widths in [WIDTHS[1], WIDTHS[2]] {
            let name = format!("{widths:?}, halves {halves}, a row has its bits in any batch");
            let run = move |bench: &mut Bench<'_>| rope_invariant(bench, widths, halves);
            checks.push(Check::new(Family::Rope, &*name, run));
            let run = move |bench: &mut Bench<'_>| store_invariant(bench, widths, halves);
            checks.push(Check::new(Family::CacheStore, name, run));
        }
    }
    checks
}

/// Rotation tables and rows' places.
struct Angles {
    half: usize,
    halves: bool,
    cos: Vec<f32>,
    sin: Vec<f32>,
    position: Vec<u32>,
}

impl Angles {
    fn new(random: &mut Random, n_row: usize, widths: Widths, halves: bool) -> Self {
        let half = widths.r / 2;
        let angles: Vec<f32> = (0..CONTEXT * half).map(|_| random.unit() * 3.2).collect();
        Self {
            half,
            halves,
            // YaRN's factor makes them longer than one.
            cos: angles.iter().map(|angle| 1.25 * angle.cos()).collect(),
            sin: angles.iter().map(|angle| 1.25 * angle.sin()).collect(),
            position: (0..n_row).map(|_| random.below(CONTEXT) as u32).collect(),
        }
    }

    /// Channel `i` of the rotated `x`: cosine times itself, plus or minus sine times its partner.
    fn rotated(&self, x: &[f32], row: usize) -> Vec<f64> {
        let channel = |i: usize| {
            let (partner, pair, is_first) = if self.halves {
                ((i + self.half) % x.len(), i % self.half, i < self.half)
            } else {
                (i ^ 1, i / 2, i.is_multiple_of(2))
            };
            let at = self.position[row] as usize * self.half + pair;
            let [own, other, cos, sin] =
                [x[i], x[partner], self.cos[at], self.sin[at]].map(f64::from);
            own * cos + other * if is_first { -sin } else { sin }
        };
        (0..x.len()).map(channel).collect()
    }
}

fn floats(bits: &[u16]) -> Vec<f32> {
    bits.iter().map(|bits| from_bf16(*bits)).collect()
}

struct Queries {
    widths: Widths,
    angles: Angles,
    q: Rows,
}

impl Queries {
    fn new(n_row: usize, widths: Widths, halves: bool) -> Self {
        let random = &mut Random::new(widths.r as u64);
        let dim = widths.n_head * (widths.n + widths.r);
        let angles = Angles::new(random, n_row, widths, halves);
        let q = Rows::normal(random, n_row, dim, dim.next_multiple_of(16), 1.0).rounded();
        Self { widths, angles, q }
    }

    /// The first rows, padding included.
    fn run(&self, bench: &mut Bench<'_>, n_row: usize) -> Result<Vec<u16>> {
        let q = bench.upload(&self.q.as_bf16()[..n_row * self.q.stride])?;
        let params = RopeParams {
            q: q as *mut _,
            cos: bench.upload(&self.angles.cos)? as *const _,
            sin: bench.upload(&self.angles.sin)? as *const _,
            position: bench.upload(&self.angles.position)? as *const _,
            n_row: n_row as u32,
            q_stride: self.q.stride as u32,
            n_head: self.widths.n_head as u32,
            qk_nope_head_dim: self.widths.n as u32,
            qk_rope_head_dim: self.widths.r as u32,
            pairs_are_halves: u32::from(self.angles.halves),
        };
        bench.launch(geometry::rope(&params), &params)?;
        bench.download(q, n_row * self.q.stride)
    }
}

fn rope(bench: &mut Bench<'_>, widths: Widths, halves: bool) -> Result<()> {
    let case = Queries::new(5, widths, halves);
    let got = case.run(bench, 5)?;
    let before = case.q.as_bf16();
    for row in 0..5 {
        let (got, before) = (&got[row * case.q.stride..], &before[row * case.q.stride..]);
        for head in 0..widths.n_head {
            let at = head * (widths.n + widths.r);
            same("channels without position", &got[at..at + widths.n], &before[at..at + widths.n])?;
            let of_head = at + widths.n..at + widths.n + widths.r;
            let want = case.angles.rotated(&case.q.row(row)[of_head.clone()], row);
            close(&format!("row {row}, head {head}"), &floats(&got[of_head]), &want, TOLERANCE)?;
        }
        same("padding", &got[case.q.dim..case.q.stride], &before[case.q.dim..case.q.stride])?;
    }
    Ok(())
}

fn rope_invariant(bench: &mut Bench<'_>, widths: Widths, halves: bool) -> Result<()> {
    let case = Queries::new(512, widths, halves);
    let all = case.run(bench, 512)?;
    for n_row in ROW_COUNTS {
        same(&format!("{n_row} rows"), &case.run(bench, n_row)?, &all[..n_row * case.q.stride])?;
    }
    Ok(())
}

/// What lies in a cache before anybody writes to it; it must still lie behind a row's numbers afterwards.
const BEFORE: u16 = 0x4242;

/// Slots of two pages for `n_row` rows, none of them twice.
fn slots(random: &mut Random, n_row: usize) -> Vec<u32> {
    let mut slots: Vec<u32> = (0..n_row.max(128) as u32).collect();
    for i in 0..slots.len() {
        slots.swap(i, i + random.below(n_row.max(128) - i));
    }
    slots.truncate(n_row);
    slots
}

struct Latents {
    widths: Widths,
    angles: Angles,
    kv: Rows,
    norm: Vec<f32>,
    slot: Vec<u32>,
}

impl Latents {
    fn new(n_row: usize, widths: Widths, halves: bool) -> Self {
        let random = &mut Random::new(widths.c as u64);
        let angles = Angles::new(random, n_row, widths, halves);
        let dim = widths.c + widths.r;
        let kv = Rows::normal(random, n_row, dim, dim.next_multiple_of(16) + 16, 2.0).rounded();
        let norm = random.normals(widths.c);
        Self { widths, angles, kv, norm, slot: slots(random, n_row) }
    }

    /// The cache after the first rows were stored.
    fn run(&self, bench: &mut Bench<'_>, n_row: usize) -> Result<(usize, Vec<u16>)> {
        let stride = (self.widths.c + self.widths.r).next_multiple_of(8);
        let n_slot = self.slot.len().max(128);
        let cache = bench.upload(&vec![BEFORE; n_slot * stride])?;
        let params = CacheStoreParams {
            cache: cache as *mut _,
            kv: bench.upload(&self.kv.as_bf16()[..n_row * self.kv.stride])? as *const _,
            norm: bench.upload(&self.norm)? as *const _,
            cos: bench.upload(&self.angles.cos)? as *const _,
            sin: bench.upload(&self.angles.sin)? as *const _,
            position: bench.upload(&self.angles.position)? as *const _,
            slot: bench.upload(&self.slot)? as *const _,
            n_row: n_row as u32,
            cache_stride: stride as u32,
            kv_stride: self.kv.stride as u32,
            kv_lora_rank: self.widths.c as u32,
            qk_rope_head_dim: self.widths.r as u32,
            pairs_are_halves: u32::from(self.angles.halves),
            eps: EPS,
            unused: 0,
        };
        bench.launch(geometry::cache_store(&params), &params)?;
        Ok((stride, bench.download(cache, n_slot * stride)?))
    }
}

fn store(bench: &mut Bench<'_>, widths: Widths, halves: bool) -> Result<()> {
    let case = Latents::new(6, widths, halves);
    let (stride, cache) = case.run(bench, 6)?;
    for (slot, got) in cache.chunks(stride).enumerate() {
        let Some(row) = case.slot.iter().position(|taken| *taken as usize == slot) else {
            same("a slot of nobody", got, &vec![BEFORE; stride])?;
            continue;
        };
        let (c_kv, k_pe) = case.kv.row(row).split_at(widths.c);
        let squares: f64 = c_kv.iter().map(|x| f64::from(*x).powi(2)).sum();
        let scale = 1.0 / (squares / widths.c as f64 + f64::from(EPS)).sqrt();
        let normed =
            c_kv.iter().zip(&case.norm).map(|(x, w)| f64::from(*x) * scale * f64::from(*w));
        let want: Vec<f64> = normed.chain(case.angles.rotated(k_pe, row)).collect();
        close(&format!("row {row}"), &floats(&got[..want.len()]), &want, TOLERANCE)?;
        same("padding", &got[want.len()..], &vec![BEFORE; stride - want.len()])?;
    }
    Ok(())
}

fn store_invariant(bench: &mut Bench<'_>, widths: Widths, halves: bool) -> Result<()> {
    let case = Latents::new(512, widths, halves);
    let (stride, all) = case.run(bench, 512)?;
    for n_row in ROW_COUNTS {
        let (_, some) = case.run(bench, n_row)?;
        for slot in &case.slot[..n_row] {
            let row = *slot as usize * stride..(*slot as usize + 1) * stride;
            same(&format!("{n_row} rows, slot {slot}"), &some[row.clone()], &all[row])?;
        }
    }
    Ok(())
}

fn store_heads(bench: &mut Bench<'_>, widths: Widths) -> Result<()> {
    let random = &mut Random::new(widths.n as u64);
    let (n_row, width) = (4, widths.n + widths.r);
    let latent = Rows::normal(random, n_row, widths.c, widths.c.next_multiple_of(16) + 16, 1.0);
    let k_dim = widths.n_head * width;
    let k = Rows::normal(random, n_row, k_dim, k_dim.next_multiple_of(8), 1.0);
    let slot = slots(random, n_row);
    let dim = widths.c + widths.n_head * widths.r;
    let stride = dim.next_multiple_of(16) + 16;
    let cache = bench.upload(&vec![BEFORE; 128 * stride])?;
    let params = CacheStoreHeadsParams {
        cache: cache as *mut _,
        latent: bench.upload(&latent.as_bf16())? as *const _,
        k: bench.upload(&k.as_bf16())? as *const _,
        slot: bench.upload(&slot)? as *const _,
        n_row: n_row as u32,
        cache_stride: stride as u32,
        latent_stride: latent.stride as u32,
        k_stride: k.stride as u32,
        n_head: widths.n_head as u32,
        qk_nope_head_dim: widths.n as u32,
        qk_rope_head_dim: widths.r as u32,
        kv_lora_rank: widths.c as u32,
    };
    bench.launch(geometry::cache_store_heads(&params), &params)?;
    let mut want = vec![BEFORE; 128 * stride];
    for (row, slot) in slot.iter().enumerate() {
        let keys = k.row(row).chunks(width).flat_map(|head| &head[widths.n..]);
        let numbers = latent.row(row).iter().chain(keys);
        for (to, x) in want[*slot as usize * stride..].iter_mut().zip(numbers) {
            *to = bf16(*x);
        }
    }
    same("cache", &bench.download::<u16>(cache, 128 * stride)?, &want)
}

/// Queries in place; a warp of four pairs a lane asks for its row's position, and every head for the row's angles.
fn rope_traffic(n_row: usize, widths: Widths) -> Traffic {
    let numbers = (n_row * widths.n_head * widths.r) as u64;
    Traffic {
        memory_bytes: 4 * numbers + n_row as u64 * sectors(4 * widths.r),
        read_bytes: 2 * numbers + 4 * numbers / 4 + numbers / 8,
        write_bytes: 2 * numbers,
        flops: 3 * numbers,
        is_mma: false,
    }
}

fn store_traffic(n_row: usize, widths: Widths) -> Traffic {
    let (n_row, c, r) = (n_row as u64, widths.c as u64, widths.r as u64);
    Traffic {
        memory_bytes: n_row * (4 * (c + r) + 4 * r) + 4 * c,
        // The latent twice, its norm, the key, the row's angles; position and slot by each of four warps.
        read_bytes: n_row * (2 * 2 * c + 4 * c + 2 * r + 4 * r + 8 * 32),
        write_bytes: n_row * 2 * (c + r),
        flops: n_row * (5 * c + 3 * r),
        is_mma: false,
    }
}

fn heads_traffic(n_row: usize, widths: Widths) -> Traffic {
    let numbers = (n_row * (widths.c + widths.n_head * widths.r)) as u64;
    Traffic {
        memory_bytes: 4 * numbers,
        read_bytes: 2 * numbers + n_row as u64 * 4 * 32,
        write_bytes: 2 * numbers,
        flops: 0,
        is_mma: false,
    }
}

/// A launch of so many rows.
type Run = fn(&mut Bench<'_>, Widths, usize) -> Result<()>;

pub(super) fn measures() -> Vec<Measure> {
    let v3 = Widths { n_head: 128, ..WIDTHS[0] };
    let models = |traffic: fn(usize, Widths) -> Traffic, run: Run| {
        let model = |name, rows: usize| {
            Model::new(name, traffic(rows, v3), move |bench, shrink| {
                let widths = Widths { n_head: shrink.of(v3.n_head), ..v3 };
                run(bench, widths, shrink.of(rows))
            })
        };
        vec![model("V3, 64 rows", 64), model("V3, 4096 rows", 4096)]
    };
    let queries: Run =
        |bench, widths, rows| Queries::new(rows, widths, false).run(bench, rows).map(drop);
    let latents: Run =
        |bench, widths, rows| Latents::new(rows, widths, false).run(bench, rows).map(drop);
    vec![
        Measure::new(
            Kernel::RopeWide,
            "5 rows of 16 heads of 64",
            rope_traffic(5, WIDTHS[0]),
            models(rope_traffic, queries),
            |bench| rope(bench, WIDTHS[0], false),
        ),
        Measure::new(
            Kernel::CacheStore,
            "6 rows of 512 + 64",
            store_traffic(6, WIDTHS[0]),
            models(store_traffic, latents),
            |bench| store(bench, WIDTHS[0], false),
        ),
        Measure::new(
            Kernel::CacheStoreHeads,
            "4 rows of 512 + 16 x 64",
            heads_traffic(4, WIDTHS[0]),
            Vec::new(),
            |bench| store_heads(bench, WIDTHS[0]),
        ),
    ]
}
