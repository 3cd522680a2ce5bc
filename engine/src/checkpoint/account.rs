//! What a checkpoint's tensors take: stored, and kept as a model will have them.

use super::safetensors::Entry;
use super::{Checkpoint, Keep, Place, scale_entry};
use crate::quant::DType;

/// A tensor that a model uses, as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded<'a> {
    /// Its name in the checkpoint.
    pub name: &'a str,
    /// Numbers in it.
    pub numbers: u64,
    /// Bytes of it, factors included.
    pub bytes: u64,
    /// Written anew in memory, in another format or order; otherwise used where it lies, or copied when it is a vector.
    pub is_encoded: bool,
}

impl Checkpoint {
    /// The tensors the ordinary pass uses.
    fn used(&self) -> impl Iterator<Item = &Entry> {
        self.used.iter().filter_map(|name| self.tensors.get(name))
    }

    /// Bytes of all tensors the model uses (the MTP layer, which is checked but not run, is not counted).
    pub fn weight_bytes(&self) -> u64 {
        self.stored().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of the matrices that stay where they lie, factors included, when matrices are kept as `keep` says.
    pub fn mapped_bytes(&self, keep: impl Into<Keep>) -> u64 {
        let stay = self.loaded(keep).filter(|loaded| !loaded.is_encoded);
        stay.filter(|loaded| !self.is_vector(loaded.name)).map(|loaded| loaded.bytes).sum()
    }

    /// Bytes of the matrices that are written anew in memory when they are kept as `keep` says.
    pub fn encoded_bytes(&self, keep: impl Into<Keep>) -> u64 {
        self.loaded(keep).filter(|loaded| loaded.is_encoded).map(|loaded| loaded.bytes).sum()
    }

    /// What every tensor that the model uses takes when matrices are kept as `keep` says.
    pub fn loaded(&self, keep: impl Into<Keep>) -> impl Iterator<Item = Loaded<'_>> {
        let keep = keep.into().for_heads(self.config.kv_lora_rank, self.config.v_head_dim);
        self.stored().map(move |(name, bytes)| {
            let entry = self.tensors.get(name);
            let numbers = entry.map_or(0, |entry| entry.shape.iter().product::<usize>() as u64);
            let as_it_is = Loaded { name, numbers, bytes, is_encoded: false };
            let Some(entry) = entry else { return as_it_is };
            let Some(stored) = entry.dtype else { return as_it_is };
            let kept = keep.of(name, stored, &entry.shape);
            let factors = if kept.dtype == stored { bytes - entry.bytes.len() as u64 } else { 0 };
            match kept.bytes(&entry.shape) {
                Some(bytes) if kept.place != Place::Stored => {
                    Loaded { bytes: bytes as u64 + factors, is_encoded: true, ..as_it_is }
                }
                _ => as_it_is,
            }
        })
    }

    /// Bytes of the norms and biases the model uses, widened to f32 as it keeps them.
    pub fn vector_bytes(&self) -> u64 {
        let vectors = self.used.iter().filter(|name| self.is_vector(name));
        let n = vectors.filter_map(|name| self.tensors.get(name)?.shape.first());
        n.map(|n| (n * size_of::<f32>()) as u64).sum()
    }

    fn is_vector(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|entry| entry.shape.len() == 1)
    }

    /// Name and stored bytes, factors included, of every tensor the model uses.
    pub fn stored(&self) -> impl Iterator<Item = (&str, u64)> {
        self.used.iter().filter_map(|name| {
            let factors = scale_entry(name, &self.tensors).map_or(0, |(_, e)| e.bytes.len());
            Some((name.as_str(), (self.tensors.get(name)?.bytes.len() + factors) as u64))
        })
    }

    /// Numbers in all tensors the model uses.
    pub fn parameters(&self) -> u64 {
        self.used().map(|entry| entry.shape.iter().product::<usize>() as u64).sum()
    }

    /// Most frequent dtype by numbers.
    pub fn dtype(&self) -> DType {
        self.dtype_as(Keep::default())
    }

    /// Most frequent dtype by numbers, when matrices are kept as `keep` says: the same whether they were quantised before or
    /// are quantised as they load.
    pub fn dtype_as(&self, keep: impl Into<Keep>) -> DType {
        let keep = keep.into();
        let kept = |name: &String| {
            let entry = self.tensors.get(name)?;
            let numbers = entry.shape.iter().product::<usize>();
            Some((keep.of(name, entry.dtype?, &entry.shape).dtype, numbers))
        };
        let used: Vec<(DType, usize)> = self.used.iter().filter_map(kept).collect();
        let numbers = |dtype| {
            used.iter()
                .filter(|(used, _)| *used == dtype)
                .map(|(_, numbers)| numbers)
                .sum::<usize>()
        };
        DType::ALL.into_iter().max_by_key(|dtype| numbers(*dtype)).unwrap_or(DType::F32)
    }
}
