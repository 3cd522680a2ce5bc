//! Matrices in another format than their checkpoint's, made at load on all threads.

use std::sync::{Mutex, PoisonError};

use super::{Cpu, Weight};
use crate::checkpoint::{Bytes, Tensor};
use crate::error::{Error, Result};
use crate::quant::DType;

/// Numbers that a thread encodes at once.
const PIECE_LEN: usize = 1 << 18;

/// `tensor` as `to`, in memory of our own. The same bytes on any number of threads: blocks know nothing of each other.
///
/// # Errors
/// [`Error::TensorRange`] for a number that `to` cannot hold.
pub(super) fn quantise(cpu: &mut Cpu, tensor: &Tensor, to: DType) -> Result<Weight> {
    let (n_row, dim) = (tensor.n_row(), tensor.dim());
    let row_bytes = to.row_bytes(dim).filter(|bytes| *bytes > 0);
    let whole = row_bytes.and_then(|bytes| Some((bytes, bytes.checked_mul(n_row)?)));
    let Some((row_bytes, bytes)) = whole else {
        let message = format!("`{}` {:?} has no rows of {}", tensor.name, tensor.shape, to.name());
        return Err(Error::Internal { message });
    };
    let mut out = vec![0u8; bytes];
    let rows = (PIECE_LEN / dim).max(1);
    let problem = Mutex::new(None);
    let part = |task: usize| {
        let first = task * rows;
        first * row_bytes..(first + rows).min(n_row) * row_bytes
    };
    // Threads have nothing of their own to work in.
    let mut scratch = vec![(); cpu.pool.threads()];
    cpu.pool.run_parts(
        n_row * dim,
        &mut out,
        &mut scratch,
        n_row.div_ceil(rows),
        part,
        |task, out, ()| match tensor.encode_rows(task * rows, out.len() / row_bytes, to) {
            Ok(encoded) => out.copy_from_slice(&encoded.bytes),
            Err(error) => {
                problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        },
    );
    if let Some(error) = problem.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    Weight::new(&Tensor {
        name: tensor.name.clone(),
        dtype: to,
        shape: tensor.shape.clone(),
        bytes: Bytes::owned(out),
        scales: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::CpuOptions;
    use super::*;

    fn tensor(n_row: usize, dim: usize) -> Tensor {
        let numbers = super::super::testing::numbers(11, n_row * dim);
        let bytes = Bytes::owned(numbers.iter().flat_map(|x| x.to_le_bytes()).collect());
        Tensor { name: "w".into(), dtype: DType::F32, shape: vec![n_row, dim], bytes, scales: None }
    }

    #[test]
    fn the_bytes_are_those_of_the_encoder_on_any_threads() {
        // More than one piece, the last one short.
        let tensor = tensor(1101, 608);
        for to in [DType::Q8_0, DType::Q4_0] {
            let want = tensor.encode_rows(0, 1101, to).unwrap().bytes;
            for threads in [1, 4] {
                let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
                let mut cpu = Cpu::new(&options).unwrap();
                let weight = quantise(&mut cpu, &tensor, to).unwrap();
                assert!(weight.bytes[..] == want[..], "{to:?} on {threads}");
                assert_eq!((weight.n_out, weight.dim, weight.dtype), (1101, 608, to));
            }
        }
    }

    #[test]
    fn rows_that_are_no_whole_blocks_are_refused() {
        let mut cpu = Cpu::new(&CpuOptions::default()).unwrap();
        assert!(quantise(&mut cpu, &tensor(2, 40), DType::Q8_0).is_err());
    }
}
