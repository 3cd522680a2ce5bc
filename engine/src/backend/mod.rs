//! The operations a model is made of: 15 fused, DeepSeek-shaped ones, their math and shapes, nothing else.
//!
//! Not a tensor library and not a forward pass: each model is written once over this trait. Shapes read outermost
//! first, in `config.json`'s words: `D` `hidden_size`, `H` `num_attention_heads`, `n` `qk_nope_head_dim`, `r`
//! `qk_rope_head_dim`, `v` `v_head_dim`, `c` `kv_lora_rank`. All sums are f32. The order of every sum is a function of the
//! row's own shape and position: a row's result has the same bits whatever else is in the step.
//!
//! Buffers are sized for the largest step; operations take the number of rows they work on, always the first ones
//! unless a range is given. Operations may panic on shapes that the model could not have built: those are bugs.

pub mod cpu;
pub mod cuda;
mod uses;

use std::ops::Range;

pub use crate::checkpoint::config::{RopePairs, RouteRule, Scoring};
use crate::checkpoint::{Keep, Tensor};
use crate::error::Result;
use crate::limits::Limits;
use crate::quant::DType;
use crate::step::{Sampled, Slot, Step};
pub use uses::{KvBPart, Role, Use, Watch};

/// Sizes of attention, the same in every layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlaShape {
    /// `H`.
    pub n_head: usize,
    /// `n`.
    pub qk_nope_head_dim: usize,
    /// `r`.
    pub qk_rope_head_dim: usize,
    /// `v`.
    pub v_head_dim: usize,
    /// `c`.
    pub kv_lora_rank: usize,
    /// Rotary keys of a cache row: one that all heads share, or one for each head.
    pub n_k_pe: usize,
    /// Multiplies every score: `(n + r)^-1/2`, times YaRN's factor.
    pub softmax_scale: f32,
}

impl MlaShape {
    /// `n + r`: width of one query head.
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// `c + n_k_pe * r`: numbers in one row of the latent cache.
    pub fn latent_dim(&self) -> usize {
        self.kv_lora_rank + self.n_k_pe * self.qk_rope_head_dim
    }

    /// Where a head's rotary key begins in a row of the latent cache.
    pub fn k_pe_start(&self, head: usize) -> usize {
        let of_its_own = if self.n_k_pe == 1 { 0 } else { head };
        self.kv_lora_rank + of_its_own * self.qk_rope_head_dim
    }
}

/// Which half of a [`KvB`] a [`Backend::head_linear`] multiplies with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadSide {
    /// `q_latent[h, c] = sum_n q_nope[h, n] * w_uk[h, n, c]`: the key half folded into the query.
    Key,
    /// `o[h, v] = sum_c o_latent[h, c] * w_uv[h, v, c]`: the value half applied to attention's output.
    Value,
}

/// `kv_b_proj`, `[H, n + v, c]`, as checkpoints have it: stored, or borrowed as [`KvB::as_ref`] gives it.
#[derive(Debug, Clone, Copy)]
pub enum KvB<W> {
    /// One matrix, `[H * (n + v), c]`.
    Whole(W),
    /// Two matrices that were never one: `k_up [H * (n + r), c]`, of which the first `n` rows of a head are used, and
    /// `v_up [H * v, c]`.
    Apart {
        /// `[H * (n + r), c]`.
        key: W,
        /// `[H * v, c]`.
        value: W,
    },
    /// Its halves, each head's key part turned round: `w_uk[h, n, c]` is in row `c` of the head's `c` rows.
    Halves {
        /// `[H * c, n]`.
        key: W,
        /// `[H * v, c]`.
        value: W,
    },
}

impl<W> KvB<W> {
    /// The same, borrowed.
    pub fn as_ref(&self) -> KvB<&W> {
        match self {
            Self::Whole(whole) => KvB::Whole(whole),
            Self::Apart { key, value } => KvB::Apart { key, value },
            Self::Halves { key, value } => KvB::Halves { key, value },
        }
    }
}

/// One layer's routed experts; `E` of each.
pub struct ExpertWeights<W> {
    /// `[M, D]` each.
    pub gate: Vec<W>,
    /// `[M, D]` each.
    pub up: Vec<W>,
    /// `[D, M]` each.
    pub down: Vec<W>,
}

/// Rotation tables: `cos` and `sin` of every position and pair, YaRN's factor included, `[context, r / 2]` each.
pub struct RopeTable<B> {
    /// Cosines.
    pub cos: B,
    /// Sines.
    pub sin: B,
    /// Which two channels turn together.
    pub pairs: RopePairs,
}

/// The largest sizes a model will ever ask of one operation; scratch is made from it at load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScratchShape {
    /// Rows of a step.
    pub step_rows_max: usize,
    /// Sequences of a step.
    pub sequences_max: usize,
    /// Tokens of one sequence.
    pub context_tokens_max: usize,
    /// Pages of the latent cache.
    pub n_page: usize,
    /// Widest input of any `linear` or expert product.
    pub input_dim_max: usize,
    /// `D`.
    pub hidden_size: usize,
    /// Width of one routed expert, `M`; 0 in a dense model.
    pub moe_intermediate_size: usize,
    /// Experts chosen per token, `K`; 0 in a dense model.
    pub num_experts_per_tok: usize,
    /// `E`; 0 in a dense model.
    pub n_routed_experts: usize,
    /// `V`.
    pub vocab_size: usize,
    /// Attention.
    pub mla: MlaShape,
}

/// The operations a model is made of.
pub trait Backend: Send + 'static {
    /// Activations, in the type the backend likes best; zeroed when made.
    type Buf: Send;
    /// One layer's latent cache, `[n_page, PAGE_TOKENS]` rows `[c_kv, k_pe]`, in the format the backend was made with.
    type Cache: Send;
    /// A matrix in its checkpoint's format: mapped (CPU) or uploaded (GPU).
    type Weight: Send;
    /// One layer's experts.
    type Experts: Send;
    /// A step's index arrays, and how its work is split, on the device.
    type Plan: Send;
    /// Experts chosen for each row, and their weights.
    type Routing: Send;

    /// How it keeps matrices.
    fn keep(&self) -> Keep {
        Keep::default()
    }
    /// Attention's sizes, and in what most weights are kept. Called before anything is made: the order of `kv_b` and the
    /// format of the cache may depend on them.
    ///
    /// # Errors
    /// Sizes that the backend cannot run.
    fn prepare(&mut self, shape: &MlaShape, kept: DType) -> Result<()>;
    /// One layer's cache of `n_page` pages.
    fn cache(&mut self, shape: &MlaShape, n_page: usize) -> Result<Self::Cache>;
    /// Bytes of a row of it.
    fn cache_row_bytes(&self, shape: &MlaShape) -> usize;
    /// The row at `slot`, `[c + n_k_pe * r]`; for traces and tests.
    fn read_latent(&self, cache: &Self::Cache, slot: Slot, out: &mut [f32]) -> Result<()>;
    /// A buffer of `rows` rows, of `dim` numbers at most.
    fn alloc(&mut self, rows: usize, dim: usize, role: Role) -> Result<Self::Buf>;
    /// A small tensor in f32: norm weights, biases, tables.
    fn vector(&mut self, values: &[f32]) -> Result<Self::Buf>;
    /// Rows of `dim` numbers, as an operation's input.
    fn rows(&mut self, values: &[f32], dim: usize) -> Result<Self::Buf>;
    /// A matrix, used in place where the format allows it and no other format was asked for. Touches its bytes, so that
    /// the first token need not.
    fn weight(&mut self, tensor: &Tensor, used: Use) -> Result<Self::Weight>;
    /// A layer's experts, all of one shape; `done(bytes)` after each matrix.
    fn expert_weights(
        &mut self,
        tensors: &ExpertWeights<Tensor>,
        done: &mut dyn FnMut(usize),
    ) -> Result<Self::Experts>;
    /// Room for the choices of `rows` rows.
    fn routing(&mut self, rows: usize, rule: &RouteRule) -> Result<Self::Routing>;
    /// A choice made once for every row: all of `n_expert` experts, each with weight `1 / n_expert`.
    fn average_routing(&mut self, rows: usize, n_expert: usize) -> Result<Self::Routing>;
    /// Everything a step will need, made once.
    fn reserve(&mut self, shape: &ScratchShape, limits: &Limits) -> Result<Self::Plan>;
    /// Copies the first rows of `dim` numbers from `buf`, as many as fill `out`; for traces and tests.
    fn read(&self, buf: &Self::Buf, dim: usize, out: &mut [f32]) -> Result<()>;
    /// The first rows' choices: expert ids `[rows, K]`, weights `[rows, K]`, router logits `[rows, E]`.
    fn read_routing(&self, routing: &Self::Routing, rows: usize) -> Result<RoutingTrace>;
    /// Experts whose weights the rows of a `route` need, each counted once however many rows chose it; added up over
    /// all calls with this routing.
    fn touched(&self, routing: &Self::Routing) -> u64;

    /// Numbers of decoding rows whose passes are worth recording, once everything is made: with each, a step of one row
    /// a sequence is passed through the model after [`Backend::record_next`]. None where recording gains nothing.
    fn recorded_rows(&self, limits: &Limits) -> Vec<usize> {
        let _ = limits;
        Vec::new()
    }
    /// The next pass is recorded and not run.
    fn record_next(&mut self) {}

    /// Takes a step's indices. Called once a step, before everything else.
    ///
    /// # Errors
    /// What the device refuses, or what went wrong on it in an earlier step.
    fn begin(&mut self, plan: &mut Self::Plan, step: &Step, watch: Watch) -> Result<()>;

    /// 1. `y[row] = table[token[row]]`; `y [n_row, D]`, `table [V, D]`.
    fn embed(&mut self, y: &mut Self::Buf, table: &Self::Weight, plan: &Self::Plan);
    /// 2. `y = x / sqrt(mean(x^2) + eps) * weight` over rows of `weight.len()`.
    fn rms_norm(
        &mut self,
        y: &mut Self::Buf,
        x: &Self::Buf,
        weight: &Self::Buf,
        eps: f32,
        rows: usize,
    );
    /// 3. `x += delta; y = rms_norm(x)`.
    fn add_rms_norm(
        &mut self,
        y: &mut Self::Buf,
        x: &mut Self::Buf,
        delta: &Self::Buf,
        weight: &Self::Buf,
        eps: f32,
        rows: usize,
    );
    /// 4. `y[row] = W x[row]`; `W [out, in]`, `x [rows, in]`, `y [rows, out]`.
    fn linear(&mut self, y: &mut Self::Buf, x: &Self::Buf, weight: &Self::Weight, rows: usize);
    /// 5. One product per head with one half of `kv_b`, for the rows in `rows`.
    ///
    /// `Key`: `x` are queries `[row, H, n + r]` (the first `n` of each head are read), `y [row, H, c]`.
    /// `Value`: `x [row, H, c]`, `y [row, H, v]`.
    fn head_linear(
        &mut self,
        y: &mut Self::Buf,
        x: &Self::Buf,
        kv_b: KvB<&Self::Weight>,
        side: HeadSide,
        shape: &MlaShape,
        rows: Range<usize>,
    );
    /// 6. Rotates the last `r` of every head in place: `q [n_row, H, n + r]`, the table's pairs, by the row's position.
    ///    Channels keep their places.
    fn rope(
        &mut self,
        q: &mut Self::Buf,
        table: &RopeTable<Self::Buf>,
        shape: &MlaShape,
        plan: &Self::Plan,
    );
    /// 7. From `kv [n_row, c + r]` to the cache row `[c_kv, k_pe]` at each row's slot: `c_kv = rms_norm(kv[..c])`,
    ///    `k_pe = rotate(kv[c..])`.
    #[allow(
        clippy::too_many_arguments,
        reason = "one fused operation: input, output, norm, rotation and indices"
    )]
    fn cache_store(
        &mut self,
        cache: &mut Self::Cache,
        kv: &Self::Buf,
        norm: &Self::Buf,
        eps: f32,
        table: &RopeTable<Self::Buf>,
        shape: &MlaShape,
        plan: &Self::Plan,
    );
    /// 15. `cache_store` where each head has a rotary key of its own and latents have no norm: from `latent [n_row, c]` and
    ///     rotated keys `k [n_row, H, n + r]`, of which the last `r` of each head are read, to the cache row
    ///     `[latent, k_pe of every head]`.
    fn cache_store_heads(
        &mut self,
        cache: &mut Self::Cache,
        latent: &Self::Buf,
        k: &Self::Buf,
        shape: &MlaShape,
        plan: &Self::Plan,
    );
    /// 8. Absorbed attention of the step's first `n_decode_row` rows over the paged cache, causal:
    ///    `s[h, u] = scale * (q_latent[h] . c_kv[u] + q_pe[h] . k_pe[u])`, `o_latent[h] = sum_u softmax(s)[u] c_kv[u]`.
    ///    `q_latent`, `o_latent` `[row, H, c]`; `q [row, H, n + r]` rotated. With a rotary key for each head, `k_pe[u]`
    ///    is the head's own.
    fn mla_decode(
        &mut self,
        o_latent: &mut Self::Buf,
        q_latent: &Self::Buf,
        q: &Self::Buf,
        cache: &Self::Cache,
        shape: &MlaShape,
        plan: &Self::Plan,
    );
    /// 9. Multi-head attention of all rows after the first `n_decode_row`: keys and values are expanded from the
    ///    cached latents, tile by tile, causal. Writes `o [row, H, v]` at those rows only.
    fn mla_prefill(
        &mut self,
        o: &mut Self::Buf,
        q: &Self::Buf,
        cache: &Self::Cache,
        kv_b: KvB<&Self::Weight>,
        shape: &MlaShape,
        plan: &Self::Plan,
    );
    /// 10. Router logits `gate [E, D] . x` in f32 (inputs never rounded), scores, choice; ties by lowest expert.
    ///     Choices are stored in the order chosen: largest first. `bias` is the rule's: with sigmoid scores it is added
    ///     to what experts are chosen by and does not weigh, with softmax scores to the logits.
    fn route(
        &mut self,
        routing: &mut Self::Routing,
        x: &Self::Buf,
        gate: &Self::Weight,
        bias: Option<&Self::Buf>,
        rule: &RouteRule,
        rows: usize,
    );
    /// 11. `y[row] = shared[row] + sum over chosen e of w_e * mlp_e(x[row])`, in five explicit parts: the routing is
    ///     given; dispatch (rows grouped by expert), experts, combine (in the fixed order of the row's choices),
    ///     add shared. `shared` is `None` in a model without shared experts.
    fn experts(
        &mut self,
        y: &mut Self::Buf,
        shared: Option<&Self::Buf>,
        x: &Self::Buf,
        routing: &Self::Routing,
        weights: &Self::Experts,
        rows: usize,
    );
    /// 12. `y = silu(gate) * up` over `rows * dim` numbers.
    fn swiglu(
        &mut self,
        y: &mut Self::Buf,
        gate: &Self::Buf,
        up: &Self::Buf,
        dim: usize,
        rows: usize,
    );
    /// 13. `y[i] = x[samples[i].row]`: the rows that want a token. `dim` numbers each.
    fn gather_rows(&mut self, y: &mut Self::Buf, x: &Self::Buf, dim: usize, plan: &Self::Plan);
    /// 14. Draws one token a sample row from `logits [n_sample, V]`, which it may overwrite: bias, repetition, presence and frequency
    ///     penalties, temperature, top-k, top-p, min-p, draw by a hash of (seed, position).
    ///
    /// # Errors
    /// What went wrong on the device in any operation of this step.
    fn sample(
        &mut self,
        out: &mut Vec<Sampled>,
        logits: &mut Self::Buf,
        vocab_size: usize,
        plan: &Self::Plan,
        step: &Step,
    ) -> Result<()>;
}

/// A step's routing, read back for traces.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoutingTrace {
    /// `[rows, K]`.
    pub indices: Vec<u32>,
    /// `[rows, K]`.
    pub weights: Vec<f32>,
    /// `[rows, E]`.
    pub logits: Vec<f32>,
}
