//! Rows of bf16 or f32 numbers that somebody keeps: a matrix whose length was checked.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Matrix, row};
use crate::backend::cpu::Isa;
use crate::quant::DType;

/// `n` rows of `dim` numbers, a stride apart.
#[derive(Clone, Copy)]
pub(in super::super) struct Rows<'a> {
    at: *const u8,
    row_bytes: usize,
    dtype: DType,
    n: usize,
    dim: usize,
    kept: PhantomData<&'a [u8]>,
}

impl<'a> Rows<'a> {
    /// Rows back to back in `bytes`; formats of single numbers without other tensors' factors.
    pub(in super::super) fn of(bytes: &'a [u8], n: usize, dim: usize, dtype: DType) -> Self {
        let row_bytes = dim * dtype.block_bytes();
        assert!(
            dtype.block_len() == 1 && dtype != DType::Fp8E4m3,
            "{dtype:?} has no single numbers"
        );
        assert!(n * row_bytes <= bytes.len(), "{n} rows of {dim} in {} bytes", bytes.len());
        Self { at: bytes.as_ptr(), row_bytes, dtype, n, dim, kept: PhantomData }
    }

    /// Rows of f32.
    pub(in super::super) fn f32(numbers: &'a [f32], n: usize, dim: usize) -> Self {
        Self::strided(numbers, n, (dim, dim))
    }

    /// `dim` numbers every `stride`, the last of which may be the end.
    pub(in super::super) fn strided(
        numbers: &'a [f32],
        n: usize,
        (dim, stride): (usize, usize),
    ) -> Self {
        assert!(
            dim <= stride && (n == 0 || (n - 1) * stride + dim <= numbers.len()),
            "{n} rows of {dim}, {stride} apart, in {} numbers",
            numbers.len()
        );
        let at = numbers.as_ptr().cast();
        Self { at, row_bytes: stride * 4, dtype: DType::F32, n, dim, kept: PhantomData }
    }

    /// Rows of bf16.
    pub(in super::super) fn bf16(numbers: &'a [u16], n: usize, dim: usize) -> Self {
        assert!(n * dim <= numbers.len(), "{n} rows of {dim} in {} numbers", numbers.len());
        let at = numbers.as_ptr().cast();
        Self { at, row_bytes: dim * 2, dtype: DType::Bf16, n, dim, kept: PhantomData }
    }

    /// `dim` numbers of every row, from number `first` on.
    pub(in super::super) fn columns(self, first: usize, dim: usize) -> Self {
        assert!(first + dim <= self.dim, "columns outside");
        let at = self.at.wrapping_add(first * self.dtype.block_bytes());
        Self { at, dim, ..self }
    }

    /// The first `n` of them. The others may still be read where kernels take whole tiles.
    pub(in super::super) fn first(self, n: usize) -> Self {
        assert!(n <= self.n, "{n} rows of {}", self.n);
        Self { n, ..self }
    }

    /// Those of them that are in `range`, as far as there are.
    pub(in super::super) fn part(self, range: Range<usize>) -> Self {
        let (first, end) = (range.start.min(self.n), range.end.min(self.n));
        let at = self.at.wrapping_add(first * self.row_bytes);
        Self { at, n: end - first, ..self }
    }

    /// Rows there are.
    pub(in super::super) fn n(self) -> usize {
        self.n
    }

    /// Numbers of a row.
    pub(in super::super) fn dim(self) -> usize {
        self.dim
    }

    /// Row `index`, widened.
    ///
    /// # Panics
    /// When there is none, or `out` is no row: a bug of the caller.
    pub(in super::super) fn widen(self, isa: Isa, index: usize, out: &mut [f32]) {
        assert!(index < self.n && out.len() == self.dim, "row {index} of {}", self.n);
        let at = self.at.wrapping_add(index * self.row_bytes);
        // SAFETY: checked when these rows were made, and above.
        let row = unsafe { std::slice::from_raw_parts(at, self.dim * self.dtype.block_bytes()) };
        match self.dtype {
            DType::F32 => row::copy_f32(isa, out, row),
            DType::Bf16 => row::widen_bf16(isa, out, row),
            _ => self.dtype.decode(row, out),
        }
    }

    /// The same numbers in f32: where they lie, or widened into `room`, back to back.
    ///
    /// # Panics
    /// When there is no room: a bug of the caller.
    pub(in super::super) fn in_f32<'b>(self, isa: Isa, room: &'b mut [f32]) -> Rows<'b>
    where
        'a: 'b,
    {
        if self.dtype == DType::F32 {
            return self;
        }
        for (i, to) in room.chunks_mut(self.dim).take(self.n).enumerate() {
            self.widen(isa, i, to);
        }
        Rows::f32(room, self.n, self.dim)
    }

    /// As kernels read them.
    pub(super) fn matrix(self) -> Matrix {
        Matrix::rows(self.at, self.row_bytes, self.dtype)
    }

    /// The first number and the bytes from one row to the next, of rows of f32.
    pub(super) fn f32_at(self) -> (*const f32, usize) {
        assert!(self.dtype == DType::F32, "rows of {:?}", self.dtype);
        let at = self.at.cast::<f32>();
        assert!(
            at.is_aligned() && self.row_bytes.is_multiple_of(size_of::<f32>()),
            "rows at odd bytes"
        );
        (at, self.row_bytes)
    }

    /// The first number and the bytes from one row to the next, of rows of bf16.
    pub(super) fn bf16_at(self) -> (*const u16, usize) {
        assert!(self.dtype == DType::Bf16, "rows of {:?}", self.dtype);
        (self.at.cast(), self.row_bytes)
    }
}

// SAFETY: read only, and what it points to is borrowed.
unsafe impl Sync for Rows<'_> {}
