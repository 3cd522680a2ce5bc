//! Which experts rows go to: about evenly, or as often as words are said.
//!
//! Router logits of random rows are normal with deviation 2. With Zipf's law the expert of rank `n` is to be chosen
//! `1 / n` as often as the first one. What has to be added to each expert's choice for that has no formula (a row takes
//! several experts, and groups are dropped first), so it is found by trying: drawn rows are routed, and who is chosen
//! too seldom gets more. In V3 the sum is the selection bias. V2 has none; there the first number of every state is the
//! same, and the router's column for it does what a bias would. The layers then add little to the stream, so that the
//! number stays what it is.

use super::preset::Shape;
use super::weights::{Random, normal_table};

/// How experts are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routing {
    /// All as often.
    Uniform,
    /// Rank `n` in proportion to `1 / n`.
    Zipf,
}

impl Routing {
    /// A flag's value.
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word {
            "uniform" => Some(Self::Uniform),
            "zipf" => Some(Self::Zipf),
            _ => None,
        }
    }
}

/// What the tensors of a model begin their rows with, and how much its layers add.
pub(super) struct Router {
    /// Rows of the embedding.
    pub(super) embedding: Vec<f32>,
    /// Rows of a V2 router.
    pub(super) gate: Vec<f32>,
    /// A V3 router's bias.
    pub(super) bias: Vec<f32>,
    /// Multiplies the outputs of attention and MLP.
    pub(super) damping: f32,
}

impl Router {
    pub(super) fn new(shape: &Shape, routing: Routing) -> Self {
        let plain =
            Self { embedding: Vec::new(), gate: Vec::new(), bias: Vec::new(), damping: 1.0 };
        match routing {
            Routing::Uniform => plain,
            Routing::Zipf if shape.is_v3 => Self { bias: Choice::of(shape).offsets(), ..plain },
            Routing::Zipf => Self {
                embedding: vec![1.0],
                gate: Choice::of(shape).offsets(),
                damping: 0.1,
                ..plain
            },
        }
    }
}

/// Deviation of a router's logits.
const DEVIATION: f32 = 2.0;
/// No expert is wanted more often than this: always would take an endless offset.
const OFTEN: f32 = 0.95;
/// Rounds of trying, and rows of each.
const ROUNDS: usize = 600;
const ROWS: usize = 256;

/// A router's rule, and draws.
struct Choice<'a> {
    shape: &'a Shape,
    normal: Vec<f32>,
    random: Random,
}

impl<'a> Choice<'a> {
    fn of(shape: &'a Shape) -> Self {
        Self { shape, normal: normal_table(), random: Random(2) }
    }

    /// How often each expert is wanted: Zipf's law, `K` experts a row, ranks dealt out at random so that popular ones
    /// are in every group.
    fn wanted(&mut self) -> Vec<f32> {
        let n = self.shape.n_routed_experts;
        let share = |scale: f32, rank: usize| (scale / (rank + 1) as f32).min(OFTEN);
        let sum = |scale: f32| (0..n).map(|rank| share(scale, rank)).sum::<f32>();
        let (mut low, mut high) = (0.0, n as f32);
        for _ in 0..60 {
            let middle = f32::midpoint(low, high);
            let too_little = sum(middle) < self.shape.num_experts_per_tok as f32;
            if too_little { low = middle } else { high = middle }
        }
        let mut wanted: Vec<f32> = (0..n).map(|rank| share(low, rank)).collect();
        for last in (1..n).rev() {
            wanted.swap(last, (self.random.next() % (last as u64 + 1)) as usize);
        }
        wanted
    }

    /// What is added to each expert's choice.
    fn offsets(&mut self) -> Vec<f32> {
        let wanted = self.wanted();
        // Scores of V3 are between 0 and 1.
        let unit = if self.shape.is_v3 { 0.25 } else { DEVIATION };
        let mut offsets = vec![0.0; wanted.len()];
        for round in 0..ROUNDS {
            let step = unit * 0.5 / (1.0 + round as f32 / 20.0);
            let often = self.often(&offsets, ROWS);
            for ((offset, wanted), often) in offsets.iter_mut().zip(&wanted).zip(often) {
                let off = (wanted / often.max(0.5 / ROWS as f32)).ln();
                *offset += step * off.clamp(-1.0, 1.0);
            }
        }
        offsets
    }

    /// The share of `rows` drawn rows that go to each expert.
    fn often(&mut self, offsets: &[f32], rows: usize) -> Vec<f32> {
        let mut count = vec![0.0; offsets.len()];
        for _ in 0..rows {
            let mut scores: Vec<f32> = offsets.iter().map(|offset| self.score() + offset).collect();
            self.drop_groups(&mut scores);
            for _ in 0..self.shape.num_experts_per_tok {
                let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
                let Some((best, _)) = best else { break };
                scores[best] = f32::NEG_INFINITY;
                count[best] += 1.0 / rows as f32;
            }
        }
        count
    }

    fn score(&mut self) -> f32 {
        let logit = DEVIATION * self.normal[self.random.next() as usize % self.normal.len()];
        if self.shape.is_v3 { 1.0 / (1.0 + (-logit).exp()) } else { logit }
    }

    /// Keeps the groups with the largest sums of their two best (V3).
    fn drop_groups(&self, scores: &mut [f32]) {
        let Shape { n_group, topk_group, .. } = *self.shape;
        if n_group <= 1 {
            return;
        }
        let size = scores.len() / n_group;
        let mut groups: Vec<(f32, usize)> = Vec::new();
        for (group, scores) in scores.chunks(size).enumerate() {
            let mut sorted = scores.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            groups.push((sorted.iter().take(2).sum(), group));
        }
        groups.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, group) in groups.iter().skip(topk_group) {
            scores[group * size..][..size].fill(f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::preset::find;
    use super::*;

    /// Share of all choices that go elsewhere than they should.
    fn distance(wanted: &[f32], got: &[f32]) -> f32 {
        let sum: f32 = wanted.iter().sum();
        wanted.iter().zip(got).map(|(a, b)| (a - b).abs()).sum::<f32>() / 2.0 / sum
    }

    #[test]
    fn experts_are_chosen_as_zipf_has_it() {
        for name in ["ds-lite-cut", "ds-mini", "moonlight-cut"] {
            let shape = find(name).unwrap();
            let (wanted, offsets) = (Choice::of(&shape).wanted(), Choice::of(&shape).offsets());
            let mut fresh = Choice { random: Random(99), ..Choice::of(&shape) };
            let got = fresh.often(&offsets, 4000);
            assert!(distance(&wanted, &got) < 0.06, "{name}: {wanted:?} {got:?}");
            let even = fresh.often(&vec![0.0; offsets.len()], 4000);
            assert!(distance(&wanted, &even) > 0.3, "{name}: uniform is far from it");
        }
    }

    #[test]
    fn wanted_shares_are_zipfs_and_make_the_experts_of_a_row() {
        let shape = find("ds-lite-cut").unwrap();
        let mut wanted = Choice::of(&shape).wanted();
        assert!((wanted.iter().sum::<f32>() - 6.0).abs() < 1e-3);
        wanted.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(wanted[0], OFTEN);
        assert!((wanted[9] / wanted[39] - 4.0).abs() < 1e-3, "rank 10 four times rank 40");
    }

    #[test]
    fn uniform_routing_changes_nothing_and_words_are_read() {
        let shape = find("ds-lite-cut").unwrap();
        let router = Router::new(&shape, Routing::Uniform);
        assert!(router.gate.is_empty() && router.bias.is_empty() && router.embedding.is_empty());
        assert_eq!(Routing::parse("zipf"), Some(Routing::Zipf));
        assert_eq!(Routing::parse("uniform"), Some(Routing::Uniform));
        assert_eq!(Routing::parse("even"), None);
    }
}
