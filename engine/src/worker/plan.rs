//! What a model will take, decided from headers alone: the same account that loading keeps, before anything is made.

use std::mem::size_of;

use super::device::{DeviceChoice, Placed, place};
use super::memory::{self, Footprint};
use super::{CHANNEL_SPARE, Command};
use crate::backend::cpu::{Cpu, CpuOptions};
use crate::backend::cuda::{Cuda, CudaOptions, Device};
use crate::cache::pages::{PagePool, pages_for};
use crate::checkpoint::{Checkpoint, Source, open_planned};
use crate::error::Result;
use crate::limits::Limits;
use crate::model::Model;
use crate::sched::Scheduler;

/// What a model will take, in bytes, and what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The card that it is for; `None`: the processor. Everything but the text is then memory of the card.
    pub card: Option<String>,
    /// Bounds as the model will have them: `context_tokens_max` is what the checkpoint and the cache allow.
    pub limits: Limits,
    /// Weights used where they lie in the mapped files: the system reads them in, and may drop them again.
    pub mapped_bytes: u64,
    /// Weights that are written anew in memory, in another format or order.
    pub encoded_bytes: u64,
    /// Weights that are copied: norms and biases, widened to f32.
    pub copied_bytes: u64,
    /// The latent cache.
    pub cache_bytes: u64,
    /// Pages of it.
    pub n_page: usize,
    /// One page over all layers.
    pub page_bytes: u64,
    /// The latent cache with every sequence at its longest; `cache_bytes` may be less, sequences then share it.
    pub cache_bytes_full: u64,
    /// Buffers of a step, rotation tables, queues.
    pub scratch_bytes: u64,
    /// Tokenizer and template.
    pub text_bytes: u64,
    /// Bytes that can be used without swapping; `None` where the system does not say.
    pub free_bytes: Option<u64>,
}

impl MemoryPlan {
    /// Plans a load under these options, without loading. A cache of quantised weights counts where it is there: its
    /// weights are mapped.
    ///
    /// # Errors
    /// What the settings or the checkpoint refuse. Too little memory is no error here: see [`MemoryPlan::check`].
    pub fn of(source: &Source, limits: &Limits, cpu: &CpuOptions) -> Result<Self> {
        limits.check()?;
        let checkpoint = open_planned(source, cpu.quant)?;
        let mut cpu = Cpu::new(cpu)?;
        Model::prepare(&mut cpu, &checkpoint)?;
        Self::for_cpu(&cpu, &checkpoint, limits)
    }

    /// The same where `device` says; the name of the device, and why that one.
    ///
    /// # Errors
    /// As [`MemoryPlan::of`], and what a card that was asked for refuses.
    pub fn on(
        source: &Source,
        limits: &Limits,
        cpu: &CpuOptions,
        device: DeviceChoice,
    ) -> Result<(Self, String)> {
        limits.check()?;
        let Placed { plan, why, .. } =
            place(device, cpu, &open_planned(source, cpu.quant)?, limits)?;
        Ok((plan, why))
    }

    /// The plan that loading on a card follows: loading itself, on an account instead of the card.
    pub(super) fn for_card(
        device: &Device,
        options: CudaOptions,
        checkpoint: &Checkpoint,
        limits: &Limits,
    ) -> Result<Self> {
        let mut limits = limits.clone();
        limits.context_tokens_max =
            limits.context_tokens_max.min(checkpoint.config.max_position_embeddings);
        let account = Cuda::account(device, options);
        let model = Model::load(account, checkpoint, &limits, 0, &mut |_, _| {})?;
        let account = model.backend();
        let asked_bytes = account.device().asked_bytes();
        let weight_bytes = account.weight_bytes();
        let footprint = Footprint {
            beside_bytes: asked_bytes,
            page_bytes: Model::page_bytes(account, checkpoint),
        };
        let (free_bytes, _) = device.memory()?;
        let n_page = memory::choose_card_pages(&limits, footprint, free_bytes)?;
        let full = (pages_for(limits.context_tokens_max) * limits.sequences_max) as u64;
        limits.context_tokens_max =
            limits.context_tokens_max.min(n_page * crate::step::PAGE_TOKENS);
        Ok(Self {
            card: Some(device.name().to_owned()),
            limits,
            mapped_bytes: 0,
            encoded_bytes: 0,
            copied_bytes: weight_bytes,
            cache_bytes: footprint.page_bytes * n_page as u64,
            n_page,
            page_bytes: footprint.page_bytes,
            cache_bytes_full: footprint.page_bytes.saturating_mul(full),
            scratch_bytes: asked_bytes - weight_bytes,
            text_bytes: checkpoint.text.loaded_bytes(),
            free_bytes: Some(free_bytes),
        })
    }

    /// The plan that loading on the processor follows.
    pub(super) fn for_cpu(cpu: &Cpu, checkpoint: &Checkpoint, limits: &Limits) -> Result<Self> {
        let mut limits = limits.clone();
        limits.context_tokens_max =
            limits.context_tokens_max.min(checkpoint.config.max_position_embeddings);
        let keep = cpu.keep();
        let (mapped_bytes, encoded_bytes) =
            (checkpoint.mapped_bytes(keep), checkpoint.encoded_bytes(keep));
        let copied_bytes = checkpoint.vector_bytes();
        // Scratch does not depend on the number of pages, nor on what of the context the cache will hold.
        let shape = Model::<Cpu>::scratch_shape(checkpoint, &limits, 0);
        let scratch_bytes = Model::<Cpu>::scratch_bytes(checkpoint, &limits)
            + cpu.scratch_bytes(&shape)
            + Scheduler::bytes(&limits)
            + channel_bytes(&limits);
        let text_bytes = checkpoint.text.loaded_bytes();
        let cache_page_bytes = Model::page_bytes(cpu, checkpoint);
        let footprint = Footprint {
            beside_bytes: mapped_bytes + encoded_bytes + copied_bytes + scratch_bytes + text_bytes,
            page_bytes: cache_page_bytes + PagePool::PAGE_BYTES,
        };
        let free_bytes = memory::free_bytes();
        let n_page = memory::choose_pages(&limits, footprint, free_bytes)?;
        let full = (pages_for(limits.context_tokens_max) * limits.sequences_max) as u64;
        // No sequence is promised more than the whole cache holds.
        limits.context_tokens_max =
            limits.context_tokens_max.min(n_page * crate::step::PAGE_TOKENS);
        let page_bytes = footprint.page_bytes;
        Ok(Self {
            card: None,
            limits,
            mapped_bytes,
            encoded_bytes,
            copied_bytes,
            cache_bytes: page_bytes * n_page as u64,
            n_page,
            page_bytes,
            cache_bytes_full: page_bytes.saturating_mul(full),
            scratch_bytes,
            text_bytes,
            free_bytes,
        })
    }

    /// Weights, mapped, encoded and copied.
    pub fn weight_bytes(&self) -> u64 {
        self.mapped_bytes + self.encoded_bytes + self.copied_bytes
    }

    /// Everything that is where the weights are.
    pub fn needed_bytes(&self) -> u64 {
        let text = if self.card.is_some() { 0 } else { self.text_bytes };
        let beside = self.weight_bytes() + self.scratch_bytes + text;
        beside.saturating_add(self.cache_bytes)
    }

    /// Whether it fits into what is free now.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] when it does not.
    pub fn check(&self) -> Result<()> {
        memory::check(self.needed_bytes(), self.free_bytes, self.card.is_some())
    }
}

/// Places of the channel between handles and the model's thread.
fn channel_bytes(limits: &Limits) -> u64 {
    // A place has a stamp beside its command.
    let place = size_of::<Command>() + size_of::<usize>();
    ((limits.sequences_max + limits.queue_max + CHANNEL_SPARE) * place) as u64
}
