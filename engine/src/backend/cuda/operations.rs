//! [`Backend`] for [`Cuda`]: each operation handed to the file of its name.

use std::ops::Range;

use hadal_kernels::geometry::mla_decode::{LATENT_MAX, ROPE_MAX};

use super::sample::RESULT_BYTES;
use super::weight::Uploads;
use super::work::Work;
use super::{
    Buf, Cache, Cuda, Experts, Mode, Number, Plan, RECORDED_ROWS, Routing, Weight, bug, number_of,
};
use crate::backend::{
    Backend, ExpertWeights, HeadSide, KvB, MlaShape, Role, RopeTable, RouteRule, RoutingTrace,
    ScratchShape, Use, Watch,
};
use crate::checkpoint::{Keep, Tensor};
use crate::error::Result;
use crate::limits::Limits;
use crate::quant::DType;
use crate::step::{PAGE_TOKENS, Sampled, Slot, Step};

/// Widest head of any prefill kernel.
const HEAD_MAX: usize = 256;
/// Most experts that a router's kernel chooses from.
const EXPERTS_MAX: usize = 1024;
/// Rows of a cache begin at multiples of this many numbers.
const CACHE_NUMBERS: usize = 8;

fn cache_stride(shape: &MlaShape) -> usize {
    shape.latent_dim().next_multiple_of(CACHE_NUMBERS)
}

impl Cuda {
    fn uploads<'a>(&'a self, shape: &'a MlaShape) -> Uploads<'a> {
        Uploads { device: &self.device, keep: self.keep, shape }
    }

    /// The attention that was prepared for.
    fn shape(&self) -> Result<MlaShape> {
        self.mla.ok_or_else(|| bug("weights", "attention is prepared before them"))
    }

    /// The recording that a step runs as.
    fn recording_for(&self, step: &Step, watch: Watch) -> Option<(usize, usize)> {
        let rows = step.n_row();
        let fits = watch == Watch::Outcome
            && step.n_decode_row() == rows
            && (1..=rows).contains(&step.samples.len());
        let graphs = self.graphs.iter().enumerate().filter(|(_, (n, _))| fits && *n >= rows);
        graphs.map(|(index, (n, _))| (index, *n)).min_by_key(|(_, n)| *n)
    }
}

impl Backend for Cuda {
    type Buf = Buf;
    type Cache = Cache;
    type Weight = Weight;
    type Experts = Experts;
    type Plan = Plan;
    type Routing = Routing;

    fn keep(&self) -> Keep {
        self.keep
    }

    fn prepare(&mut self, shape: &MlaShape, _kept: DType) -> Result<()> {
        let within = |what: &str, got: usize, most: usize| {
            if got <= most {
                return Ok(());
            }
            Err(self.device.problem(format!("the kernels take a {what} up to {most}, not {got}")))
        };
        within("`kv_lora_rank`", shape.kv_lora_rank, LATENT_MAX as usize)?;
        within("`qk_rope_head_dim`", shape.qk_rope_head_dim, ROPE_MAX as usize)?;
        within("query head", shape.qk_head_dim().next_multiple_of(16), HEAD_MAX)?;
        within("`v_head_dim`", shape.v_head_dim.next_multiple_of(16), HEAD_MAX)?;
        self.mla = Some(*shape);
        if self.results.is_none() {
            self.results = Some(self.device.zeros(RESULT_BYTES)?);
        }
        Ok(())
    }

    fn cache(&mut self, shape: &MlaShape, n_page: usize) -> Result<Cache> {
        let stride = cache_stride(shape);
        // One page more, for rows that fill up a recording.
        let memory = self.device.zeros((n_page + 1) * PAGE_TOKENS * stride * 2)?;
        Ok(Cache { memory, stride })
    }

    fn cache_row_bytes(&self, shape: &MlaShape) -> usize {
        cache_stride(shape) * 2
    }

    fn read_latent(&self, cache: &Cache, slot: Slot, out: &mut [f32]) -> Result<()> {
        self.read_cache(cache, slot.index(), out)
    }

    fn alloc(&mut self, rows: usize, dim: usize, role: Role) -> Result<Buf> {
        self.buffer(rows, dim, number_of(role))
    }

    fn vector(&mut self, values: &[f32]) -> Result<Buf> {
        self.counted(|cuda| cuda.filled(values, values.len(), Number::F32))
    }

    fn rows(&mut self, values: &[f32], dim: usize) -> Result<Buf> {
        self.filled(values, dim, Number::Bf16)
    }

    fn weight(&mut self, tensor: &Tensor, used: Use) -> Result<Weight> {
        let shape = self.shape()?;
        self.counted(|cuda| cuda.uploads(&shape).weight(tensor, used))
    }

    fn expert_weights(
        &mut self,
        tensors: &ExpertWeights<Tensor>,
        done: &mut dyn FnMut(usize),
    ) -> Result<Experts> {
        let shape = self.shape()?;
        self.counted(|cuda| cuda.uploads(&shape).experts(tensors, done))
    }

    fn routing(&mut self, rows: usize, rule: &RouteRule) -> Result<Routing> {
        let n_expert = rule.n_routed_experts;
        if n_expert > EXPERTS_MAX {
            let problem = format!("the kernels take up to {EXPERTS_MAX} experts, not {n_expert}");
            return Err(self.device.problem(problem));
        }
        Routing::new(self, rows, rule.num_experts_per_tok, n_expert)
    }

    fn average_routing(&mut self, rows: usize, n_expert: usize) -> Result<Routing> {
        Routing::average(self, rows, n_expert)
    }

    fn reserve(&mut self, shape: &ScratchShape, limits: &Limits) -> Result<Plan> {
        // Recorded passes hold on to the old scratch.
        self.graphs.clear();
        self.work = None;
        let work = Work::new(&self.device, shape)?;
        let plan = Plan::new(&self.device, shape, limits, work.prefill.tokens)?;
        self.work = Some(work);
        Ok(plan)
    }

    fn read(&self, buf: &Buf, dim: usize, out: &mut [f32]) -> Result<()> {
        self.read_rows(buf, dim, out)
    }

    fn read_routing(&self, routing: &Routing, rows: usize) -> Result<RoutingTrace> {
        routing.trace(self, rows)
    }

    fn touched(&self, _routing: &Routing) -> u64 {
        self.touched
    }

    fn recorded_rows(&self, limits: &Limits) -> Vec<usize> {
        if !self.records || self.device.is_account() {
            return Vec::new();
        }
        recorded_rows(limits.sequences_max)
    }

    fn record_next(&mut self) {
        self.records_next = true;
    }

    fn begin(&mut self, plan: &mut Plan, step: &Step, watch: Watch) -> Result<()> {
        self.check()?;
        self.mode = Mode::Running;
        let begun = if std::mem::take(&mut self.records_next) {
            plan.take_sizes(step);
            self.mode = Mode::Recording(step.n_row());
            self.device.wait().and_then(|()| self.device.begin_recording())
        } else {
            let recording = self.recording_for(step, watch);
            if let Some((index, _)) = recording {
                self.mode = Mode::Replaying(index);
            }
            plan.take(&self.device, step, recording.map(|(_, rows)| rows))
        };
        begun.map_err(|error| self.lose(error))
    }

    fn embed(&mut self, y: &mut Buf, table: &Weight, plan: &Plan) {
        self.run(|cuda| super::rows::embed(cuda, y, table, plan));
    }

    fn rms_norm(&mut self, y: &mut Buf, x: &Buf, weight: &Buf, eps: f32, rows: usize) {
        self.run(|cuda| super::rms_norm::rms_norm(cuda, y, x, weight, eps, rows));
    }

    fn add_rms_norm(
        &mut self,
        y: &mut Buf,
        x: &mut Buf,
        delta: &Buf,
        weight: &Buf,
        eps: f32,
        rows: usize,
    ) {
        self.run(|cuda| super::rms_norm::add_rms_norm(cuda, y, x, delta, weight, eps, rows));
    }

    fn linear(&mut self, y: &mut Buf, x: &Buf, weight: &Weight, rows: usize) {
        self.run(|cuda| super::linear::linear(cuda, y, x, weight, rows));
    }

    fn head_linear(
        &mut self,
        y: &mut Buf,
        x: &Buf,
        kv_b: KvB<&Weight>,
        side: HeadSide,
        shape: &MlaShape,
        rows: Range<usize>,
    ) {
        self.run(|cuda| super::head_linear::head_linear(cuda, y, x, &kv_b, side, shape, &rows));
    }

    fn rope(&mut self, q: &mut Buf, table: &RopeTable<Buf>, shape: &MlaShape, plan: &Plan) {
        self.run(|cuda| super::rope::rope(cuda, q, table, shape, plan));
    }

    fn cache_store(
        &mut self,
        cache: &mut Cache,
        kv: &Buf,
        norm: &Buf,
        eps: f32,
        table: &RopeTable<Buf>,
        shape: &MlaShape,
        plan: &Plan,
    ) {
        let latents = (kv, norm, eps);
        self.run(|cuda| super::rope::cache_store(cuda, cache, latents, table, shape, plan));
    }

    fn cache_store_heads(
        &mut self,
        cache: &mut Cache,
        latent: &Buf,
        k: &Buf,
        shape: &MlaShape,
        plan: &Plan,
    ) {
        self.run(|cuda| super::rope::cache_store_heads(cuda, cache, latent, k, shape, plan));
    }

    fn mla_decode(
        &mut self,
        o_latent: &mut Buf,
        q_latent: &Buf,
        q: &Buf,
        cache: &Cache,
        shape: &MlaShape,
        plan: &Plan,
    ) {
        self.run(|cuda| {
            super::mla_decode::mla_decode(cuda, o_latent, q_latent, q, cache, shape, plan)
        });
    }

    fn mla_prefill(
        &mut self,
        o: &mut Buf,
        q: &Buf,
        cache: &Cache,
        kv_b: KvB<&Weight>,
        shape: &MlaShape,
        plan: &Plan,
    ) {
        self.run(|cuda| super::mla_prefill::mla_prefill(cuda, o, q, cache, &kv_b, shape, plan));
    }

    fn route(
        &mut self,
        routing: &mut Routing,
        x: &Buf,
        gate: &Weight,
        bias: Option<&Buf>,
        rule: &RouteRule,
        rows: usize,
    ) {
        self.run(|cuda| super::route::route(cuda, routing, x, gate, bias, rule, rows));
    }

    fn experts(
        &mut self,
        y: &mut Buf,
        shared: Option<&Buf>,
        x: &Buf,
        routing: &Routing,
        weights: &Experts,
        rows: usize,
    ) {
        self.run(|cuda| super::experts::experts(cuda, y, shared, x, routing, weights, rows));
    }

    fn swiglu(&mut self, y: &mut Buf, gate: &Buf, up: &Buf, dim: usize, rows: usize) {
        self.run(|cuda| super::rows::swiglu(cuda, y, gate, up, dim, rows));
    }

    fn gather_rows(&mut self, y: &mut Buf, x: &Buf, dim: usize, plan: &Plan) {
        self.run(|cuda| super::rows::gather_rows(cuda, y, x, dim, plan));
    }

    fn sample(
        &mut self,
        out: &mut Vec<Sampled>,
        logits: &mut Buf,
        vocab_size: usize,
        plan: &Plan,
        step: &Step,
    ) -> Result<()> {
        self.run(|cuda| super::sample::draw(cuda, logits, vocab_size, plan));
        let ended = match std::mem::replace(&mut self.mode, Mode::Running) {
            Mode::Recording(rows) => {
                // Recording ends whatever happened in it: nothing else could run before.
                let graph = self.device.end_recording();
                self.check()?;
                match graph {
                    Ok(graph) => {
                        self.graphs.extend(graph.map(|graph| (rows, graph)));
                        return Ok(());
                    }
                    Err(error) => Err(error),
                }
            }
            Mode::Replaying(index) => {
                self.check()?;
                match self.graphs.get(index) {
                    Some((_, graph)) => self.device.replay(graph),
                    None => Err(bug("recording", "it is gone")),
                }
            }
            Mode::Running => self.check(),
        };
        let collected = ended.and_then(|()| super::sample::collect(self, step.samples.len(), out));
        self.touched = collected.map_err(|error| self.lose(error))?;
        Ok(())
    }
}

/// Numbers of rows to record: powers of two below the most there can be, and that.
fn recorded_rows(sequences_max: usize) -> Vec<usize> {
    let most = RECORDED_ROWS.into_iter().max().unwrap_or(0).min(sequences_max);
    let below = RECORDED_ROWS.into_iter().filter(|rows| *rows < most);
    below.chain([most]).filter(|rows| *rows > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_sequences_up_to_the_most_has_a_recording() {
        assert_eq!(recorded_rows(1), [1]);
        assert_eq!(recorded_rows(5), [1, 2, 4, 5]);
        assert_eq!(recorded_rows(32), [1, 2, 4, 8, 16, 32]);
        assert_eq!(recorded_rows(1024), RECORDED_ROWS);
    }
}
