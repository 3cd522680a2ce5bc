//! `linear.cu` against its formula in f64, in every weight format and form.

use super::measure::{Measure, Model};
use super::tiles::{FEW, MID, SOME, many, product};
use super::weights::Weight;
use super::{Bench, Check, ROW_COUNTS, Random, Rows, Tolerance, close, from_bf16, same};
use crate::abi::LinearParams;
use crate::geometry::linear::{Form, launch, linear};
use crate::{Family, Format, Result};

/// Rows, columns, features: less than a fragment, one number more than a tile, columns that end inside a block, a segment and a
/// quant block, several rounds of eight segments.
const FEW_SHAPES: [(usize, usize, usize); 5] =
    [(1, 1, 1), (3, 20, 17), (8, 129, 130), (5, 1160, 40), (9, 200, 65)];
/// The same, and more rows than a tile.
const SOME_SHAPES: [(usize, usize, usize); 3] = [(3, 20, 17), (33, 129, 40), (12, 1160, 16)];
/// The same.
const MANY_SHAPES: [(usize, usize, usize); 3] = [(3, 20, 17), (66, 200, 129), (130, 72, 136)];

/// A product's error beside the rounding of its result: tensor cores cut addends 24 bits below the largest of each 16, and a sum has
/// up to 1160 terms. As a share of the sum of the terms' sizes that is 2^-24 for each of some dozens of additions.
pub(super) const SUM_ERROR: f64 = 1.0 / (1 << 19) as f64;

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for format in Format::ALL {
        for form in Form::ALL {
            let shapes: &[_] = match form {
                Form::Few => &FEW_SHAPES,
                Form::Some => &SOME_SHAPES,
                Form::Mid | Form::Many => &MANY_SHAPES,
            };
            for &(n, n_in, n_out) in shapes {
                let name = format!("{format:?} {form:?}, {n} rows, {n_in} to {n_out}");
                checks.push(Check::new(Family::Linear, name, move |bench| {
                    check(bench, format, form, [n, n_in, n_out])
                }));
            }
        }
        let name = format!("{format:?}, a row has its bits in any batch and form");
        checks.push(Check::new(Family::Linear, name, move |bench| invariant(bench, format)));
    }
    checks
}

struct Case {
    weight: Weight,
    x: Rows,
    n_out: usize,
    is_f32: bool,
}

/// What stands in y before: each of its places is to be written.
const STALE: u32 = 0x7fc0_7fc0;

impl Case {
    fn new(format: Format, n: usize, n_in: usize, n_out: usize, is_f32: bool) -> Self {
        let random = &mut Random::new((n * 1000 + n_in * 10 + n_out) as u64);
        let x = Rows::normal(random, n, n_in, n_in.next_multiple_of(16) + 16, 1.0).rounded();
        Self { weight: Weight::new(random, format, n_out, n_in), x, n_out, is_f32 }
    }

    /// The same at any size, for a launch that nobody checks.
    fn large(format: Format, [n, n_in, n_out]: [usize; 3]) -> Self {
        let random = &mut Random::new(n_in as u64);
        let x = Rows::normal(random, n, n_in, n_in.next_multiple_of(16), 1.0);
        Self { weight: Weight::repeated(random, format, n_out, n_in), x, n_out, is_f32: false }
    }

    /// The first `n` rows as the card keeps them, padding included.
    fn run(
        &self,
        bench: &mut Bench<'_>,
        format: Format,
        form: Option<Form>,
        n: usize,
    ) -> Result<Vec<u32>> {
        let stride = self.n_out.next_multiple_of(8);
        let words = if self.is_f32 { n * stride } else { n * stride / 2 };
        let y = bench.upload(&vec![STALE; words])?;
        let params = LinearParams {
            w: self.weight.upload(bench)?,
            y: y as *mut _,
            x: bench.upload(&self.x.as_bf16())? as *const _,
            n_row: n as u32,
            y_stride: stride as u32,
            x_stride: self.x.stride as u32,
            y_is_f32: u32::from(self.is_f32),
        };
        let geometry = match form {
            Some(form) => launch(&params, format, form),
            None => linear(&params, format),
        };
        bench.launch(geometry, &params)?;
        bench.download(y, words)
    }
}

fn check(
    bench: &mut Bench<'_>,
    format: Format,
    form: Form,
    [n, n_in, n_out]: [usize; 3],
) -> Result<()> {
    let is_f32 = n % 2 == 0;
    let case = Case::new(format, n, n_in, n_out, is_f32);
    let words = case.run(bench, format, Some(form), n)?;
    let numbers: Vec<f32> = if is_f32 {
        words.iter().map(|word| f32::from_bits(*word)).collect()
    } else {
        words.iter().flat_map(|word| [*word as u16, (word >> 16) as u16].map(from_bf16)).collect()
    };
    for (row, got) in numbers.chunks(n_out.next_multiple_of(8)).enumerate() {
        let (mut want, sizes) = case.weight.apply(case.x.row(row));
        want.resize(got.len(), 0.0);
        let error = sizes.iter().copied().fold(0.0, f64::max) * SUM_ERROR;
        let relative = if is_f32 { 0.0 } else { 1.0 / 256.0 };
        let tolerance = Tolerance { relative, absolute: error.max(f64::MIN_POSITIVE) };
        close(&format!("row {row}, f32 {is_f32}"), got, &want, tolerance)?;
    }
    Ok(())
}

/// The same rows in every form, and as the number of rows chooses one.
fn invariant(bench: &mut Bench<'_>, format: Format) -> Result<()> {
    let (n, n_in, n_out) = (512, 168, 24);
    let case = Case::new(format, n, n_in, n_out, true);
    let all = case.run(bench, format, None, n)?;
    for n in ROW_COUNTS.into_iter().filter(|n| *n < 512) {
        let some = case.run(bench, format, None, n)?;
        same(&format!("{n} rows"), &some, &all[..some.len()])?;
    }
    for form in Form::ALL {
        let some = case.run(bench, format, Some(form), 70)?;
        same(&format!("{form:?}"), &some, &all[..some.len()])?;
    }
    Ok(())
}

/// One tile or two of every form, and matrices of V3 and V2-Lite.
pub(super) fn measures() -> Vec<Measure> {
    let mut measures = Vec::new();
    for format in Format::ALL {
        for form in Form::ALL {
            let (tile, shape, rows) = match form {
                Form::Few => (FEW, [8, 4096, 16], 1),
                Form::Some => (SOME, [32, 2048, 16], 32),
                Form::Mid => (MID, [64, 512, 128], 64),
                Form::Many => (many(format), [many(format).rows, 256, 256], 4096),
            };
            let [n, n_in, n_out] = shape;
            let case = Case::new(format, n, n_in, n_out, false);
            let params = LinearParams {
                w: case.weight.describe(),
                y: std::ptr::null_mut(),
                x: std::ptr::null(),
                n_row: n as u32,
                y_stride: 0,
                x_stride: 0,
                y_is_f32: 0,
            };
            let model = |name, n_in: usize, n_out: usize| {
                let traffic = product(format, tile, [rows, n_in, n_out], 2);
                Model::new(name, traffic, move |bench, shrink| {
                    let shape = [rows, n_in, n_out].map(|size| shrink.of(size));
                    Case::large(format, shape).run(bench, format, Some(form), shape[0]).map(drop)
                })
            };
            let models = vec![
                model("V3 o_proj", 16_384, 7168),
                model("V3 q_b_proj", 1536, 24_576),
                model("V2-Lite q_proj", 2048, 3072),
            ];
            let run = move |bench: &mut Bench<'_>| case.run(bench, format, Some(form), n).map(drop);
            measures.push(Measure::new(
                launch(&params, format, form).0,
                format!("{n} rows, {n_in} to {n_out}"),
                product(format, tile, shape, 2),
                models,
                run,
            ));
        }
    }
    measures
}
