use crate::backend::Backend;
use crate::backend::cpu::Isa;
use crate::backend::cpu::testing::{
    assert_same_bits, backend, matrix, numbers, product_error, ways,
};
use crate::backend::{RouteRule, RoutingTrace, Scoring};
use crate::checkpoint::{Bytes, Tensor};
use crate::quant::DType;

fn rule(scoring: Scoring, n_group: usize, topk_group: usize) -> RouteRule {
    RouteRule {
        scoring,
        n_routed_experts: 12,
        num_experts_per_tok: 4,
        n_group,
        topk_group,
        norm_topk_prob: scoring == Scoring::Sigmoid,
        routed_scaling_factor: 2.5,
    }
}

/// Expert and weight of each choice, straight from the papers: sorts everything, in f64.
fn oracle(logits: &[f64], bias: Option<&[f32]>, rule: &RouteRule) -> Vec<(u32, f64)> {
    let e = logits.len();
    // With softmax the bias is the logits' own; with sigmoid it chooses and does not weigh.
    let of = |scoring| bias.filter(|_| rule.scoring == scoring);
    let add = |values: &[f64], bias: Option<&[f32]>| -> Vec<f64> {
        (0..e).map(|i| values[i] + bias.map_or(0.0, |b| f64::from(b[i]))).collect()
    };
    let logits = add(logits, of(Scoring::Softmax));
    let scores: Vec<f64> = match rule.scoring {
        Scoring::Sigmoid => logits.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect(),
        Scoring::Softmax => {
            let sum: f64 = logits.iter().map(|z| z.exp()).sum();
            logits.iter().map(|z| z.exp() / sum).collect()
        }
    };
    let choice = add(&scores, of(Scoring::Sigmoid));
    let size = e / rule.n_group;
    let mut groups: Vec<(f64, usize)> = (0..rule.n_group)
        .map(|g| {
            let mut sorted = choice[g * size..(g + 1) * size].to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let counted = if rule.scoring == Scoring::Sigmoid { 2 } else { 1 };
            (sorted.iter().take(counted).sum(), g)
        })
        .collect();
    groups.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let kept: Vec<usize> = groups.iter().take(rule.topk_group).map(|g| g.1).collect();
    let mut experts: Vec<usize> = (0..e).filter(|i| kept.contains(&(i / size))).collect();
    experts.sort_by(|a, b| choice[*b].total_cmp(&choice[*a]).then(a.cmp(b)));
    experts.truncate(rule.num_experts_per_tok);
    let sum: f64 = experts.iter().map(|i| scores[*i]).sum::<f64>() + 1e-20;
    let norm = if rule.norm_topk_prob { sum } else { 1.0 };
    let factor = f64::from(rule.routed_scaling_factor);
    experts.into_iter().map(|i| (i as u32, scores[i] / norm * factor)).collect()
}

#[test]
fn every_rule_agrees_with_the_oracle() {
    let gate = matrix(1, DType::F32, 12, 65);
    let x = numbers(2, 40 * 65);
    let sums = gate.product(&x);
    let logits: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
    let bias: Vec<f32> = numbers(3, 12).iter().map(|b| b * 0.3).collect();
    for (scoring, bias) in [Scoring::Sigmoid, Scoring::Softmax]
        .into_iter()
        .flat_map(|scoring| [(scoring, Some(&bias)), (scoring, None)])
    {
        for (n_group, topk_group) in [(1, 1), (3, 1), (3, 2), (4, 3), (6, 2)] {
            let rule = rule(scoring, n_group, topk_group);
            for way in ways() {
                let mut cpu = backend(way, 2);
                let mut routing = cpu.routing(40, &rule).unwrap();
                let (x, bias_buf) =
                    (cpu.vector(&x).unwrap(), bias.map(|bias| cpu.vector(bias).unwrap()));
                cpu.route(&mut routing, &x, &gate.weight, bias_buf.as_ref(), &rule, 40);
                let trace = cpu.read_routing(&routing, 40).unwrap();
                let error = product_error(way, DType::F32, 65);
                for (i, z) in trace.logits.iter().enumerate() {
                    let bias = bias.filter(|_| scoring == Scoring::Softmax);
                    let bias = bias.map_or(0.0, |bias| f64::from(bias[i % 12]));
                    let bound = error * sums[i].size + bias.abs() * 2f64.powi(-22);
                    assert!((f64::from(*z) - logits[i] - bias).abs() <= bound);
                }
                for (row, logits) in logits.chunks(12).enumerate() {
                    let want = oracle(logits, bias.map(Vec::as_slice), &rule);
                    for (k, (expert, weight)) in want.into_iter().enumerate() {
                        let at = row * 4 + k;
                        assert_eq!(trace.indices[at], expert, "row {row}, choice {k}");
                        let off = (f64::from(trace.weights[at]) - weight).abs();
                        assert!(off < 2e-5 * weight, "row {row}, choice {k}: off by {off}");
                    }
                }
            }
        }
    }
}

/// Routes one row whose logits are `logits`: a gate of one column.
fn route_logits(logits: &[f32], bias: Option<&[f32]>, rule: &RouteRule) -> RoutingTrace {
    let bytes = Bytes::owned(logits.iter().flat_map(|z| z.to_le_bytes()).collect());
    let shape = vec![logits.len(), 1];
    let tensor = Tensor { name: "gate".into(), dtype: DType::F32, shape, bytes, scales: None };
    let mut cpu = backend(ways()[0], 1);
    let gate = cpu.weight(&tensor, crate::backend::Use::Product).unwrap();
    let mut routing = cpu.routing(1, rule).unwrap();
    let one = cpu.vector(&[1.0]).unwrap();
    let bias = bias.map(|bias| cpu.vector(bias).unwrap());
    cpu.route(&mut routing, &one, &gate, bias.as_ref(), rule, 1);
    cpu.read_routing(&routing, 1).unwrap()
}

#[test]
fn experts_that_several_rows_choose_are_touched_once_a_step() {
    let rule = rule(Scoring::Sigmoid, 1, 1);
    let gate = matrix(1, DType::F32, 12, 65);
    let mut cpu = backend(ways()[0], 1);
    let x = cpu.vector(&numbers(2, 8 * 65)).unwrap();
    let mut routing = cpu.routing(8, &rule).unwrap();
    let mut want = 0;
    for rows in [1, 3, 8] {
        cpu.route(&mut routing, &x, &gate.weight, None, &rule, rows);
        let mut chosen = cpu.read_routing(&routing, rows).unwrap().indices;
        chosen.sort_unstable();
        chosen.dedup();
        assert!(rows == 1 || chosen.len() > 4);
        want += chosen.len() as u64;
        assert_eq!(cpu.touched(&routing), want);
    }
}

#[test]
fn chosen_softmax_weights_add_up_to_the_factor_when_they_are_normed() {
    let rule = RouteRule { norm_topk_prob: true, ..rule(Scoring::Softmax, 1, 1) };
    let logits: Vec<f32> = numbers(5, 12).iter().map(|z| z * 4.0).collect();
    let trace = route_logits(&logits, None, &rule);
    let probs: Vec<f64> = logits.iter().map(|z| f64::from(*z).exp()).collect();
    let sum: f64 = trace.indices.iter().map(|i| probs[*i as usize]).sum();
    for (i, weight) in trace.indices.iter().zip(&trace.weights) {
        let want = 2.5 * probs[*i as usize] / sum;
        assert!((f64::from(*weight) - want).abs() < 1e-6, "expert {i}: {weight}, want {want}");
    }
}

#[test]
fn ties_go_to_the_lowest_expert_and_the_lowest_group() {
    for scoring in [Scoring::Sigmoid, Scoring::Softmax] {
        assert_eq!(route_logits(&[0.5; 12], None, &rule(scoring, 1, 1)).indices, [0, 1, 2, 3]);
        assert_eq!(route_logits(&[0.5; 12], None, &rule(scoring, 4, 2)).indices, [0, 1, 2, 3]);
        let mut logits = [0.5; 12];
        logits[7] = 1.0;
        assert_eq!(route_logits(&logits, None, &rule(scoring, 1, 1)).indices, [7, 0, 1, 2]);
        assert_eq!(route_logits(&logits, None, &rule(scoring, 4, 2)).indices, [7, 0, 1, 2]);
    }
}

#[test]
fn experts_outside_the_kept_groups_lose_to_negative_choices() {
    // All biased scores are negative: an excluded expert set to zero would win.
    let bias: Vec<f32> = (0..12).map(|i| -5.0 - i as f32).collect();
    let trace = route_logits(&[0.0; 12], Some(&bias), &rule(Scoring::Sigmoid, 3, 1));
    assert_eq!(trace.indices, [0, 1, 2, 3]);
    // The bias chooses and does not weigh: four equal scores share the factor.
    assert!(trace.weights.iter().all(|weight| (weight - 2.5 / 4.0).abs() < 1e-6));
}

#[test]
fn logits_that_are_no_numbers_choose_four_different_experts_and_do_not_panic() {
    for scoring in [Scoring::Sigmoid, Scoring::Softmax] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for n_bad in [1, 5, 12] {
                let mut logits = [0.25; 12];
                logits[..n_bad].fill(bad);
                for (n_group, topk_group) in [(1, 1), (4, 2), (12, 3)] {
                    let rule = rule(scoring, n_group, topk_group);
                    let routed = route_logits(&logits, None, &rule);
                    let hides = routed.weights.iter().all(|weight| weight.is_finite());
                    assert!(!bad.is_nan() || !hides, "{:?}", routed.weights);
                    let mut chosen = routed.indices;
                    chosen.sort_unstable();
                    chosen.dedup();
                    assert!(chosen.len() == 4 && chosen[3] < 12, "{chosen:?}");
                }
            }
        }
    }
}

#[test]
fn inputs_are_never_rounded_and_a_row_has_the_same_bits_in_any_batch() {
    let gate = matrix(1, DType::Bf16, 12, 1001);
    let x = numbers(2, 40 * 1001);
    let rule = rule(Scoring::Sigmoid, 4, 2);
    for isa in Isa::ALL {
        let mut seen: Vec<RoutingTrace> = Vec::new();
        for way in ways().into_iter().filter(|way| way.isa == isa) {
            for (threads, rows) in [(1, 40), (3, 40), (2, 13), (1, 1)] {
                let mut cpu = backend(way, threads);
                let mut routing = cpu.routing(40, &rule).unwrap();
                let x = cpu.vector(&x).unwrap();
                cpu.route(&mut routing, &x, &gate.weight, None, &rule, rows);
                seen.push(cpu.read_routing(&routing, rows).unwrap());
            }
        }
        for trace in &seen {
            let rows = trace.indices.len();
            assert_same_bits(&trace.logits, &seen[0].logits[..rows / 4 * 12]);
            assert_same_bits(&trace.weights, &seen[0].weights[..rows]);
            assert_eq!(trace.indices, seen[0].indices[..rows]);
        }
    }
}
