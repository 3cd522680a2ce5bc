//! [`Backend`] for [`Cpu`]: each operation handed to the file of its name.

use std::ops::Range;

use super::aligned::Aligned;
use super::{Cpu, Latents, Plan, Routing, Weight, resident};
use crate::backend::{
    Backend, ExpertWeights, HeadSide, KvB, MlaShape, Role, RopeTable, RouteRule, RoutingTrace,
    ScratchShape, Use, Watch,
};
use crate::checkpoint::{Keep, Tensor};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::quant::DType;
use crate::step::{Sampled, Slot, Step};

impl Backend for Cpu {
    type Buf = Aligned<f32>;
    type Cache = Latents;
    type Weight = Weight;
    type Experts = ExpertWeights<Weight>;
    type Plan = Plan;
    type Routing = Routing;

    fn keep(&self) -> Keep {
        self.keep
    }

    fn prepare(&mut self, shape: &MlaShape, kept: DType) -> Result<()> {
        self.keep = self.keep.for_heads(shape.kv_lora_rank, shape.v_head_dim);
        self.choose_cache(kept);
        Ok(())
    }

    fn cache(&mut self, shape: &MlaShape, n_page: usize) -> Result<Latents> {
        Ok(Latents::new(self.cache, shape, n_page))
    }

    fn cache_row_bytes(&self, shape: &MlaShape) -> usize {
        super::latents::row_bytes(self.cache, shape)
    }

    fn read_latent(&self, cache: &Latents, slot: Slot, out: &mut [f32]) -> Result<()> {
        cache.read(slot.index(), out);
        Ok(())
    }

    fn alloc(&mut self, rows: usize, dim: usize, _role: Role) -> Result<Aligned<f32>> {
        Ok(Aligned::zeros(rows * dim))
    }

    fn vector(&mut self, values: &[f32]) -> Result<Aligned<f32>> {
        Ok(Aligned::from_slice(values))
    }

    fn rows(&mut self, values: &[f32], _dim: usize) -> Result<Aligned<f32>> {
        Ok(Aligned::from_slice(values))
    }

    fn weight(&mut self, tensor: &Tensor, _used: Use) -> Result<Weight> {
        let mut made = resident::weights(self, std::slice::from_ref(tensor), &mut |_| {})?;
        made.pop().ok_or_else(|| Error::Internal { message: "no matrix was made".into() })
    }

    fn expert_weights(
        &mut self,
        tensors: &ExpertWeights<Tensor>,
        done: &mut dyn FnMut(usize),
    ) -> Result<ExpertWeights<Weight>> {
        Ok(ExpertWeights {
            gate: resident::weights(self, &tensors.gate, done)?,
            up: resident::weights(self, &tensors.up, done)?,
            down: resident::weights(self, &tensors.down, done)?,
        })
    }

    fn routing(&mut self, rows: usize, rule: &RouteRule) -> Result<Routing> {
        Ok(Routing::with_room(rows, rule))
    }

    fn average_routing(&mut self, rows: usize, n_expert: usize) -> Result<Routing> {
        Ok(Routing::average(rows, n_expert))
    }

    fn reserve(&mut self, shape: &ScratchShape, limits: &Limits) -> Result<Plan> {
        // All matrices are there by now.
        resident::release_copied(self);
        // Steps run on another thread.
        self.pool.leave_seat();
        self.make_scratch(shape);
        Ok(Plan::with_room(shape, limits))
    }

    fn read(&self, buf: &Aligned<f32>, _dim: usize, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&buf[..out.len()]);
        Ok(())
    }

    fn read_routing(&self, routing: &Routing, rows: usize) -> Result<RoutingTrace> {
        Ok(routing.trace(rows))
    }

    fn touched(&self, routing: &Routing) -> u64 {
        routing.touched
    }

    fn begin(&mut self, plan: &mut Plan, step: &Step, _watch: Watch) -> Result<()> {
        plan.take(step);
        Ok(())
    }

    fn embed(&mut self, y: &mut Aligned<f32>, table: &Weight, plan: &Plan) {
        super::embed::embed(y, table, plan);
    }

    fn rms_norm(
        &mut self,
        y: &mut Aligned<f32>,
        x: &Aligned<f32>,
        weight: &Aligned<f32>,
        eps: f32,
        rows: usize,
    ) {
        super::rms_norm::rms_norm(self, y, x, weight, eps, rows);
    }

    fn add_rms_norm(
        &mut self,
        y: &mut Aligned<f32>,
        x: &mut Aligned<f32>,
        delta: &Aligned<f32>,
        weight: &Aligned<f32>,
        eps: f32,
        rows: usize,
    ) {
        super::rms_norm::add(self, x, delta, weight.len() * rows);
        super::rms_norm::rms_norm(self, y, x, weight, eps, rows);
    }

    fn linear(&mut self, y: &mut Aligned<f32>, x: &Aligned<f32>, weight: &Weight, rows: usize) {
        super::linear::linear(self, y, x, weight, rows);
    }

    fn head_linear(
        &mut self,
        y: &mut Aligned<f32>,
        x: &Aligned<f32>,
        kv_b: KvB<&Weight>,
        side: HeadSide,
        shape: &MlaShape,
        rows: Range<usize>,
    ) {
        match side {
            HeadSide::Key => super::head_linear::key(self, y, x, kv_b, shape, rows),
            HeadSide::Value => super::head_linear::value(self, y, x, kv_b, shape, rows),
        }
    }

    fn rope(
        &mut self,
        q: &mut Aligned<f32>,
        table: &RopeTable<Aligned<f32>>,
        shape: &MlaShape,
        plan: &Plan,
    ) {
        super::rope::rope(self, q, table, shape, plan);
    }

    fn cache_store(
        &mut self,
        cache: &mut Latents,
        kv: &Aligned<f32>,
        norm: &Aligned<f32>,
        eps: f32,
        table: &RopeTable<Aligned<f32>>,
        shape: &MlaShape,
        plan: &Plan,
    ) {
        super::rope::cache_store(cache, kv, norm, eps, table, shape, plan);
    }

    fn cache_store_heads(
        &mut self,
        cache: &mut Latents,
        latent: &Aligned<f32>,
        k: &Aligned<f32>,
        shape: &MlaShape,
        plan: &Plan,
    ) {
        super::rope::cache_store_heads(cache, latent, k, shape, plan);
    }

    fn mla_decode(
        &mut self,
        o_latent: &mut Aligned<f32>,
        q_latent: &Aligned<f32>,
        q: &Aligned<f32>,
        cache: &Latents,
        shape: &MlaShape,
        plan: &Plan,
    ) {
        super::mla_decode::mla_decode(self, o_latent, q_latent, q, cache, shape, plan);
    }

    fn mla_prefill(
        &mut self,
        o: &mut Aligned<f32>,
        q: &Aligned<f32>,
        cache: &Latents,
        kv_b: KvB<&Weight>,
        shape: &MlaShape,
        plan: &Plan,
    ) {
        super::mla_prefill::mla_prefill(self, o, q, cache, kv_b, shape, plan);
    }

    fn route(
        &mut self,
        routing: &mut Routing,
        x: &Aligned<f32>,
        gate: &Weight,
        bias: Option<&Aligned<f32>>,
        rule: &RouteRule,
        rows: usize,
    ) {
        super::route::route(self, routing, x, gate, bias.map(|bias| &**bias), rule, rows);
    }

    fn experts(
        &mut self,
        y: &mut Aligned<f32>,
        shared: Option<&Aligned<f32>>,
        x: &Aligned<f32>,
        routing: &Routing,
        weights: &ExpertWeights<Weight>,
        rows: usize,
    ) {
        super::experts::experts(self, y, shared.map(|shared| &**shared), x, routing, weights, rows);
    }

    fn swiglu(
        &mut self,
        y: &mut Aligned<f32>,
        gate: &Aligned<f32>,
        up: &Aligned<f32>,
        dim: usize,
        rows: usize,
    ) {
        super::swiglu::swiglu(self, y, gate, up, dim, rows);
    }

    fn gather_rows(&mut self, y: &mut Aligned<f32>, x: &Aligned<f32>, dim: usize, plan: &Plan) {
        super::gather_rows::gather_rows(y, x, dim, plan);
    }

    fn sample(
        &mut self,
        out: &mut Vec<Sampled>,
        logits: &mut Aligned<f32>,
        vocab_size: usize,
        _plan: &Plan,
        step: &Step,
    ) -> Result<()> {
        super::sample::sample(self, out, logits, vocab_size, step);
        Ok(())
    }
}
