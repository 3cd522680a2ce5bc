//! Matrices in memory of our own, made at load on all threads: in another format, in another order, or only copied into
//! larger pages.

use std::sync::{Mutex, PoisonError};

use super::{Cpu, Weight};
use crate::checkpoint::{Kept, Place, Tensor};
use crate::error::{Error, Result};
use crate::quant::panels;

/// Numbers that a thread encodes at once.
const PIECE_LEN: usize = 1 << 18;

/// `tensor` as `kept` says, in memory of our own. The same bytes on any number of threads: panels know nothing of each
/// other.
///
/// # Errors
/// [`Error::TensorRange`] for a number that the format cannot hold.
pub(super) fn resident(cpu: &mut Cpu, tensor: &Tensor, kept: Kept) -> Result<Weight> {
    let (n_row, dim, to) = (tensor.n_row(), tensor.dim(), kept.dtype);
    let is_panels = kept.place == Place::Panels;
    let sizes = to.row_bytes(dim).filter(|bytes| *bytes > 0).zip(kept.bytes(&[n_row, dim]));
    let panel_bytes = panels::Layout::of(to).and_then(|layout| layout.panel_bytes(dim));
    let (Some((row_bytes, bytes)), true) = (sizes, !is_panels || panel_bytes.is_some()) else {
        let message = format!("`{}` {:?} has no rows of {}", tensor.name, tensor.shape, to.name());
        return Err(Error::Internal { message });
    };
    // Whole panels, whatever is made of them.
    let rows = (PIECE_LEN / dim).next_multiple_of(panels::OUTS).max(panels::OUTS);
    let part = |task: usize| {
        let at = |row: usize| match panel_bytes.filter(|_| is_panels) {
            Some(panel_bytes) => row.div_ceil(panels::OUTS) * panel_bytes,
            None => row * row_bytes,
        };
        at(task * rows)..at(((task + 1) * rows).min(n_row))
    };
    let piece = |task: usize, out: &mut [u8]| -> Result<()> {
        let first = task * rows;
        let n = rows.min(n_row - first);
        let encoded;
        let stored = if to == tensor.dtype {
            tensor.bytes.get(first * row_bytes..(first + n) * row_bytes).unwrap_or_default()
        } else {
            encoded = tensor.encode_rows(first, n, to)?.bytes;
            &encoded[..]
        };
        match panel_bytes.filter(|_| is_panels) {
            Some(panel_bytes) => {
                let panels = stored.chunks(panels::OUTS * row_bytes);
                for (rows, panel) in panels.zip(out.chunks_exact_mut(panel_bytes)) {
                    panels::pack(to, rows, dim, panel);
                }
            }
            None => out.copy_from_slice(stored),
        }
        Ok(())
    };
    let mut room = cpu.arena.room(bytes)?;
    let problem = Mutex::new(None);
    // Threads have nothing of their own to work in.
    let mut scratch = vec![(); cpu.pool.threads()];
    let n_task = n_row.div_ceil(rows);
    cpu.pool.run_parts(n_row * dim, room.bytes(), &mut scratch, n_task, part, |task, out, ()| {
        if let Err(error) = piece(task, out) {
            problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    });
    if let Some(error) = problem.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    tensor.bytes.release();
    Weight::resident(tensor, kept, room.freeze())
}

#[cfg(test)]
mod tests {
    use super::super::CpuOptions;
    use super::*;
    use crate::checkpoint::Bytes;
    use crate::quant::DType;

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
                let kept = Kept { dtype: to, place: Place::Copied };
                let weight = resident(&mut cpu, &tensor, kept).unwrap();
                assert!(weight.bytes[..] == want[..], "{to:?} on {threads}");
                assert_eq!((weight.n_out, weight.dim, weight.dtype), (1101, 608, to));
            }
        }
    }

    #[test]
    fn encoded_and_packed_at_once_is_encoded_and_then_packed() {
        let tensor = tensor(1101, 608);
        for to in [DType::Q8_0, DType::Q4_0] {
            let encoded = tensor.encode_rows(0, 1101, to).unwrap().bytes;
            let stored = Tensor { dtype: to, bytes: Bytes::owned(encoded), ..tensor.clone() };
            let kept = Kept { dtype: to, place: Place::Panels };
            let mut cpu = Cpu::new(&CpuOptions::default()).unwrap();
            let want = resident(&mut cpu, &stored, kept).unwrap();
            for threads in [1, 3] {
                let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
                let mut cpu = Cpu::new(&options).unwrap();
                let weight = resident(&mut cpu, &tensor, kept).unwrap();
                assert!(weight.is_panels && weight.bytes[..] == want.bytes[..]);
            }
        }
    }

    #[test]
    fn rows_that_are_no_whole_blocks_are_refused() {
        let mut cpu = Cpu::new(&CpuOptions::default()).unwrap();
        for place in [Place::Copied, Place::Panels] {
            let kept = Kept { dtype: DType::Q8_0, place };
            assert!(resident(&mut cpu, &tensor(2, 40), kept).is_err());
        }
    }
}
