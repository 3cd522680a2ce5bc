//! The plan of one forward pass, as data: what the scheduler hands to a model.

/// Rows of the latent cache in one page.
pub const PAGE_TOKENS: usize = 64;

/// A token's number in the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u32);

/// A page's number in the latent cache: [`PAGE_TOKENS`] rows in every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(pub u32);

/// A row's address in the latent cache: `page * PAGE_TOKENS + offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// The row `offset` of `page`.
    ///
    /// # Panics
    /// When a page has no such row: a bug of the caller.
    pub fn new(page: PageId, offset: usize) -> Self {
        assert!(offset < PAGE_TOKENS);
        Self(page.0 * PAGE_TOKENS as u32 + offset as u32)
    }

    /// The row's index in a layer's buffer.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What one forward pass will do.
///
/// The first `n_decode` sequences are computed in the absorbed form of attention (one row each, or more when a
/// preempted answer is replayed), the others in the multi-head form. The form of a row is a pure function of the
/// request's own content and the row's position, never of batch, chunking, cache or time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// `[n_row]`: sequences back to back, those in decode form first.
    pub tokens: Vec<TokenId>,
    /// `[n_row]`: each row's place in its own sequence.
    pub positions: Vec<u32>,
    /// `[n_row]`: where the row's `[c_kv, k_pe]` is written.
    pub slots: Vec<Slot>,
    /// `[n_seq + 1]`: rows of sequence `i` are `row_start[i]..row_start[i + 1]`.
    pub row_start: Vec<u32>,
    /// How many of the first sequences are in decode form.
    pub n_decode: usize,
    /// `[n_seq + 1]`: pages of sequence `i` in `pages`.
    pub page_start: Vec<u32>,
    /// `[n_page]`: each sequence's pages in order, enough for `context_len`.
    pub pages: Vec<PageId>,
    /// `[n_seq]`: tokens a sequence sees after this step.
    pub context_len: Vec<u32>,
    /// `[n_sample]`: rows that want a token, and how to draw it.
    pub samples: Vec<SampleRow>,
    /// `[n_sample + 1]`: penalties of sample `i` in `penalties`.
    pub penalty_start: Vec<u32>,
    /// Tokens already seen, with their counts; each token once a sample.
    pub penalties: Vec<Penalty>,
    /// `[n_sample + 1]`: biases of sample `i` in `biases`.
    pub bias_start: Vec<u32>,
    /// Amounts added to a token's logit.
    pub biases: Vec<(TokenId, f32)>,
}

impl Step {
    /// A step of `n` sequences with one row each, token 0 at position 0, that all draw greedily: its sizes are what
    /// matters.
    pub fn decoding(n: usize) -> Self {
        let n = n as u32;
        Self {
            tokens: (0..n).map(|_| TokenId(0)).collect(),
            positions: vec![0; n as usize],
            slots: (0..n).map(|_| Slot(0)).collect(),
            row_start: (0..=n).collect(),
            n_decode: n as usize,
            page_start: (0..=n).collect(),
            pages: (0..n).map(|_| PageId(0)).collect(),
            context_len: vec![1; n as usize],
            samples: (0..n).map(|row| SampleRow::greedy(row, 1)).collect(),
            penalty_start: vec![0; n as usize + 1],
            bias_start: vec![0; n as usize + 1],
            ..Self::default()
        }
    }

    /// Rows of this step.
    pub fn n_row(&self) -> usize {
        self.tokens.len()
    }

    /// Sequences of this step.
    pub fn n_seq(&self) -> usize {
        self.context_len.len()
    }

    /// Rows computed in decode form: the first ones.
    pub fn n_decode_row(&self) -> usize {
        self.row_start.get(self.n_decode).map_or(0, |&row| row as usize)
    }

    /// Empties every list and keeps their memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.row_start.clear();
        self.n_decode = 0;
        self.page_start.clear();
        self.pages.clear();
        self.context_len.clear();
        self.samples.clear();
        self.penalty_start.clear();
        self.penalties.clear();
        self.bias_start.clear();
        self.biases.clear();
    }
}

/// A row that wants a token, and how to draw it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleRow {
    /// The row in the step.
    pub row: u32,
    /// The draw is a hash of (seed, position).
    pub seed: u64,
    /// Position of the token to be drawn in its sequence.
    pub position: u32,
    /// 0 means greedy: the largest logit, ties by lowest id.
    pub temperature: f32,
    /// Keep the k largest; 0 keeps all. 1 is greedy.
    pub top_k: u32,
    /// Keep the smallest head of the distribution with at least this mass; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens below this share of the largest probability; 0 drops none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition: f32,
    /// Subtracted once from tokens seen in the output.
    pub presence: f32,
    /// Subtracted per occurrence in the output.
    pub frequency: f32,
}

impl SampleRow {
    /// A greedy choice without penalties.
    pub fn greedy(row: u32, position: u32) -> Self {
        Self {
            row,
            seed: 0,
            position,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition: 1.0,
            presence: 0.0,
            frequency: 0.0,
        }
    }
}

/// A token that sampling may penalise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Penalty {
    /// The token.
    pub token: TokenId,
    /// Times in the prompt.
    pub in_prompt: u32,
    /// Times in the output.
    pub in_output: u32,
}

/// What came of a [`SampleRow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampled {
    /// The token drawn.
    Token(TokenId),
    /// The row's logits held a NaN or an infinity: the sequence fails, its neighbours do not notice.
    NotFinite,
}
