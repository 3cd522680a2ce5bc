//! `head_linear.cu` against its formula in f64: both halves of `kv_b`, heads that begin anywhere.

use super::linear::SUM_ERROR;
use super::measure::{Measure, Model, Traffic};
use super::tiles::{FEW, MID, product};
use super::weights::Weight;
use super::{Bench, Check, ROW_COUNTS, Random, Rows, Tolerance, close, from_bf16, same};
use crate::abi::HeadLinearParams;
use crate::geometry::head_linear::{head_linear, launch};
use crate::geometry::linear::Form;
use crate::{Family, Format, Kernel, Result};

/// One product: rows, heads, what a head reads, what lies between heads of x, what a head gives, rows of a head's weights
/// and the first of them that is used.
#[derive(Debug, Clone, Copy)]
struct Shape {
    n: usize,
    n_head: usize,
    n_in: usize,
    x_head: usize,
    n_out: usize,
    w_head: usize,
    w_first: usize,
}

/// Key and value halves of: V3, heads of 12 + 8 and 12 numbers, heads of 16 + 8 and 20, a latent of 160.
const SHAPES: [Shape; 7] = [
    Shape { n: 2, n_head: 2, n_in: 128, x_head: 192, n_out: 512, w_head: 512, w_first: 0 },
    Shape { n: 3, n_head: 2, n_in: 512, x_head: 512, n_out: 128, w_head: 256, w_first: 128 },
    Shape { n: 9, n_head: 4, n_in: 12, x_head: 20, n_out: 32, w_head: 32, w_first: 0 },
    Shape { n: 9, n_head: 4, n_in: 32, x_head: 32, n_out: 12, w_head: 24, w_first: 12 },
    Shape { n: 66, n_head: 3, n_in: 16, x_head: 24, n_out: 24, w_head: 24, w_first: 0 },
    Shape { n: 66, n_head: 3, n_in: 24, x_head: 24, n_out: 20, w_head: 36, w_first: 16 },
    Shape { n: 1, n_head: 5, n_in: 160, x_head: 160, n_out: 21, w_head: 21, w_first: 0 },
];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for shape in SHAPES {
        for form in [Form::Few, Form::Mid] {
            let name = format!("{form:?}, {shape:?}");
            checks
                .push(Check::new(Family::HeadLinear, name, move |bench| check(bench, shape, form)));
        }
    }
    checks.push(Check::new(Family::HeadLinear, "a row has its bits in any batch", invariant));
    checks
}

struct Case {
    shape: Shape,
    weight: Weight,
    x: Rows,
    y_stride: usize,
}

impl Case {
    fn new(shape: Shape) -> Self {
        let random = &mut Random::new((shape.n + 100 * shape.n_in) as u64);
        let weight = Weight::new(random, Format::Bf16, shape.n_head * shape.w_head, shape.n_in);
        let width = shape.n_head * shape.x_head;
        let x = Rows::normal(random, shape.n, width, width.next_multiple_of(8), 1.0).rounded();
        Self { shape, weight, x, y_stride: (shape.n_head * shape.n_out).next_multiple_of(8) }
    }

    /// The same at any size, for a launch that nobody checks.
    fn large(shape: Shape) -> Self {
        let random = &mut Random::new(shape.n_in as u64);
        let n_out = shape.n_head * shape.w_head;
        let width = shape.n_head * shape.x_head;
        let x = Rows::normal(random, shape.n, width, width.next_multiple_of(8), 1.0);
        let weight = Weight::repeated(random, Format::Bf16, n_out, shape.n_in);
        Self { shape, weight, x, y_stride: (shape.n_head * shape.n_out).next_multiple_of(8) }
    }

    fn run(&self, bench: &mut Bench<'_>, form: Option<Form>, n: usize) -> Result<Vec<u16>> {
        let shape = self.shape;
        let y = bench.upload(&vec![0u16; n * self.y_stride])?;
        let params = HeadLinearParams {
            w: self.weight.upload(bench)?,
            y: y as *mut _,
            x: bench.upload(&self.x.as_bf16())? as *const _,
            n_row: n as u32,
            n_head: shape.n_head as u32,
            n_out: shape.n_out as u32,
            n_in: shape.n_in as u32,
            head_row_first: shape.w_first as u32,
            head_row_stride: shape.w_head as u32,
            y_stride: self.y_stride as u32,
            y_head_stride: shape.n_out as u32,
            x_stride: self.x.stride as u32,
            x_head_stride: shape.x_head as u32,
        };
        let geometry = match form {
            Some(form) => launch(&params, form),
            None => head_linear(&params),
        };
        bench.launch(geometry, &params)?;
        bench.download(y, n * self.y_stride)
    }
}

fn check(bench: &mut Bench<'_>, shape: Shape, form: Form) -> Result<()> {
    let case = Case::new(shape);
    let y = case.run(bench, Some(form), shape.n)?;
    for row in 0..shape.n {
        for head in 0..shape.n_head {
            let got = &y[row * case.y_stride + head * shape.n_out..][..shape.n_out];
            let got: Vec<f32> = got.iter().map(|bits| from_bf16(*bits)).collect();
            let x = &case.x.row(row)[head * shape.x_head..][..shape.n_in];
            let (all, sizes) = case.weight.apply(x);
            let first = head * shape.w_head + shape.w_first;
            let error = sizes.iter().copied().fold(0.0, f64::max) * SUM_ERROR;
            let tolerance = Tolerance::bf16(error);
            let want = &all[first..first + shape.n_out];
            close(&format!("row {row}, head {head}"), &got, want, tolerance)?;
        }
    }
    Ok(())
}

fn invariant(bench: &mut Bench<'_>) -> Result<()> {
    let n_in = 136;
    let case = Case::new(Shape {
        n: 512,
        n_head: 2,
        n_in,
        x_head: 152,
        n_out: 24,
        w_head: 24,
        w_first: 0,
    });
    let all = case.run(bench, None, 512)?;
    for n in ROW_COUNTS.into_iter().filter(|n| *n < 512) {
        let some = case.run(bench, None, n)?;
        same(&format!("{n} rows"), &some, &all[..some.len()])?;
    }
    let few = case.run(bench, Some(Form::Few), 70)?;
    same("few rows a block", &few, &all[..few.len()])
}

/// As many products as there are heads.
fn traffic(form: Form, n: usize, n_head: usize, n_in: usize, n_out: usize) -> Traffic {
    let tile = if form == Form::Few { FEW } else { MID };
    product(Format::Bf16, tile, [n, n_in, n_out], 2).times(n_head)
}

/// Two heads of V3 in both forms, and all of them.
pub(super) fn measures() -> Vec<Measure> {
    let measure = |(kernel, form, n): (Kernel, Form, usize)| {
        let shape =
            Shape { n, n_head: 2, n_in: 128, x_head: 192, n_out: 512, w_head: 512, w_first: 0 };
        let case = Case::new(shape);
        let values =
            Shape { n_in: 512, x_head: 512, n_out: 128, w_head: 256, w_first: 128, ..shape };
        let model = |name, shape: Shape, n_head: usize| {
            let traffic = traffic(form, n, n_head, shape.n_in, shape.n_out);
            Model::new(name, traffic, move |bench, shrink| {
                let (n, n_head) = (shrink.of(n), shrink.of(n_head));
                Case::large(Shape { n, n_head, ..shape }).run(bench, Some(form), n).map(drop)
            })
        };
        let models = vec![
            model("V3, keys", shape, 128),
            model("V3, values", values, 128),
            model("V2-Lite, keys", shape, 16),
        ];
        let run = move |bench: &mut Bench<'_>| case.run(bench, Some(form), n).map(drop);
        let words = format!("{n} rows, 2 heads of 128 to 512");
        Measure::new(kernel, words, traffic(form, n, 2, 128, 512), models, run)
    };
    [(Kernel::HeadLinearFew, Form::Few, 8), (Kernel::HeadLinearMid, Form::Mid, 64)]
        .map(measure)
        .into()
}
