//! A card with a memory of what a check took from it.

use crate::card::Params;
use crate::{Caps, Card, Grid, Kernel, Result};

/// Values that travel as their bytes.
///
/// # Safety
/// Every byte of the type is part of its value, and every pattern of bytes is a value.
pub unsafe trait Plain: Copy {}

// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: plain numbers.
unsafe impl Plain for i8 {}
// SAFETY: plain numbers.
unsafe impl Plain for u16 {}
// SAFETY: plain numbers.
unsafe impl Plain for u32 {}
// SAFETY: plain numbers.
unsafe impl Plain for u64 {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}

fn bytes_of<T>(values: &[T]) -> &[u8] {
    // SAFETY: callers hold `T` to types all of whose bytes are part of their value.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// A card, and what is to be freed on it.
pub struct Bench<'a> {
    card: &'a mut dyn Card,
    held: Vec<u64>,
    timed: Option<(Kernel, u32)>,
    seconds: Option<f64>,
}

impl<'a> Bench<'a> {
    /// A bench over a card.
    pub fn new(card: &'a mut dyn Card) -> Self {
        Self { card, held: Vec::new(), timed: None, seconds: None }
    }

    /// A bench that times the launches of a kernel, each `n` times in a row.
    pub(crate) fn timing(card: &'a mut dyn Card, kernel: Kernel, n: u32) -> Self {
        Self { timed: Some((kernel, n)), ..Self::new(card) }
    }

    /// Seconds of the last launch that was timed.
    pub(crate) fn seconds(&self) -> Option<f64> {
        self.seconds
    }

    /// What the card can do.
    pub fn caps(&self) -> Caps {
        self.card.caps()
    }

    /// Room for `n` values that nobody has written.
    pub fn alloc<T: Plain>(&mut self, n: usize) -> Result<u64> {
        let at = self.card.alloc((n * size_of::<T>()).max(1))?;
        self.held.push(at);
        Ok(at)
    }

    /// Values on the card.
    pub fn upload<T: Plain>(&mut self, values: &[T]) -> Result<u64> {
        let at = self.alloc::<T>(values.len())?;
        self.card.upload(at, bytes_of(values))?;
        Ok(at)
    }

    /// Structs that kernels read, on the card.
    pub fn upload_structs<T: Params>(&mut self, values: &[T]) -> Result<u64> {
        let at = self.alloc::<u8>(size_of_val(values))?;
        self.card.upload(at, bytes_of(values))?;
        Ok(at)
    }

    /// `n` values from the card.
    pub fn download<T: Plain + Default>(&mut self, at: u64, n: usize) -> Result<Vec<T>> {
        let mut values = vec![T::default(); n];
        // SAFETY: `Plain`: every pattern of bytes is a value; the slice is the vector's own memory.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), n * size_of::<T>())
        };
        self.card.download(at, bytes)?;
        Ok(values)
    }

    /// Runs a kernel.
    pub fn launch<P: Params>(&mut self, (kernel, grid): (Kernel, Grid), params: &P) -> Result<()> {
        // SAFETY: checks are written with the struct of the kernel beside it; the simulated card holds every access to
        // its bounds.
        unsafe { self.card.launch(kernel, grid, params.bytes())? };
        if let Some((timed, n)) = self.timed
            && timed == kernel
        {
            // SAFETY: as above.
            self.seconds = unsafe { self.card.time(kernel, grid, params.bytes(), n)? };
        }
        Ok(())
    }

    /// Gives back what was taken.
    pub(crate) fn finish(self) -> Result<()> {
        self.held.iter().try_for_each(|at| self.card.free(*at))
    }
}
