//! A step's indices on the card, in places that stay the same: recorded passes read them there.
//!
//! One buffer of words with everything that a decoding step needs, pages last, so that one copy of what is used brings
//! a step over; buffers of their own for prompts, penalties and biases, which most steps have none of.

use std::ops::Range;

use hadal_kernels::Params;
use hadal_kernels::abi::{SampleBias, SamplePenalty, SampleRule};
use hadal_kernels::geometry::mla_prefill::TILE_ROWS;

use super::bug;
use super::device::{Device, Memory};
use crate::backend::ScratchShape;
use crate::error::Result;
use crate::limits::Limits;
use crate::step::{PAGE_TOKENS, SampleRow, Slot, Step};

/// Arrays begin at multiples of this many words: 256 bytes.
const ALIGN_WORDS: usize = 64;
/// Words of a row's rule of sampling.
const RULE_WORDS: usize = size_of::<SampleRule>() / 4;

/// Where an array of words is.
#[derive(Debug, Clone, Copy, Default)]
struct Array {
    first: usize,
    room: usize,
}

/// Arrays of the one buffer.
#[derive(Debug, Clone, Copy, Default)]
struct Arrays {
    tokens: Array,
    positions: Array,
    slots: Array,
    sequence: Array,
    sample_rows: Array,
    penalty_start: Array,
    bias_start: Array,
    rules: Array,
    page_start: Array,
    pages: Array,
}

impl Arrays {
    fn new(shape: &ScratchShape, limits: &Limits) -> Self {
        let (rows, sequences) = (limits.step_rows_max, limits.sequences_max);
        let pages = sequences * shape.context_tokens_max.div_ceil(PAGE_TOKENS).max(1);
        let mut end = 0;
        let mut array = |room: usize| {
            let first = end;
            end = (first + room).next_multiple_of(ALIGN_WORDS);
            Array { first, room }
        };
        Self {
            tokens: array(rows),
            positions: array(rows),
            slots: array(rows),
            sequence: array(rows),
            sample_rows: array(sequences),
            penalty_start: array(sequences + 1),
            bias_start: array(sequences + 1),
            rules: array(sequences * RULE_WORDS),
            page_start: array(sequences + 1),
            pages: array(pages),
        }
    }
}

/// Some whole sequences of a step in prompt form, whose tokens are expanded together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PromptGroup {
    pub(super) tiles: Range<usize>,
    pub(super) tokens: Range<usize>,
}

/// A step's indices; see [`Step`] for what they mean.
pub struct Plan {
    arrays: Arrays,
    words: Memory,
    /// `[n, 4]`: see `mla_prefill.h`.
    tiles: Memory,
    /// Cache rows of every token that a prompt's rows see.
    prompt_slots: Memory,
    penalties: Memory,
    biases: Memory,
    /// Most tokens that are expanded together.
    group_tokens_max: usize,
    /// A page that no sequence has.
    spare_page: usize,
    /// The words on their way.
    staged: Vec<u8>,
    pub(super) n_row: usize,
    pub(super) n_decode_row: usize,
    pub(super) n_sample: usize,
    pub(super) groups: Vec<PromptGroup>,
}

impl Plan {
    pub(super) fn new(
        device: &Device,
        shape: &ScratchShape,
        limits: &Limits,
        group_tokens_max: usize,
    ) -> Result<Self> {
        let arrays = Arrays::new(shape, limits);
        let (rows, sequences) = (limits.step_rows_max, limits.sequences_max);
        let tiles = rows.div_ceil(TILE_ROWS) + sequences;
        let seen = shape.vocab_size.min(shape.context_tokens_max);
        let words = arrays.pages.first + arrays.pages.room;
        Ok(Self {
            arrays,
            words: device.zeros(4 * words)?,
            tiles: device.room(16 * tiles)?,
            prompt_slots: device.room(4 * sequences * shape.context_tokens_max)?,
            penalties: device.room(sequences * seen * size_of::<SamplePenalty>())?,
            biases: device.room(sequences * limits.biases_max * size_of::<SampleBias>())?,
            group_tokens_max,
            spare_page: shape.n_page,
            staged: Vec::with_capacity(4 * words),
            n_row: 0,
            n_decode_row: 0,
            n_sample: 0,
            groups: Vec::with_capacity(sequences),
        })
    }

    /// Takes the sizes of a step alone, to record its pass.
    pub(super) fn take_sizes(&mut self, step: &Step) {
        self.n_row = step.n_row();
        self.n_decode_row = step.n_decode_row();
        self.n_sample = step.samples.len();
        self.groups.clear();
    }

    /// Takes a step, filled up to `padded` rows and samples where a recording of so many will run.
    pub(super) fn take(
        &mut self,
        device: &Device,
        step: &Step,
        padded: Option<usize>,
    ) -> Result<()> {
        self.take_sizes(step);
        self.stage(step, padded)?;
        device.upload(&self.words, 0, &self.staged)?;
        if !step.penalties.is_empty() {
            let each = step.penalties.iter();
            let structs = each.map(|p| SamplePenalty { token: p.token.0, in_output: p.in_output });
            device.upload(&self.penalties, 0, &bytes_of(structs))?;
        }
        if !step.biases.is_empty() {
            let each = step.biases.iter();
            let structs =
                each.map(|(token, amount)| SampleBias { token: token.0, amount: *amount });
            device.upload(&self.biases, 0, &bytes_of(structs))?;
        }
        if self.n_decode_row < self.n_row {
            self.take_prompts(device, step)?;
        }
        if let Some(padded) = padded {
            (self.n_row, self.n_decode_row, self.n_sample) = (padded, padded, padded);
        }
        Ok(())
    }

    /// Lays the words out.
    fn stage(&mut self, step: &Step, padded: Option<usize>) -> Result<()> {
        self.staged.clear();
        self.staged.resize(4 * (self.arrays.pages.first + step.pages.len()), 0);
        let (rows, samples) = (step.n_row(), step.samples.len());
        let (n_row, n_sample) = padded.map_or((rows, samples), |padded| (padded, padded));
        // Copies of the first row read what it reads: no expert and no latent is read for them alone.
        let row = |i: usize| if i < rows { i } else { 0 };
        let sample = |i: usize| if i < samples { i } else { 0 };
        let spare_page = self.spare_page;
        let spare = |i: usize| Slot((spare_page * PAGE_TOKENS + i % PAGE_TOKENS) as u32);
        let mut sequence = Vec::with_capacity(rows);
        for (i, of) in step.row_start.windows(2).enumerate() {
            sequence.extend((of[0]..of[1]).map(|_| i as u32));
        }
        if sequence.len() != rows || rows == 0 || rows > n_row || samples > n_sample {
            return Err(bug("step", &format!("{rows} rows, {samples} samples, room for {n_row}")));
        }
        let slot = |i: usize| if i < rows { step.slots[i].0 } else { spare(i).0 };
        let a = self.arrays;
        self.put(a.tokens, (0..n_row).map(|i| step.tokens[row(i)].0))?;
        self.put(a.positions, (0..n_row).map(|i| step.positions[row(i)]))?;
        let slots: Vec<u32> = (0..n_row).map(slot).collect();
        self.put(a.slots, slots.into_iter())?;
        self.put(a.sequence, (0..n_row).map(|i| sequence[row(i)]))?;
        self.put(a.page_start, step.page_start.iter().copied())?;
        self.put(a.pages, step.pages.iter().map(|page| page.0))?;
        if samples == 0 {
            return Ok(());
        }
        self.put(a.sample_rows, (0..n_sample).map(|i| step.samples[sample(i)].row))?;
        let starts = |starts: &[u32], i: usize| starts.get(i).or(starts.last()).map_or(0, |at| *at);
        self.put(a.penalty_start, (0..=n_sample).map(|i| starts(&step.penalty_start, i)))?;
        self.put(a.bias_start, (0..=n_sample).map(|i| starts(&step.bias_start, i)))?;
        self.put(a.rules, (0..n_sample).flat_map(|i| rule_words(&step.samples[sample(i)])))
    }

    fn put(&mut self, array: Array, words: impl Iterator<Item = u32>) -> Result<()> {
        let mut room = self.staged[4 * array.first..].chunks_exact_mut(4).take(array.room);
        for word in words {
            let Some(to) = room.next() else {
                return Err(bug(
                    "step",
                    &format!("an array is longer than its {} words", array.room),
                ));
            };
            to.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    /// Tiles and cache rows of the sequences in prompt form.
    fn take_prompts(&mut self, device: &Device, step: &Step) -> Result<()> {
        let (mut tiles, mut slots): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut group = PromptGroup { tiles: 0..0, tokens: 0..0 };
        for i in step.n_decode..step.n_seq() {
            let context = step.context_len[i] as usize;
            if group.tokens.len() + context > self.group_tokens_max && !group.tiles.is_empty() {
                self.groups.push(group.clone());
                group = PromptGroup {
                    tiles: group.tiles.end..group.tiles.end,
                    tokens: group.tokens.end..group.tokens.end,
                };
            }
            let rows = step.row_start[i] as usize..step.row_start[i + 1] as usize;
            for first in rows.clone().step_by(TILE_ROWS) {
                let n = TILE_ROWS.min(rows.end - first);
                // Tokens are counted from the group's first: a group has the workspace to itself.
                let token = slots.len() - group.tokens.start;
                tiles.extend([first as u32, n as u32, step.positions[first], token as u32]);
            }
            let pages = step.page_start[i] as usize..step.page_start[i + 1] as usize;
            let all = step.pages[pages].iter();
            let all = all.flat_map(|page| (0..PAGE_TOKENS).map(|at| Slot::new(*page, at).0));
            slots.extend(all.take(context));
            group.tiles.end = tiles.len() / 4;
            group.tokens.end = slots.len();
        }
        self.groups.push(group);
        let bytes = |words: &[u32]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        device.upload(&self.tiles, 0, &bytes(&tiles))?;
        device.upload(&self.prompt_slots, 0, &bytes(&slots))
    }

    fn at(&self, array: Array) -> *const u32 {
        self.words.at::<u32>().wrapping_add(array.first)
    }

    pub(super) fn tokens(&self) -> *const u32 {
        self.at(self.arrays.tokens)
    }

    pub(super) fn positions(&self) -> *const u32 {
        self.at(self.arrays.positions)
    }

    pub(super) fn slots(&self) -> *const u32 {
        self.at(self.arrays.slots)
    }

    pub(super) fn sequence(&self) -> *const u32 {
        self.at(self.arrays.sequence)
    }

    pub(super) fn sample_rows(&self) -> *const u32 {
        self.at(self.arrays.sample_rows)
    }

    pub(super) fn page_start(&self) -> *const u32 {
        self.at(self.arrays.page_start)
    }

    pub(super) fn pages(&self) -> *const u32 {
        self.at(self.arrays.pages)
    }

    pub(super) fn rules(&self) -> *const SampleRule {
        self.at(self.arrays.rules).cast()
    }

    pub(super) fn penalty_start(&self) -> *const u32 {
        self.at(self.arrays.penalty_start)
    }

    pub(super) fn bias_start(&self) -> *const u32 {
        self.at(self.arrays.bias_start)
    }

    pub(super) fn penalties(&self) -> *const SamplePenalty {
        self.penalties.at()
    }

    pub(super) fn biases(&self) -> *const SampleBias {
        self.biases.at()
    }

    /// Tile `first` and those behind it.
    pub(super) fn tiles(&self, first: usize) -> *const u32 {
        self.tiles.at::<u32>().wrapping_add(4 * first)
    }

    /// The cache row of prompt token `first` and those behind it.
    pub(super) fn prompt_slots(&self, first: usize) -> *const u32 {
        self.prompt_slots.at::<u32>().wrapping_add(first)
    }
}

/// How a row's token is drawn, as the kernel reads it.
fn rule_words(row: &SampleRow) -> [u32; RULE_WORDS] {
    let rule = SampleRule {
        seed: row.seed,
        position: row.position,
        top_k: row.top_k,
        mask: u32::MAX,
        temperature: row.temperature,
        top_p: row.top_p,
        min_p: row.min_p,
        repetition: row.repetition,
        presence: row.presence,
        frequency: row.frequency,
        unused: 0,
    };
    let mut words = [0; RULE_WORDS];
    for (word, bytes) in words.iter_mut().zip(rule.bytes().chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}

/// Structs as the card reads them.
fn bytes_of<P: Params>(structs: impl Iterator<Item = P>) -> Vec<u8> {
    structs.flat_map(|one| one.bytes().to_vec()).collect()
}
