use super::*;
use crate::backend::Backend;
use crate::backend::cpu::testing::{allocated, backend, numbers, ways};
use crate::step::Penalty;

/// A step of one sample a row.
#[derive(Default)]
struct Case {
    logits: Vec<f32>,
    step: Step,
}

impl Case {
    fn add(mut self, logits: &[f32], row: SampleRow) -> Self {
        self.add_with(logits, row, &[], &[]);
        self
    }

    fn add_with(
        &mut self,
        logits: &[f32],
        row: SampleRow,
        penalties: &[Penalty],
        biases: &[(TokenId, f32)],
    ) {
        let step = &mut self.step;
        if step.samples.is_empty() {
            (step.penalty_start, step.bias_start) = (vec![0], vec![0]);
        }
        self.logits.extend(logits);
        step.samples.push(row);
        step.penalties.extend(penalties);
        step.penalty_start.push(step.penalties.len() as u32);
        step.biases.extend(biases);
        step.bias_start.push(step.biases.len() as u32);
    }

    fn run(&self, cpu: &mut Cpu) -> Vec<Sampled> {
        let mut logits = cpu.vector(&self.logits).unwrap();
        let mut out = Vec::new();
        let vocab_size = self.logits.len() / self.step.samples.len();
        let plan = crate::backend::cpu::Plan::default();
        Backend::sample(cpu, &mut out, &mut logits, vocab_size, &plan, &self.step).unwrap();
        out
    }
}

fn warm(seed: u64) -> SampleRow {
    SampleRow { temperature: 1.0, seed, ..SampleRow::greedy(0, 17) }
}

fn token(id: u32) -> Sampled {
    Sampled::Token(TokenId(id))
}

/// How often each token comes in `n` draws of as many seeds.
fn counts(logits: &[f32], row: SampleRow, n: u64) -> Vec<u32> {
    let mut cpu = backend(ways()[0], 2);
    let mut counts = vec![0; logits.len()];
    for first in (0..n).step_by(1000) {
        let mut case = Case::default();
        for seed in first..first + 1000 {
            case.add_with(logits, SampleRow { seed, ..row }, &[], &[]);
        }
        for drawn in case.run(&mut cpu) {
            let Sampled::Token(TokenId(id)) = drawn else { panic!("{drawn:?}") };
            counts[id as usize] += 1;
        }
    }
    counts
}

/// Holds `n` draws to a distribution. The bound is the mean of chi-square plus six of its deviations.
#[track_caller]
fn check_distribution(logits: &[f32], row: SampleRow, want: &[f64]) {
    let n = 40_000;
    let counts = counts(logits, row, n);
    let sum: f64 = want.iter().sum();
    let (mut chi_square, mut free) = (0.0, -1.0);
    for (id, (got, want)) in counts.iter().zip(want).enumerate() {
        let expected = want / sum * n as f64;
        if *want == 0.0 {
            assert_eq!(*got, 0, "token {id} was filtered out");
        } else {
            chi_square += (f64::from(*got) - expected).powi(2) / expected;
            free += 1.0;
        }
    }
    let bound = free + 6.0 * (2.0f64 * free).sqrt();
    assert!(chi_square <= bound, "chi-square {chi_square} over {bound}: {counts:?}");
}

const LOGITS: [f32; 8] = [0.5, 2.0, -1.0, 1.0, 2.0, 0.0, -3.0, 1.5];

fn softmax(temperature: f64) -> Vec<f64> {
    LOGITS.iter().map(|z| (f64::from(*z) / temperature).exp()).collect()
}

fn only(kept: &[usize], weights: &[f64]) -> Vec<f64> {
    (0..weights.len()).map(|i| if kept.contains(&i) { weights[i] } else { 0.0 }).collect()
}

#[test]
fn plain_draws_follow_the_softmax() {
    check_distribution(&LOGITS, warm(0), &softmax(1.0));
    check_distribution(&LOGITS, SampleRow { temperature: 0.6, ..warm(0) }, &softmax(0.6));
    check_distribution(&LOGITS, SampleRow { temperature: 3.0, ..warm(0) }, &softmax(3.0));
}

#[test]
fn top_k_keeps_exactly_k_and_the_lower_id_of_a_tie() {
    let all = softmax(1.0);
    check_distribution(&LOGITS, SampleRow { top_k: 3, ..warm(0) }, &only(&[1, 4, 7], &all));
    check_distribution(&LOGITS, SampleRow { top_k: 2, ..warm(0) }, &only(&[1, 4], &all));
    check_distribution(&LOGITS, SampleRow { top_k: 99, ..warm(0) }, &all);
    let row = SampleRow { top_k: 3, ..warm(0) };
    check_distribution(&[1.0; 8], row, &only(&[0, 1, 2], &[1.0; 8]));
}

#[test]
fn top_p_keeps_the_first_tokens_that_reach_its_mass() {
    let all = softmax(1.0);
    let sum: f64 = all.iter().sum();
    let share = |kept: &[usize]| kept.iter().map(|i| all[*i]).sum::<f64>() / sum;
    let at = |top_p: f64| SampleRow { top_p: top_p as f32, ..warm(0) };
    check_distribution(&LOGITS, at(1e-6), &only(&[1], &all));
    check_distribution(&LOGITS, at(share(&[1]) + 1e-4), &only(&[1, 4], &all));
    check_distribution(&LOGITS, at(share(&[1, 4, 7]) - 1e-4), &only(&[1, 4, 7], &all));
    check_distribution(&LOGITS, at(share(&[1, 4, 7]) + 1e-4), &only(&[1, 4, 7, 3], &all));
    // After top-k, of what that left.
    let row = SampleRow { top_k: 3, ..at(share(&[1, 4]) / share(&[1, 4, 7]) - 1e-4) };
    check_distribution(&LOGITS, row, &only(&[1, 4], &all));
}

#[test]
fn min_p_drops_what_is_below_its_share_of_the_largest() {
    let all = softmax(1.0);
    let at = |min_p: f32| SampleRow { min_p, ..warm(0) };
    check_distribution(&LOGITS, at(0.3), &only(&[1, 3, 4, 7], &all));
    check_distribution(&LOGITS, at(0.4), &only(&[1, 4, 7], &all));
    check_distribution(&LOGITS, at(1.0), &only(&[1, 4], &all));
}

#[test]
fn a_large_vocabulary_is_filtered_as_a_small_one() {
    // 6,000 tokens, most of which are not sorted. The naive way sorts them all.
    let logits: Vec<f32> = numbers(5, 6000).iter().map(|z| z * 3.0).collect();
    let mut sorted: Vec<usize> = (0..6000).collect();
    sorted.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let weight = |id: usize| f64::from(logits[id]).exp();
    let sum: f64 = (0..6000).map(weight).sum();
    for top_p in [0.05, 0.4, 0.9, 0.999] {
        let mut mass = 0.0;
        let reached = |id: &usize| {
            mass += weight(*id);
            // Room for the rounding of f32 sums over thousands of tokens.
            mass >= sum * (top_p + 1e-3)
        };
        let kept = sorted.iter().position(reached).map_or(6000, |n| n + 1);
        let row = SampleRow { top_p: top_p as f32, ..warm(0) };
        let counts = counts(&logits, row, 2000);
        assert!(sorted[kept..].iter().all(|id| counts[*id] == 0), "top-p {top_p}");
        let different = counts.iter().filter(|n| **n > 0).count();
        assert!(different * 10 > kept.min(1500), "{different} of {kept} tokens ever came");
    }
    // Fewer than lanes of blocks, and more.
    for top_k in [200, 700] {
        let counts = counts(&logits, SampleRow { top_k, ..warm(0) }, 2000);
        assert!(sorted[top_k as usize..].iter().all(|id| counts[*id] == 0), "top-k {top_k}");
    }
}

#[test]
fn both_zeros_are_one_and_a_changed_row_leaves_its_neighbours_alone() {
    let mut logits = vec![-3.0; 600];
    (logits[3], logits[9]) = (-0.0, 0.0);
    let kept = counts(&logits, SampleRow { top_k: 2, top_p: 0.4, ..warm(0) }, 1000);
    assert_eq!((kept[3], kept[9]), (1000, 0));
    let mut cpu = backend(ways()[0], 1);
    let bias = [(TokenId(500), 9.0)];
    let mut case = Case::default().add(&logits, SampleRow::greedy(0, 0));
    case.add_with(&logits, SampleRow::greedy(0, 0), &[], &bias);
    let case = case.add(&logits, SampleRow { top_k: 2, top_p: 0.4, ..warm(8) });
    assert_eq!(case.run(&mut cpu), [token(3), token(500), token(3)]);
}

#[test]
fn ties_of_a_large_vocabulary_go_to_the_lowest_id_wherever_it_lies() {
    let mut cpu = backend(ways()[0], 1);
    // Neighbours whose order in lanes is not theirs, one block and many blocks apart, the last block's last.
    for (first, second) in [(47, 48), (255, 256), (300, 5000), (271, 272), (5998, 5999)] {
        let mut logits = numbers(5, 6000);
        (logits[first], logits[second]) = (9.0, 9.0);
        let case = Case::default()
            .add(&logits, SampleRow::greedy(0, 0))
            .add(&logits, SampleRow { top_k: 1, ..warm(3) });
        assert_eq!(case.run(&mut cpu), [token(first as u32); 2]);
        let counts = counts(&logits, SampleRow { top_k: 2, ..warm(0) }, 1000);
        assert!(counts[first] > 0 && counts[second] > 0 && counts[first] + counts[second] == 1000);
    }
}

#[test]
fn top_p_finds_its_mass_in_equal_and_in_tiny_weights() {
    let equal = counts(&vec![1.5; 6000], SampleRow { top_p: 0.25, ..warm(0) }, 2000);
    assert!(equal[1501..].iter().all(|n| *n == 0) && equal[750..1500].iter().any(|n| *n > 0));
    // One at 1, all others at 3e-7, far below the bounds that are tried first: they hold 0.0018.
    let mut peaked = vec![-15.0; 6000];
    peaked[4321] = 0.0;
    let row = SampleRow { top_p: 0.999, ..warm(0) };
    let some = counts(&peaked, row, 2000);
    assert!(some[4321] > 1980 && some.iter().sum::<u32>() == 2000);
    let all = counts(&peaked, SampleRow { temperature: 4.0, ..row }, 2000);
    assert!(all[5995..].iter().all(|n| *n == 0) && all.iter().filter(|n| **n > 0).count() > 1000);
}

#[test]
fn greedy_takes_the_largest_and_the_lowest_id_of_a_tie() {
    let mut cpu = backend(ways()[0], 1);
    let greedy = SampleRow::greedy(0, 0);
    let case = Case::default()
        .add(&LOGITS, greedy)
        .add(&[-1.0; 8], greedy)
        .add(&LOGITS, SampleRow { top_k: 1, ..warm(3) });
    assert_eq!(case.run(&mut cpu), [token(1), token(0), token(1)]);
}

#[test]
fn penalties_and_biases_change_what_greedy_takes() {
    let mut cpu = backend(ways()[0], 1);
    let logits = [-1.0, 2.0, 1.5, -0.5];
    let seen = |id, in_prompt, in_output| Penalty { token: TokenId(id), in_prompt, in_output };
    let greedy = SampleRow::greedy(0, 0);
    let run = |cpu: &mut Cpu, row, penalties: &[Penalty], biases: &[(TokenId, f32)]| {
        let mut case = Case::default();
        case.add_with(&logits, row, penalties, biases);
        case.run(cpu)[0]
    };
    let repetition = SampleRow { repetition: 2.0, ..greedy };
    assert_eq!(run(&mut cpu, repetition, &[seen(1, 1, 0)], &[]), token(2));
    assert_eq!(run(&mut cpu, repetition, &[seen(1, 0, 1)], &[]), token(2));
    // A negative logit is multiplied: -0.5 becomes -1.5, below -1.
    let row = SampleRow { repetition: 3.0, ..greedy };
    let down = [(TokenId(1), -90.0), (TokenId(2), -90.0)];
    assert_eq!(run(&mut cpu, row, &[seen(3, 1, 0)], &down), token(0));
    // Presence and frequency count the output alone.
    let presence = SampleRow { presence: 0.6, ..greedy };
    assert_eq!(run(&mut cpu, presence, &[seen(1, 5, 0)], &[]), token(1));
    assert_eq!(run(&mut cpu, presence, &[seen(1, 0, 1)], &[]), token(2));
    assert_eq!(run(&mut cpu, presence, &[seen(1, 0, 9), seen(2, 0, 1)], &[]), token(1));
    let frequency = SampleRow { frequency: 0.2, ..greedy };
    assert_eq!(run(&mut cpu, frequency, &[seen(1, 9, 2)], &[]), token(1));
    assert_eq!(run(&mut cpu, frequency, &[seen(1, 0, 3)], &[]), token(2));
    // The bias comes before the repetition: -0.5 + 5 is divided, not multiplied.
    let up = [(TokenId(3), 5.0)];
    assert_eq!(run(&mut cpu, greedy, &[], &up), token(3));
    assert_eq!(run(&mut cpu, repetition, &[seen(3, 1, 0)], &up), token(3));
    let strong = SampleRow { repetition: 3.0, ..greedy };
    assert_eq!(run(&mut cpu, strong, &[seen(3, 1, 0)], &up), token(1));
}

#[test]
fn a_row_that_is_not_finite_fails_alone() {
    let mut cpu = backend(ways()[0], 3);
    for row in [SampleRow::greedy(0, 0), warm(1), SampleRow { top_p: 0.5, ..warm(1) }] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 5, 7] {
                let mut broken = LOGITS;
                broken[at] = bad;
                let alone = Case::default().add(&LOGITS, row).run(&mut cpu)[0];
                let case = Case::default().add(&LOGITS, row).add(&broken, row).add(&LOGITS, row);
                assert_eq!(case.run(&mut cpu), [alone, Sampled::NotFinite, alone]);
            }
        }
    }
}

#[test]
fn a_draw_depends_on_its_seed_and_position_and_on_nothing_else_in_the_batch() {
    let logits = numbers(1, 3000);
    let row = SampleRow { top_p: 0.9, min_p: 0.01, ..warm(42) };
    let alone = Case::default().add(&logits, row).run(&mut backend(ways()[0], 1))[0];
    for threads in 1..=3 {
        let mut cpu = backend(ways()[0], threads);
        for before in 0..5 {
            let mut case = Case::default();
            for i in 0..7 {
                let other = SampleRow { top_k: 50, ..warm(i) };
                case.add_with(&numbers(i + 2, 3000), other, &[], &[]);
                if i == before {
                    case.add_with(&logits, row, &[], &[]);
                }
            }
            assert_eq!(case.run(&mut cpu)[before as usize + 1], alone);
        }
    }
    let mut cpu = backend(ways()[0], 1);
    let mut differs = |row| Case::default().add(&logits, row).run(&mut cpu)[0] != alone;
    assert!((0..5).filter(|i| differs(SampleRow { seed: 43 + i, ..row })).count() >= 4);
    assert!((0..5).filter(|i| differs(SampleRow { position: 18 + i, ..row })).count() >= 4);
}

#[test]
fn extreme_settings_still_draw_a_token() {
    let mut cpu = backend(ways()[0], 1);
    for logits in [[3e38; 8], [-3e38; 8], [0.0; 8], [3e38, -3e38, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]] {
        for temperature in [1e-38, 1e-3, 2.0, 3e38] {
            for (top_p, min_p) in [(1.0, 0.0), (0.0, 0.0), (0.5, 1.0), (1e-30, 0.5)] {
                let row = SampleRow { temperature, top_p, min_p, ..warm(5) };
                let drawn = Case::default().add(&logits, row).run(&mut cpu)[0];
                assert!(matches!(drawn, Sampled::Token(TokenId(0..8))), "{drawn:?}");
            }
        }
    }
}

#[test]
fn a_penalty_that_leaves_all_numbers_behind_still_draws_by_its_rule() {
    let mut cpu = backend(ways()[0], 1);
    let seen = |id| Penalty { token: TokenId(id), in_prompt: 1, in_output: 1 };
    for repetition in [f32::MIN_POSITIVE, 1e-20, 1e-38] {
        for top_k in [0, 3] {
            for top_p in [1.0, 0.9] {
                let draw = |cpu: &mut Cpu, seed, penalties: &[Penalty]| {
                    let row = SampleRow { top_k, top_p, repetition, ..warm(seed) };
                    let logits = [9.0, 30.0, 8.0, 40.0, -7.0, 7.0, 6.0, 5.0];
                    let mut case = Case::default();
                    case.add_with(&logits, row, penalties, &[]);
                    case.run(cpu)[0]
                };
                // Both are beyond every other token; which of them, the draw says where they are equal there.
                let drawn: Vec<_> =
                    (0..40).map(|seed| draw(&mut cpu, seed, &[seen(1), seen(3)])).collect();
                assert!(drawn.iter().all(|it| [token(1), token(3)].contains(it)), "{drawn:?}");
                // One alone always is.
                let alone = (0..40).all(|seed| draw(&mut cpu, seed, &[seen(5)]) == token(5));
                assert!(alone, "{repetition} {top_k} {top_p}");
            }
        }
    }
    let strong = SampleRow { repetition: 100.0, ..warm(1) };
    let mut case = Case::default();
    case.add_with(&[-3e38; 4], strong, &[seen(0), seen(1), seen(2), seen(3)], &[]);
    assert!(matches!(case.run(&mut cpu)[0], Sampled::Token(TokenId(0..4))));
}

#[test]
fn a_draw_allocates_nothing() {
    let logits = numbers(1, 6000);
    let rows = [
        warm(1),
        SampleRow { min_p: 0.01, ..warm(1) },
        SampleRow { top_p: 0.99, ..warm(2) },
        SampleRow { top_k: 90, ..warm(3) },
        SampleRow { top_k: 900, ..warm(3) },
        SampleRow::greedy(0, 0),
    ];
    let mut case = rows.into_iter().fold(Case::default(), |case, row| case.add(&logits, row));
    case.add_with(&logits, SampleRow::greedy(0, 0), &[], &[(TokenId(7), 1.0)]);
    let mut cpu = backend(ways()[0], 1);
    let mut buf = cpu.vector(&case.logits).unwrap();
    let mut out = Vec::with_capacity(7);
    let plan = crate::backend::cpu::Plan::default();
    let bytes = allocated(|| {
        Backend::sample(&mut cpu, &mut out, &mut buf, 6000, &plan, &case.step).unwrap();
    });
    assert_eq!((bytes, out.len()), (0, 7));
}
