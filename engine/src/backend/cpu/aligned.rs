//! Numbers from the beginning of a cache line on. What the system gives begins sixteen bytes behind one, and then half of all
//! loads of 32 bytes, and all of 64, are of two lines: products run at two thirds of their speed.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Zeros at first.
#[derive(Debug, Default)]
pub struct Aligned<T> {
    room: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` zeros, of which the system makes no memory until they are touched.
    pub(super) fn zeros(len: usize) -> Self {
        let room = vec![T::default(); len + Self::MORE];
        let start = room.as_ptr().align_offset(LINE);
        // The standard allows `usize::MAX` for "cannot be aligned".
        Self { start: if start <= Self::MORE { start } else { 0 }, room, len }
    }

    /// Numbers of a line: as many more are taken.
    const MORE: usize = {
        assert!(LINE.is_multiple_of(size_of::<T>()));
        LINE / size_of::<T>()
    };

    /// Bytes that [`Aligned::zeros`] takes.
    pub(super) fn bytes(len: usize) -> u64 {
        ((len + Self::MORE) * size_of::<T>()) as u64
    }

    /// The same numbers.
    pub(super) fn from_slice(numbers: &[T]) -> Self {
        let mut own = Self::zeros(numbers.len());
        own.copy_from_slice(numbers);
        own
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.room[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.room[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_at_a_cache_line() {
        for len in [0, 1, 15, 16, 1000, 70_000] {
            let mut numbers = Aligned::<f32>::zeros(len);
            assert!(numbers.len() == len && numbers.as_ptr().addr().is_multiple_of(LINE));
            numbers.fill(1.0);
            assert_eq!(numbers.iter().sum::<f32>(), len as f32);
            assert!(Aligned::<u16>::zeros(len).as_ptr().addr().is_multiple_of(LINE));
        }
        assert_eq!(*Aligned::from_slice(&[3u8, 4]), [3, 4]);
    }
}
