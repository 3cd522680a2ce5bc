//! `mla_decode.cu` against its formula in f64.

use super::measure::{Measure, Model, Traffic, sectors};
use super::{Bench, Check, Random, Rows, Tolerance, close, from_bf16, same};
use crate::abi::MlaDecodeParams;
use crate::geometry::mla_decode as geometry;
use crate::{Family, Kernel, PAGE_TOKENS, Result};

/// Sizes of attention.
#[derive(Debug, Clone, Copy)]
struct Shape {
    n_head: usize,
    c: usize,
    n: usize,
    r: usize,
    own_keys: bool,
}

/// Released sizes, sizes that fill no fragment, rows that no vector fits, heads with rotary keys of their own.
const SHAPES: [Shape; 5] = [
    Shape { n_head: 3, c: 32, n: 12, r: 8, own_keys: false },
    Shape { n_head: 20, c: 24, n: 16, r: 8, own_keys: false },
    Shape { n_head: 5, c: 20, n: 10, r: 6, own_keys: false },
    Shape { n_head: 4, c: 64, n: 16, r: 16, own_keys: true },
    Shape { n_head: 17, c: 160, n: 24, r: 64, own_keys: false },
];

/// DeepSeek-V2-Lite and V3.
const V2_LITE: Shape = Shape { n_head: 16, c: 512, n: 128, r: 64, own_keys: false };
const V3: Shape = Shape { n_head: 128, ..V2_LITE };

/// Contexts in a batch: one token, parts of a tile and of a page, a page, two splits and three.
const CONTEXTS: [usize; 8] = [1, 7, 33, 64, 65, 256, 258, 520];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    let small = SHAPES.iter().map(|shape| (*shape, &CONTEXTS[..]));
    for (shape, contexts) in small.chain([(V2_LITE, &[70, 300, 1][..]), (V3, &[100][..])]) {
        let name = format!("{shape:?}, contexts {contexts:?}");
        let run = move |bench: &mut Bench<'_>| check(bench, shape, contexts);
        checks.push(Check::new(Family::MlaDecode, name, run));
    }
    checks.push(Check::new(Family::MlaDecode, "a row has its bits in any batch", invariant));
    checks
}

struct Case {
    shape: Shape,
    /// Tokens that each row sees; each is a sequence of its own.
    contexts: Vec<usize>,
    q_latent: Rows,
    q: Rows,
    cache: Rows,
    /// Each row's pages.
    pages: Vec<Vec<u32>>,
    scale: f32,
}

impl Case {
    fn new(shape: Shape, contexts: &[usize]) -> Self {
        let random = &mut Random::new(shape.c as u64 + contexts.len() as u64);
        let n_row = contexts.len();
        let n_page: usize = contexts.iter().map(|context| context.div_ceil(PAGE_TOKENS)).sum();
        // Pages in no order, and one that nobody has.
        let mut free: Vec<u32> = (0..=n_page as u32).collect();
        let pages = contexts.iter().map(|context| {
            let take = |_| free.swap_remove(random.below(free.len()));
            (0..context.div_ceil(PAGE_TOKENS)).map(take).collect()
        });
        let pages = pages.collect();
        let keys = if shape.own_keys { shape.n_head } else { 1 };
        let width = shape.c + keys * shape.r;
        let stride = width.next_multiple_of(8);
        let cache = Rows::normal(random, (n_page + 1) * PAGE_TOKENS, width, stride, 1.0).rounded();
        let latents = shape.n_head * shape.c;
        let queries = shape.n_head * (shape.n + shape.r);
        let q_latent = Rows::normal(random, n_row, latents, latents.next_multiple_of(8), 1.0);
        let q = Rows::normal(random, n_row, queries, queries.next_multiple_of(8) + 8, 1.0);
        // Scores of about 2: some tokens matter, none alone.
        let scale = 2.0 / ((shape.c + shape.r) as f32).sqrt();
        let contexts = contexts.to_vec();
        Self { shape, contexts, q_latent: q_latent.rounded(), q: q.rounded(), cache, pages, scale }
    }

    /// `o_latent` of the rows in `rows`, in one launch.
    fn run(&self, bench: &mut Bench<'_>, rows: &[usize], heads: u32) -> Result<Vec<u16>> {
        let shape = &self.shape;
        let pick = |from: &Rows| -> Vec<u16> {
            let bits = from.as_bf16();
            rows.iter().flat_map(|row| bits[row * from.stride..][..from.stride].to_vec()).collect()
        };
        let position: Vec<u32> = rows.iter().map(|row| self.contexts[*row] as u32 - 1).collect();
        let sequence: Vec<u32> = (0..rows.len() as u32).collect();
        let mut page_start = vec![0u32];
        let mut page: Vec<u32> = Vec::new();
        for row in rows {
            page.extend(&self.pages[*row]);
            page_start.push(page.len() as u32);
        }
        let longest = rows.iter().map(|row| self.contexts[*row]).max().unwrap_or(1);
        let n_split_max = geometry::n_split_max(longest);
        let n_part = rows.len() * shape.n_head * n_split_max;
        let o_len = rows.len() * self.q_latent.stride;
        let o = bench.upload(&vec![0u16; o_len])?;
        let params = MlaDecodeParams {
            o_latent: o as *mut _,
            part: bench.alloc::<f32>(n_part * shape.c.next_multiple_of(8))? as *mut _,
            lse: bench.alloc::<f32>(n_part)? as *mut _,
            q_latent: bench.upload(&pick(&self.q_latent))? as *const _,
            q: bench.upload(&pick(&self.q))? as *const _,
            cache: bench.upload(&self.cache.as_bf16())? as *const _,
            position: bench.upload(&position)? as *const _,
            sequence: bench.upload(&sequence)? as *const _,
            page_start: bench.upload(&page_start)? as *const _,
            page: bench.upload(&page)? as *const _,
            n_row: rows.len() as u32,
            n_split_max: n_split_max as u32,
            n_head: shape.n_head as u32,
            kv_lora_rank: shape.c as u32,
            qk_nope_head_dim: shape.n as u32,
            qk_rope_head_dim: shape.r as u32,
            k_pe_head_stride: if shape.own_keys { shape.r as u32 } else { 0 },
            o_stride: self.q_latent.stride as u32,
            q_latent_stride: self.q_latent.stride as u32,
            q_stride: self.q.stride as u32,
            cache_stride: self.cache.stride as u32,
            scale: self.scale,
        };
        bench.launch(geometry::decode(&params, heads), &params)?;
        bench.launch(geometry::combine(&params), &params)?;
        bench.download(o, o_len)
    }

    /// One head's output in f64, and the size of the error that weights rounded to bf16 leave in it.
    fn oracle(&self, row: usize, head: usize) -> (Vec<f64>, f64) {
        let Shape { c, n, r, own_keys, .. } = self.shape;
        let q_latent = &self.q_latent.row(row)[head * c..][..c];
        let q_pe = &self.q.row(row)[head * (n + r) + n..][..r];
        let token = |u: usize| {
            let page = self.pages[row][u / PAGE_TOKENS] as usize;
            self.cache.row(page * PAGE_TOKENS + u % PAGE_TOKENS)
        };
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let scores: Vec<f64> = (0..self.contexts[row])
            .map(|u| {
                let (latent, keys) = token(u).split_at(c);
                let k_pe = if own_keys { &keys[head * r..][..r] } else { keys };
                f64::from(self.scale) * (dot(q_latent, latent) + dot(q_pe, k_pe))
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        let mut out = vec![0.0; c];
        let mut squares = 0.0;
        for (u, score) in scores.iter().enumerate() {
            let weight = (score - max).exp() / sum;
            squares += weight * weight;
            out.iter_mut().zip(token(u)).for_each(|(out, v)| *out += weight * f64::from(*v));
        }
        (out, squares.sqrt())
    }
}

/// Weights are rounded to bf16, by up to 2^-9 of themselves, each by itself; values are up to 4 or so.
fn tolerance(spread: f64) -> Tolerance {
    Tolerance { relative: 1.0 / 256.0, absolute: spread * 4.0 / 512.0 + 1e-5 }
}

fn check(bench: &mut Bench<'_>, shape: Shape, contexts: &[usize]) -> Result<()> {
    let case = Case::new(shape, contexts);
    let rows: Vec<usize> = (0..contexts.len()).collect();
    let heads = geometry::heads(shape.n_head as u32, &bench.caps());
    let o = case.run(bench, &rows, heads)?;
    for row in rows {
        for head in 0..shape.n_head {
            let got = &o[row * case.q_latent.stride + head * shape.c..][..shape.c];
            let got: Vec<f32> = got.iter().map(|bits| from_bf16(*bits)).collect();
            let (want, spread) = case.oracle(row, head);
            let what = format!("context {}, head {head}", contexts[row]);
            close(&what, &got, &want, tolerance(spread))?;
        }
    }
    Ok(())
}

/// Alone or among others, whatever the number of heads of a block.
fn invariant(bench: &mut Bench<'_>) -> Result<()> {
    let shape = Shape { n_head: 20, c: 64, n: 16, r: 16, own_keys: false };
    let case = Case::new(shape, &CONTEXTS);
    let rows: Vec<usize> = (0..CONTEXTS.len()).collect();
    let all = case.run(bench, &rows, 16)?;
    let stride = case.q_latent.stride;
    for row in rows {
        let alone = case.run(bench, &[row], 16)?;
        same(&format!("context {}", CONTEXTS[row]), &alone, &all[row * stride..][..stride])?;
    }
    let heads = geometry::heads(shape.n_head as u32, &bench.caps());
    let rows: Vec<usize> = (0..CONTEXTS.len()).rev().collect();
    let turned = case.run(bench, &rows, heads)?;
    let turned: Vec<u16> = turned.chunks(stride).rev().flatten().copied().collect();
    same("the other way round", &turned, &all)
}

/// One row: its cache once for every `heads` heads, queries, and what comes out of it: parts where there are splits.
fn traffic(shape: Shape, context: usize, heads: usize) -> Traffic {
    let Shape { n_head, c, r, .. } = shape;
    let cache = context * (c + r) * 2;
    let queries = n_head * (c + r) * 2;
    let splits = geometry::n_split(context);
    let out = if splits == 1 { n_head * c * 2 } else { n_head * splits * (c * 4 + 32) };
    // A warp looks its row, sequence and first page up, and each tile's page.
    let blocks = n_head.div_ceil(heads) * splits;
    let indices = blocks * heads / 4 * (3 + context / splits / 32) * 32;
    Traffic {
        memory_bytes: (cache + queries + out) as u64,
        read_bytes: (cache * n_head.div_ceil(heads) + queries * splits + indices) as u64,
        write_bytes: out as u64,
        flops: 2 * (n_head * context * (2 * c + r)) as u64,
        is_mma: true,
    }
}

fn combine_traffic(shape: Shape, context: usize) -> Traffic {
    let (n_head, splits) = (shape.n_head, geometry::n_split(context));
    let parts = n_head * splits * shape.c * 4;
    let out = n_head * shape.c * 2;
    // Each of four warps reads the position and every split's sum.
    let sums = n_head * 4 * (32 + sectors(splits * 4) as usize);
    Traffic {
        memory_bytes: (parts + out + n_head * splits * 4) as u64,
        read_bytes: (parts + sums) as u64,
        write_bytes: out as u64,
        flops: 2 * (n_head * splits * shape.c) as u64,
        is_mma: false,
    }
}

/// One row of 4096 tokens.
fn launched(name: &'static str, traffic: Traffic, shape: Shape, heads: u32) -> Model {
    Model::new(name, traffic, move |bench, shrink| {
        let shape = Shape { n_head: shrink.of(shape.n_head), ..shape };
        Case::new(shape, &[shrink.of(4096)]).run(bench, &[0], heads).map(drop)
    })
}

pub(super) fn measures() -> Vec<Measure> {
    let heads_64 = Shape { n_head: 64, ..V2_LITE };
    let measure = |(kernel, shape, heads): (Kernel, Shape, usize)| {
        let case = Case::new(shape, &[128]);
        let model =
            |name, shape: Shape| launched(name, traffic(shape, 4096, heads), shape, heads as u32);
        let models = vec![model("V3, 4096 tokens", V3), model("V2-Lite, 4096 tokens", V2_LITE)];
        let run = move |bench: &mut Bench<'_>| case.run(bench, &[0], heads as u32).map(drop);
        let words = format!("{} heads, 128 tokens", shape.n_head);
        Measure::new(kernel, words, traffic(shape, 128, heads), models, run)
    };
    let few = Shape { n_head: 2, ..V2_LITE };
    let case = Case::new(few, &[520]);
    let mut measures = vec![
        measure((Kernel::MlaDecode16, V2_LITE, 16)),
        measure((Kernel::MlaDecode64, heads_64, 64)),
    ];
    measures.push(Measure::new(
        Kernel::MlaCombine,
        "2 heads, 520 tokens",
        combine_traffic(few, 520),
        vec![launched("V3, 4096 tokens", combine_traffic(V3, 4096), V3, 16)],
        move |bench| case.run(bench, &[0], 16).map(drop),
    ));
    measures
}
