//! `embed.cu`, `swiglu.cu`, `gather_rows.cu` and `page_copy.cu`: what moves numbers, and the gate.

use super::measure::{Measure, Model, Shrink, Traffic};
use super::{Bench, Check, ROW_COUNTS, Random, Rows, Tolerance, bf16, close, from_bf16, same};
use crate::abi::{EmbedParams, GatherRowsParams, PageCopyParams, SwigluParams};
use crate::geometry::rows as geometry;
use crate::{Family, Kernel, Result};

/// Rows and their widths: less than a vector, no multiple of one, more than a block.
const SHAPES: [(usize, usize); 5] = [(1, 1), (3, 20), (2, 264), (5, 2048), (65, 48)];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for (n, dim) in SHAPES {
        let name = format!("{n} rows of {dim}");
        checks.push(Check::new(Family::Embed, &*name, move |bench| embed(bench, n, dim)));
        checks.push(Check::new(Family::Swiglu, &*name, move |bench| swiglu(bench, n, dim)));
        for types in [(false, false), (false, true), (true, false), (true, true)] {
            for listed in [false, true] {
                let name = format!("{name}, f32 {types:?}, listed {listed}");
                let run = move |bench: &mut Bench<'_>| gather(bench, n, dim, types, listed);
                checks.push(Check::new(Family::GatherRows, name, run));
            }
        }
    }
    checks.push(Check::new(Family::Swiglu, "large gates of both signs", swiglu_extremes));
    checks.push(Check::new(Family::Swiglu, "a row has its bits in any batch", swiglu_invariant));
    for page_bytes in [16, 64 * 576 * 2, 64 * 24 * 2] {
        let name = format!("pages of {page_bytes} bytes");
        checks.push(Check::new(Family::PageCopy, name, move |bench| page_copy(bench, page_bytes)));
    }
    checks
}

fn embed(bench: &mut Bench<'_>, n: usize, dim: usize) -> Result<()> {
    let random = &mut Random::new(dim as u64);
    let vocab_size = 97.max(n + 1);
    let table = Rows::normal(random, vocab_size, dim, dim.next_multiple_of(16) + 16, 1.0).rounded();
    // The first and the last token, and whatever else: of a large table none twice.
    let any = |i: usize| if n < 97 { random.below(97) } else { i * 31 % vocab_size } as u32;
    let token: Vec<u32> = [0, vocab_size as u32 - 1].into_iter().chain((0..n).map(any)).collect();
    let y_stride = dim.next_multiple_of(8) + 16;
    let y = bench.upload(&vec![7.0f32; (n + 2) * y_stride])?;
    let params = EmbedParams {
        y: y as *mut _,
        table: bench.upload(&table.as_bf16())? as *const _,
        token: bench.upload(&token)? as *const _,
        n_row: n as u32 + 2,
        dim: dim as u32,
        y_stride: y_stride as u32,
        table_stride: table.stride as u32,
    };
    bench.launch(geometry::embed(&params), &params)?;
    let got: Vec<f32> = bench.download(y, (n + 2) * y_stride)?;
    for (got, token) in got.chunks(y_stride).zip(token) {
        let mut want = table.row(token as usize).to_vec();
        want.resize(dim.next_multiple_of(8), 0.0);
        want.resize(y_stride, 7.0);
        same("y", got, &want)?;
    }
    Ok(())
}

struct Gate {
    gate: Rows,
    up: Rows,
}

impl Gate {
    fn new(n: usize, dim: usize, scale: f32) -> Self {
        let random = &mut Random::new((3 * n + dim) as u64);
        let stride = dim.next_multiple_of(16);
        Self {
            gate: Rows::normal(random, n, dim, stride + 16, scale).rounded(),
            up: Rows::normal(random, n, dim, stride + 32, 1.0).rounded(),
        }
    }

    /// The first `n` rows, padding included.
    fn run(&self, bench: &mut Bench<'_>, n: usize) -> Result<Vec<u16>> {
        let y_stride = self.gate.dim.next_multiple_of(8);
        let y = bench.alloc::<u16>(n * y_stride)?;
        let params = SwigluParams {
            y: y as *mut _,
            gate: bench.upload(&self.gate.as_bf16())? as *const _,
            up: bench.upload(&self.up.as_bf16())? as *const _,
            n_row: n as u32,
            dim: self.gate.dim as u32,
            y_stride: y_stride as u32,
            gate_stride: self.gate.stride as u32,
            up_stride: self.up.stride as u32,
            unused: 0,
        };
        bench.launch(geometry::swiglu(&params), &params)?;
        bench.download(y, n * y_stride)
    }

    fn check(&self, bench: &mut Bench<'_>) -> Result<()> {
        let y_stride = self.gate.dim.next_multiple_of(8);
        let y = self.run(bench, self.gate.n)?;
        for (row, got) in y.chunks(y_stride).enumerate() {
            let silu = |x: f64| x / (1.0 + (-x).exp());
            let pairs = self.gate.row(row).iter().zip(self.up.row(row));
            let mut want: Vec<f64> =
                pairs.map(|(gate, up)| silu(f64::from(*gate)) * f64::from(*up)).collect();
            want.resize(y_stride, 0.0);
            let got: Vec<f32> = got.iter().map(|bits| from_bf16(*bits)).collect();
            // Gates far below zero give numbers below the smallest bf16: they may become zero.
            close(&format!("row {row}"), &got, &want, Tolerance::bf16(1e-30))?;
        }
        Ok(())
    }
}

fn swiglu(bench: &mut Bench<'_>, n: usize, dim: usize) -> Result<()> {
    Gate::new(n, dim, 2.0).check(bench)
}

fn swiglu_extremes(bench: &mut Bench<'_>) -> Result<()> {
    let mut gate = Gate::new(1, 8, 1.0);
    gate.gate.row_mut(0).copy_from_slice(&[0.0, -0.0, 88.0, -60.0, 1e4, -1e4, 3e38, -3e38]);
    gate.up.row_mut(0).fill(1.0);
    gate.gate = gate.gate.rounded();
    gate.check(bench)
}

fn swiglu_invariant(bench: &mut Bench<'_>) -> Result<()> {
    let gate = Gate::new(512, 24, 2.0);
    let all = gate.run(bench, 512)?;
    for n in ROW_COUNTS {
        let some = gate.run(bench, n)?;
        same(&format!("{n} rows"), &some, &all[..some.len()])?;
    }
    Ok(())
}

fn gather(
    bench: &mut Bench<'_>,
    n: usize,
    dim: usize,
    (from_f32, to_f32): (bool, bool),
    listed: bool,
) -> Result<()> {
    let random = &mut Random::new(dim as u64);
    let mut x = Rows::normal(random, n + 3, dim, dim.next_multiple_of(16) + 16, 1.0);
    if !from_f32 {
        x = x.rounded();
    }
    let row: Vec<u32> = (0..n).map(|_| random.below(n + 3) as u32).collect();
    let y_stride = dim.next_multiple_of(8);
    let y = bench.alloc::<f32>(n * y_stride)?;
    let params = GatherRowsParams {
        y: y as *mut _,
        x: if from_f32 { bench.upload(&x.values)? } else { bench.upload(&x.as_bf16())? }
            as *const _,
        row: if listed { bench.upload(&row)? as *const _ } else { std::ptr::null() },
        n_out: n as u32,
        dim: dim as u32,
        y_stride: y_stride as u32,
        x_stride: x.stride as u32,
    };
    bench.launch(geometry::gather_rows(&params, from_f32, to_f32), &params)?;
    let mut want = Vec::new();
    for (i, row) in row.iter().enumerate() {
        let from = if listed { *row as usize } else { i };
        want.extend_from_slice(x.row(from));
        want.resize((i + 1) * y_stride, 0.0);
    }
    if to_f32 {
        return same("y", &bench.download::<f32>(y, n * y_stride)?, &want);
    }
    let want: Vec<u16> = want.into_iter().map(bf16).collect();
    same("y", &bench.download::<u16>(y, n * y_stride)?, &want)
}

fn page_copy(bench: &mut Bench<'_>, page_bytes: usize) -> Result<()> {
    let random = &mut Random::new(page_bytes as u64);
    let mut pages: Vec<u8> = (0..9 * page_bytes).map(|_| random.bits() as u8).collect();
    let (from, to) = ([8u32, 0, 8], [3u32, 5, 1]);
    let cache = bench.upload(&pages)?;
    let params = PageCopyParams {
        cache: cache as *mut _,
        from: bench.upload(&from)? as *const _,
        to: bench.upload(&to)? as *const _,
        n_copy: 3,
        page_bytes: page_bytes as u32,
    };
    bench.launch(geometry::page_copy(&params), &params)?;
    for (from, to) in from.iter().zip(to) {
        let from = *from as usize * page_bytes;
        pages.copy_within(from..from + page_bytes, to as usize * page_bytes);
    }
    same("cache", &bench.download::<u8>(cache, 9 * page_bytes)?, &pages)
}

/// Rows that are read as numbers of `from` bytes and written as numbers of `to`, with an index for every warp of vectors of
/// `vector` numbers where there are indices.
fn moved(n: usize, dim: usize, [from, to]: [u64; 2], vector: u64, has_index: bool) -> Traffic {
    let numbers = (n * dim) as u64;
    let index = if has_index { numbers / vector } else { 0 };
    Traffic {
        memory_bytes: numbers * (from + to),
        read_bytes: numbers * from + index,
        write_bytes: numbers * to,
        flops: 0,
        is_mma: false,
    }
}

fn gate_traffic(n: usize, dim: usize) -> Traffic {
    let numbers = (n * dim) as u64;
    Traffic {
        memory_bytes: 6 * numbers,
        read_bytes: 4 * numbers,
        write_bytes: 2 * numbers,
        flops: 4 * numbers,
        is_mma: false,
    }
}

/// A warp takes 512 bytes and asks for both pages' numbers, a sector each.
fn page_traffic(n: u64, page_bytes: u64) -> Traffic {
    let bytes = n * page_bytes;
    Traffic {
        memory_bytes: 2 * bytes,
        read_bytes: bytes + bytes / 8,
        write_bytes: bytes,
        ..Traffic::default()
    }
}

pub(super) fn measures() -> Vec<Measure> {
    let mut measures = vec![
        Measure::new(
            Kernel::Embed,
            "6 rows of 2048",
            moved(6, 2048, [2, 4], 4, true),
            [("V3, 64 rows", 64), ("V3, 4096 rows", 4096)]
                .map(|(name, n)| {
                    let traffic = moved(n, 7168, [2, 4], 4, true);
                    let run = move |bench: &mut Bench<'_>, shrink: Shrink| {
                        embed(bench, shrink.of(n - 2), shrink.of(7168))
                    };
                    Model::new(name, traffic, run)
                })
                .into(),
            |bench| embed(bench, 4, 2048),
        ),
        Measure::new(
            Kernel::Swiglu,
            "4 rows of 2048",
            gate_traffic(4, 2048),
            [("V3 dense, 64 rows", 64), ("V3 dense, 4096 rows", 4096)]
                .map(|(name, n)| {
                    let run = move |bench: &mut Bench<'_>, shrink: Shrink| {
                        let n = shrink.of(n);
                        Gate::new(n, shrink.of(18_432), 2.0).run(bench, n).map(drop)
                    };
                    Model::new(name, gate_traffic(n, 18_432), run)
                })
                .into(),
            |bench| swiglu(bench, 4, 2048),
        ),
        Measure::new(
            Kernel::PageCopy,
            "3 pages of 73728 bytes",
            page_traffic(3, 64 * 576 * 2),
            vec![Model::new(
                "V3, 3 pages of one layer",
                page_traffic(3, 64 * 576 * 2),
                |bench, shrink| page_copy(bench, shrink.of(64 * 576) * 2),
            )],
            |bench| page_copy(bench, 64 * 576 * 2),
        ),
    ];
    for (kernel, from_f32, to_f32) in [
        (Kernel::GatherBf16ToBf16, false, false),
        (Kernel::GatherBf16ToF32, false, true),
        (Kernel::GatherF32ToBf16, true, false),
        (Kernel::GatherF32ToF32, true, true),
    ] {
        let bytes = [from_f32, to_f32].map(|is_f32| if is_f32 { 4 } else { 2 });
        let models = vec![Model::new(
            "V3, 64 rows",
            moved(64, 7168, bytes, 4, true),
            move |bench, shrink| {
                gather(bench, shrink.of(64), shrink.of(7168), (from_f32, to_f32), true)
            },
        )];
        let run = move |bench: &mut Bench<'_>| gather(bench, 4, 2048, (from_f32, to_f32), true);
        let traffic = moved(4, 2048, bytes, 4, true);
        measures.push(Measure::new(kernel, "4 rows of 2048", traffic, models, run));
    }
    measures
}
