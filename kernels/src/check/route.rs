//! `route.cu`: logits in f64, and the choice by the models' own words (V3 paper section 2.1.2, V2 paper section 2.2).

use super::measure::{Measure, Model, Traffic, sectors};
use super::{Bench, Check, ROW_COUNTS, Random, Rows, Tolerance, close, same};
use crate::abi::{RouteLogitsParams, RouteParams};
use crate::geometry::route as geometry;
use crate::{Failure, Family, Kernel, Result};

/// A model's rule.
#[derive(Debug, Clone, Copy)]
struct Rule {
    n_expert: usize,
    n_chosen: usize,
    n_group: usize,
    topk_group: usize,
    sigmoid: bool,
    bias: bool,
    norm: bool,
    scaling: f32,
}

const V3: Rule = Rule {
    n_expert: 256,
    n_chosen: 8,
    n_group: 8,
    topk_group: 4,
    sigmoid: true,
    bias: true,
    norm: true,
    scaling: 2.5,
};
const V2: Rule = Rule {
    n_expert: 160,
    n_chosen: 6,
    n_group: 8,
    topk_group: 3,
    sigmoid: false,
    bias: false,
    norm: false,
    scaling: 16.0,
};

/// Released models; odd sizes; groups of one, more groups than a warp has lanes; more experts wanted than groups keep;
/// all of them; the most there may be.
const RULES: [Rule; 13] = [
    V3,
    V2,
    Rule { n_expert: 64, n_group: 1, topk_group: 1, ..V2 },
    Rule { n_expert: 384, n_group: 1, topk_group: 1, ..V3 },
    Rule { bias: false, norm: false, ..V3 },
    Rule { bias: true, norm: true, ..V2 },
    Rule { n_expert: 7, n_chosen: 3, n_group: 1, topk_group: 1, ..V3 },
    Rule { n_expert: 12, n_chosen: 4, n_group: 4, topk_group: 2, ..V3 },
    Rule { n_expert: 8, n_chosen: 2, n_group: 8, topk_group: 3, ..V3 },
    Rule { n_expert: 80, n_chosen: 5, n_group: 40, topk_group: 37, ..V2 },
    Rule { n_expert: 8, n_chosen: 3, n_group: 4, topk_group: 1, ..V3 },
    Rule { n_expert: 5, n_chosen: 5, n_group: 1, topk_group: 1, ..V2 },
    Rule { n_expert: 1024, n_chosen: 33, n_group: 1, topk_group: 1, ..V3 },
];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    let family = Family::Route;
    for (n_row, n_expert, dim) in
        [(1, 256, 7168), (3, 7, 40), (9, 64, 100), (65, 12, 72), (70, 33, 520), (64, 3, 1)]
    {
        for f32 in [false, true] {
            let name = format!("logits, {n_row} rows, {n_expert} experts of {dim}, f32 {f32}");
            let run =
                move |bench: &mut Bench<'_>| Gate::new(n_row, n_expert, dim, f32).check(bench);
            checks.push(Check::new(family, name, run));
        }
    }
    for f32 in [false, true] {
        let name = format!("logits, f32 {f32}, a row has its bits in any batch");
        checks.push(Check::new(family, name, move |bench| logits_invariant(bench, f32)));
    }
    for rule in RULES {
        let run = move |bench: &mut Bench<'_>| Routed::new(rule, 9, Logits::Grid).check(bench);
        checks.push(Check::new(family, format!("{rule:?}"), run));
        let run = move |bench: &mut Bench<'_>| Routed::new(rule, 2, Logits::Equal).check(bench);
        checks.push(Check::new(family, format!("equal logits, {rule:?}"), run));
    }
    for rule in [V3, V2] {
        let name = format!("NaN and infinities, {rule:?}");
        checks.push(Check::new(family, name, move |bench| not_finite(bench, rule)));
        let name = format!("a row has its bits in any batch, {rule:?}");
        checks.push(Check::new(family, name, move |bench| route_invariant(bench, rule)));
    }
    checks
}

struct Gate {
    x: Rows,
    weight: Rows,
    f32: bool,
}

impl Gate {
    fn new(n_row: usize, n_expert: usize, dim: usize, f32: bool) -> Self {
        let random = &mut Random::new((n_row + n_expert + dim) as u64);
        let stride = dim.next_multiple_of(16);
        let gate = Rows::normal(random, n_expert, dim, stride + 16, 0.2);
        Self {
            x: Rows::normal(random, n_row, dim, stride + 32, 1.0).rounded(),
            weight: if f32 { gate } else { gate.rounded() },
            f32,
        }
    }

    fn run(&self, bench: &mut Bench<'_>, n_row: usize) -> Result<Vec<f32>> {
        let n_expert = self.weight.n;
        let logits = bench.alloc::<f32>(n_row * n_expert)?;
        let gate = if self.f32 {
            bench.upload(&self.weight.values)?
        } else {
            bench.upload(&self.weight.as_bf16())?
        };
        let params = RouteLogitsParams {
            logits: logits as *mut _,
            x: bench.upload(&self.x.as_bf16()[..n_row * self.x.stride])? as *const _,
            gate: gate as *const _,
            n_row: n_row as u32,
            n_expert: n_expert as u32,
            dim: self.x.dim as u32,
            x_stride: self.x.stride as u32,
            gate_stride: self.weight.stride as u32,
            unused: 0,
        };
        bench.launch(geometry::route_logits(&params, self.f32), &params)?;
        bench.download(logits, n_row * n_expert)
    }

    fn check(&self, bench: &mut Bench<'_>) -> Result<()> {
        let got = self.run(bench, self.x.n)?;
        for (row, got) in got.chunks(self.weight.n).enumerate() {
            let product = |expert: usize| {
                let pairs = self.x.row(row).iter().zip(self.weight.row(expert));
                pairs.map(|(x, g)| f64::from(*x) * f64::from(*g)).sum()
            };
            let want: Vec<f64> = (0..self.weight.n).map(product).collect();
            // dim / 128 sums follow each other in a lane, of terms near 0.2: an error of their root's size times 2^-24.
            close(&format!("row {row}"), got, &want, Tolerance::f32(16, 2e-5))?;
        }
        Ok(())
    }
}

fn logits_invariant(bench: &mut Bench<'_>, f32: bool) -> Result<()> {
    let case = Gate::new(512, 5, 200, f32);
    let all = case.run(bench, 512)?;
    for n_row in ROW_COUNTS {
        let some = case.run(bench, n_row)?;
        same(&format!("{n_row} rows"), &some, &all[..some.len()])?;
    }
    Ok(())
}

/// Where a case's logits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logits {
    /// Multiples of 1/64: many are equal, and those that are not differ by more than any rounding.
    Grid,
    /// All the same.
    Equal,
}

struct Routed {
    rule: Rule,
    logits: Vec<f32>,
    bias: Vec<f32>,
}

/// What comes out: experts, weights, and the logits afterwards.
struct Choice {
    expert: Vec<u32>,
    weight: Vec<f32>,
    logits: Vec<f32>,
}

impl Routed {
    fn new(rule: Rule, n_row: usize, logits: Logits) -> Self {
        let random = &mut Random::new((rule.n_expert * 31 + rule.n_chosen) as u64);
        let mut number = |scale: f32| match logits {
            Logits::Grid => (random.normal() * scale * 64.0).round() / 64.0,
            Logits::Equal => 0.5,
        };
        Self {
            rule,
            logits: (0..n_row * rule.n_expert).map(|_| number(1.0)).collect(),
            bias: (0..rule.n_expert).map(|_| number(0.3)).collect(),
        }
    }

    fn run(&self, bench: &mut Bench<'_>, n_row: usize) -> Result<Choice> {
        let Rule { n_expert, n_chosen, .. } = self.rule;
        let logits = bench.upload(&self.logits[..n_row * n_expert])?;
        let expert = bench.alloc::<u32>(n_row * n_chosen)?;
        let weight = bench.alloc::<f32>(n_row * n_chosen)?;
        let bias = bench.upload(&self.bias)?;
        let params = RouteParams {
            expert: expert as *mut _,
            weight: weight as *mut _,
            logits: logits as *mut _,
            bias: if self.rule.bias { bias as *const _ } else { std::ptr::null() },
            n_row: n_row as u32,
            n_expert: n_expert as u32,
            n_chosen: n_chosen as u32,
            n_group: self.rule.n_group as u32,
            topk_group: self.rule.topk_group as u32,
            is_sigmoid: u32::from(self.rule.sigmoid),
            norm_topk_prob: u32::from(self.rule.norm),
            routed_scaling_factor: self.rule.scaling,
        };
        bench.launch(geometry::route(&params), &params)?;
        Ok(Choice {
            expert: bench.download(expert, n_row * n_chosen)?,
            weight: bench.download(weight, n_row * n_chosen)?,
            logits: bench.download(logits, n_row * n_expert)?,
        })
    }

    /// One row's logits with their bias, experts and weights.
    fn oracle(&self, row: usize) -> (Vec<f32>, Vec<u32>, Vec<f64>) {
        let rule = &self.rule;
        let mut logits = self.logits[row * rule.n_expert..][..rule.n_expert].to_vec();
        let bias = |e: usize| if rule.bias { self.bias[e] } else { 0.0 };
        let score: Vec<f64> = if rule.sigmoid {
            logits.iter().map(|z| 1.0 / (1.0 + (-f64::from(*z)).exp())).collect()
        } else {
            logits.iter_mut().enumerate().for_each(|(e, z)| *z += bias(e));
            let most = logits.iter().fold(f64::NEG_INFINITY, |most, z| most.max(f64::from(*z)));
            let all: Vec<f64> = logits.iter().map(|z| (f64::from(*z) - most).exp()).collect();
            all.iter().map(|score| score / all.iter().sum::<f64>()).collect()
        };
        // Decided by what f32 can tell: equal choices are ties on the card, too.
        let choice: Vec<f64> = (0..rule.n_expert)
            .map(|e| score[e] + if rule.sigmoid { f64::from(bias(e)) } else { 0.0 })
            .collect();
        let size = rule.n_expert / rule.n_group;
        let group_score = |g: usize| {
            let mut members = choice[g * size..(g + 1) * size].to_vec();
            members.sort_by(|a, b| b.total_cmp(a));
            members[0] + if rule.sigmoid { members.get(1).copied().unwrap_or(0.0) } else { 0.0 }
        };
        let mut groups: Vec<(usize, f64)> =
            (0..rule.n_group).map(|g| (g, group_score(g))).collect();
        groups.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let kept: Vec<usize> = groups[..rule.topk_group].iter().map(|(g, _)| *g).collect();
        let is_kept = |e: &usize| rule.n_group == 1 || kept.contains(&(e / size));
        let mut order: Vec<usize> = (0..rule.n_expert).collect();
        order.sort_by(|a, b| {
            is_kept(b)
                .cmp(&is_kept(a))
                .then_with(|| if is_kept(a) { choice[*b].total_cmp(&choice[*a]) } else { a.cmp(b) })
                .then(a.cmp(b))
        });
        order.truncate(rule.n_chosen);
        let sum: f64 = order.iter().map(|e| score[*e]).sum();
        let over = if rule.norm { sum + 1e-20 } else { 1.0 };
        let weight = order.iter().map(|e| score[*e] / over * f64::from(rule.scaling)).collect();
        (logits, order.iter().map(|e| *e as u32).collect(), weight)
    }

    fn check(&self, bench: &mut Bench<'_>) -> Result<()> {
        let Rule { n_expert, n_chosen, .. } = self.rule;
        let n_row = self.logits.len() / n_expert;
        let got = self.run(bench, n_row)?;
        for row in 0..n_row {
            let (logits, expert, weight) = self.oracle(row);
            let (k, e) = (row * n_chosen, row * n_expert);
            same(&format!("experts of row {row}"), &got.expert[k..k + n_chosen], &expert)?;
            // An exponential and a few sums and quotients, 2 ulp each.
            let weights = &got.weight[k..k + n_chosen];
            close(&format!("weights of row {row}"), weights, &weight, Tolerance::f32(16, 1e-12))?;
            let logits = if self.rule.sigmoid { &self.logits[e..e + n_expert] } else { &logits };
            same(&format!("logits of row {row}"), &got.logits[e..e + n_expert], logits)?;
        }
        Ok(())
    }
}

/// A NaN spoils its row's weights and no other's; experts stay experts.
fn not_finite(bench: &mut Bench<'_>, rule: Rule) -> Result<()> {
    let mut case = Routed::new(rule, 5, Logits::Grid);
    case.logits[rule.n_expert + 17] = f32::NAN;
    case.logits[3 * rule.n_expert + 5] = f32::NEG_INFINITY;
    let got = case.run(bench, 5)?;
    for (row, (experts, weights)) in
        got.expert.chunks(rule.n_chosen).zip(got.weight.chunks(rule.n_chosen)).enumerate()
    {
        let distinct = experts.iter().collect::<std::collections::BTreeSet<_>>().len();
        if distinct != rule.n_chosen || experts.iter().any(|e| *e as usize >= rule.n_expert) {
            return Err(Failure(format!("row {row}: experts {experts:?}")));
        }
        let n_nan = weights.iter().filter(|weight| weight.is_nan()).count();
        if n_nan != if row == 1 { rule.n_chosen } else { 0 } {
            return Err(Failure(format!("row {row}: weights {weights:?}")));
        }
        if experts.contains(&if row == 1 { 17 } else { u32::MAX }) {
            return Err(Failure("a NaN was chosen before a number".into()));
        }
        if row == 3 && experts.contains(&5) {
            return Err(Failure("minus infinity was chosen before a number".into()));
        }
    }
    Ok(())
}

fn route_invariant(bench: &mut Bench<'_>, rule: Rule) -> Result<()> {
    let small = Rule { n_expert: 32, n_group: 4, topk_group: 2, n_chosen: 4, ..rule };
    let case = Routed::new(small, 512, Logits::Grid);
    let all = case.run(bench, 512)?;
    for n_row in ROW_COUNTS {
        let some = case.run(bench, n_row)?;
        same(&format!("{n_row} rows, experts"), &some.expert, &all.expert[..some.expert.len()])?;
        same(&format!("{n_row} rows, weights"), &some.weight, &all.weight[..some.weight.len()])?;
    }
    Ok(())
}

/// A gate's logits; `experts` and `rows` are a warp's share.
fn logits_traffic(
    n_row: usize,
    [n_expert, dim]: [usize; 2],
    f32: bool,
    [experts, rows]: [usize; 2],
) -> Traffic {
    let gate_bytes = if f32 { 4 } else { 2 };
    let gate = (n_expert * dim * gate_bytes) as u64;
    let x = (n_row * dim * 2) as u64;
    Traffic {
        memory_bytes: gate + x + (n_row * n_expert * 4) as u64,
        read_bytes: gate * n_row.div_ceil(rows) as u64 + x * n_expert.div_ceil(experts) as u64,
        // A logit at a time, a sector each.
        write_bytes: (n_row * n_expert) as u64 * 32,
        flops: (2 * n_row * n_expert * dim) as u64,
        is_mma: false,
    }
}

fn choice_traffic(n_row: usize, rule: &Rule) -> Traffic {
    let (logits, chosen) = (sectors(4 * rule.n_expert), sectors(4 * rule.n_chosen));
    let n_row = n_row as u64;
    Traffic {
        memory_bytes: n_row * (logits + 2 * chosen) + logits,
        read_bytes: n_row * 2 * logits,
        // Experts one at a time, weights together.
        write_bytes: n_row * (rule.n_chosen as u64 * 32 + chosen),
        flops: 0,
        is_mma: false,
    }
}

pub(super) fn measures() -> Vec<Measure> {
    let mut measures = Vec::new();
    for (kernel, n_row, f32, share) in [
        (Kernel::RouteLogitsBf16, 4, false, [1, 4]),
        (Kernel::RouteLogitsF32, 4, true, [1, 4]),
        (Kernel::RouteLogitsBf16Many, 64, false, [2, 8]),
        (Kernel::RouteLogitsF32Many, 64, true, [2, 8]),
    ] {
        let (many, v3) = (n_row == 64, [256, 7168]);
        let (name, rows) = if many { ("V3, 4096 rows", 4096) } else { ("V3, 8 rows", 8) };
        measures.push(Measure::new(
            kernel,
            format!("{n_row} rows, 8 experts of 1024"),
            logits_traffic(n_row, [8, 1024], f32, share),
            vec![Model::new(name, logits_traffic(rows, v3, f32, share), move |bench, shrink| {
                let [n, n_expert, dim] = [rows, v3[0], v3[1]].map(|size| shrink.of(size));
                Gate::new(n, n_expert, dim, f32).run(bench, n).map(drop)
            })],
            move |bench| Gate::new(n_row, 8, 1024, f32).check(bench),
        ));
    }
    let choice = |name, rows: usize| {
        Model::new(name, choice_traffic(rows, &V3), move |bench, shrink| {
            let rows = shrink.of(rows);
            Routed::new(V3, rows, Logits::Grid).run(bench, rows).map(drop)
        })
    };
    measures.push(Measure::new(
        Kernel::Route,
        "8 rows, V3's rule",
        choice_traffic(8, &V3),
        vec![choice("V3, 64 rows", 64), choice("V3, 4096 rows", 4096)],
        |bench| Routed::new(V3, 8, Logits::Grid).check(bench),
    ));
    measures
}
