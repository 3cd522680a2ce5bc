//! `rms_norm.cu` against its formula in f64.

use super::measure::{Measure, Model, Traffic};
use super::{Bench, Check, ROW_COUNTS, Random, Rows, Tolerance, close, from_bf16, same};
use crate::abi::{AddRmsNormParams, RmsNormParams};
use crate::{Family, Kernel, Result, geometry::rms_norm as geometry};

const EPS: f32 = 1e-6;

/// The kernel's sums have up to 7168 terms of one sign: their error is far below bf16's last place.
const TOLERANCE: Tolerance = Tolerance { relative: 1.0 / 256.0, absolute: 1e-6 };

/// Rows of one number and of none but padding, rows that fill no vector, released sizes.
const SHAPES: [(usize, usize); 7] =
    [(1, 1), (3, 5), (2, 104), (5, 512), (1, 1536), (3, 2048), (2, 7168)];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for (n, dim) in SHAPES {
        for kind in [Kind::F32, Kind::Bf16, Kind::Add] {
            let name = format!("{kind:?}, {n} rows of {dim}");
            checks.push(Check::new(Family::RmsNorm, name, move |bench| check(bench, kind, n, dim)));
        }
    }
    for kind in [Kind::F32, Kind::Bf16, Kind::Add] {
        let name = format!("{kind:?}, a row has its bits in any batch");
        checks.push(Check::new(Family::RmsNorm, name, move |bench| invariant(bench, kind)));
    }
    checks
}

/// The three kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    Bf16,
    Add,
}

struct Case {
    kind: Kind,
    x: Rows,
    delta: Rows,
    weight: Vec<f32>,
}

impl Case {
    fn new(kind: Kind, n: usize, dim: usize) -> Self {
        let random = &mut Random::new((n * dim) as u64);
        // Rows are further apart than they must be, by another amount for each operand.
        let stride = dim.next_multiple_of(8);
        let x = Rows::normal(random, n, dim, stride.next_multiple_of(16) + 16, 3.0);
        let mut weight = random.normals(dim);
        weight.resize(stride, 0.0);
        Self {
            kind,
            x: if kind == Kind::Bf16 { x.rounded() } else { x },
            delta: Rows::normal(random, n, dim, stride.next_multiple_of(16) + 32, 1.0).rounded(),
            weight,
        }
    }

    /// The first `n` rows of `y`, padding included, and of `x` afterwards.
    fn run(&self, bench: &mut Bench<'_>, n: usize) -> Result<(Vec<u16>, Vec<f32>)> {
        let (dim, y_stride) = (self.x.dim, self.x.dim.next_multiple_of(8));
        let y = bench.alloc::<u16>(n * y_stride)?;
        let weight = bench.upload(&self.weight)?;
        let x = match self.kind {
            Kind::Bf16 => bench.upload(&self.x.as_bf16())?,
            Kind::F32 | Kind::Add => bench.upload(&self.x.values)?,
        };
        if self.kind == Kind::Add {
            let delta = bench.upload(&self.delta.as_bf16())?;
            let params = AddRmsNormParams {
                y: y as *mut _,
                x: x as *mut _,
                delta: delta as *const _,
                weight: weight as *const _,
                n_row: n as u32,
                dim: dim as u32,
                y_stride: y_stride as u32,
                x_stride: self.x.stride as u32,
                delta_stride: self.delta.stride as u32,
                eps: EPS,
            };
            bench.launch(geometry::add_rms_norm(&params), &params)?;
        } else {
            let params = RmsNormParams {
                y: y as *mut _,
                x: x as *const _,
                weight: weight as *const _,
                n_row: n as u32,
                dim: dim as u32,
                y_stride: y_stride as u32,
                x_stride: self.x.stride as u32,
                eps: EPS,
                unused: 0,
            };
            bench.launch(geometry::rms_norm(&params, self.kind == Kind::F32), &params)?;
        }
        let x = match self.kind {
            Kind::Bf16 => Vec::new(),
            Kind::F32 | Kind::Add => bench.download(x, n * self.x.stride)?,
        };
        Ok((bench.download(y, n * y_stride)?, x))
    }

    /// What `x` is normed as, `[dim]`: the sum as f32 has it, since it is stored.
    fn input(&self, row: usize) -> Vec<f32> {
        let added = |(x, d): (&f32, &f32)| if self.kind == Kind::Add { x + d } else { *x };
        self.x.row(row).iter().zip(self.delta.row(row)).map(added).collect()
    }
}

fn check(bench: &mut Bench<'_>, kind: Kind, n: usize, dim: usize) -> Result<()> {
    let case = Case::new(kind, n, dim);
    let (y, x) = case.run(bench, n)?;
    for row in 0..n {
        let input = case.input(row);
        let squares: f64 = input.iter().map(|x| f64::from(*x).powi(2)).sum();
        let scale = 1.0 / (squares / dim as f64 + f64::from(EPS)).sqrt();
        let mut want: Vec<f64> = input
            .iter()
            .zip(&case.weight)
            .map(|(x, w)| f64::from(*x) * scale * f64::from(*w))
            .collect();
        want.resize(dim.next_multiple_of(8), 0.0);
        let got = y.chunks(want.len()).nth(row).unwrap_or_default();
        let got: Vec<f32> = got.iter().map(|bits| from_bf16(*bits)).collect();
        close(&format!("y, row {row}"), &got, &want, TOLERANCE)?;
        if kind == Kind::Add {
            same("x", &x[row * case.x.stride..][..dim], &input)?;
        }
    }
    Ok(())
}

fn invariant(bench: &mut Bench<'_>, kind: Kind) -> Result<()> {
    let case = Case::new(kind, 512, 40);
    let (all, _) = case.run(bench, 512)?;
    for n in ROW_COUNTS {
        let (some, _) = case.run(bench, n)?;
        same(&format!("{n} rows"), &some, &all[..some.len()])?;
    }
    Ok(())
}

/// What rows of a whole number of vectors move. `x` and the weight are read twice and once by every row.
fn traffic(kind: Kind, n: usize, dim: usize) -> Traffic {
    let (n, dim) = (n as u64, dim as u64);
    let x_bytes = if kind == Kind::Bf16 { 2 } else { 4 };
    let (delta_read, x_written) = if kind == Kind::Add { (2, 4) } else { (0, 0) };
    Traffic {
        memory_bytes: n * dim * (x_bytes + delta_read + x_written + 2) + 4 * dim,
        read_bytes: n * dim * (2 * x_bytes + delta_read + 4),
        write_bytes: n * dim * (x_written + 2),
        flops: n * dim * 5,
        is_mma: false,
    }
}

pub(super) fn measures() -> Vec<Measure> {
    let measure = |(kind, kernel): (Kind, Kernel)| {
        let dim = if kind == Kind::Bf16 { 1536 } else { 7168 };
        let model = |name, rows: usize| {
            Model::new(name, traffic(kind, rows, dim), move |bench, shrink| {
                let rows = shrink.of(rows);
                Case::new(kind, rows, shrink.of(dim)).run(bench, rows).map(drop)
            })
        };
        let models = vec![model("V3, 64 rows", 64), model("V3, 4096 rows", 4096)];
        let run = move |bench: &mut Bench<'_>| Case::new(kind, 2, dim).run(bench, 2).map(drop);
        Measure::new(kernel, format!("2 rows of {dim}"), traffic(kind, 2, dim), models, run)
    };
    let kinds = [
        (Kind::F32, Kernel::RmsNormF32),
        (Kind::Bf16, Kernel::RmsNormBf16),
        (Kind::Add, Kernel::AddRmsNorm),
    ];
    kinds.into_iter().map(measure).collect()
}
