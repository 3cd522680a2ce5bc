//! A block's shared memory with its shadow.

use super::Finding;
use super::track::{Actor, Kind, Track};
use crate::fault::FaultKind;

/// Where a block's own shared memory begins: the driver keeps what is below, on real cards too.
pub(crate) const SHARED_BASE: u32 = 1024;

/// Shared memory of the block that runs.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    bytes: Vec<u8>,
    written: Vec<bool>,
    /// How many asynchronous copies still own each byte.
    pending: Vec<u8>,
    n_pending: usize,
    track: Track,
}

impl Shared {
    /// Room for a launch's blocks.
    pub(crate) fn reset(&mut self, bytes: u32) {
        let bytes = bytes as usize;
        self.bytes = vec![0xff; bytes];
        self.track.reset(bytes);
        self.begin_block();
    }

    /// A block finds nothing of the block before it.
    pub(crate) fn begin_block(&mut self) {
        let bytes = self.bytes.len();
        self.written.clear();
        self.written.resize(bytes, false);
        self.pending.clear();
        self.pending.resize(bytes, 0);
        self.n_pending = 0;
        self.track.reset(bytes);
    }

    fn offset(&self, address: u32, len: usize) -> Finding<usize> {
        let offset = (address as usize).checked_sub(SHARED_BASE as usize);
        match offset {
            Some(offset) if offset + len <= self.bytes.len() => Ok(offset),
            _ => {
                let at = i64::from(address) - i64::from(SHARED_BASE);
                let what = format!(
                    "{len} bytes at byte {at} of {} bytes of shared memory",
                    self.bytes.len()
                );
                Err((FaultKind::OutOfBounds, what))
            }
        }
    }

    fn unpending(&self, offset: usize, len: usize) -> Finding<()> {
        if self.n_pending == 0 || self.pending[offset..offset + len].iter().all(|n| *n == 0) {
            return Ok(());
        }
        let what = format!(
            "byte {offset} of shared memory belongs to an asynchronous copy that was not waited for"
        );
        Err((FaultKind::AsyncPending, what))
    }

    pub(crate) fn load(
        &mut self,
        address: u32,
        into: &mut [u8],
        who: &Actor<'_>,
        kind: Kind,
    ) -> Finding<()> {
        let offset = self.offset(address, into.len())?;
        self.unpending(offset, into.len())?;
        let range = offset..offset + into.len();
        if let Some(first) = self.written[range.clone()].iter().position(|written| !written) {
            return Err((
                FaultKind::Uninitialised,
                format!("byte {} of shared memory", offset + first),
            ));
        }
        if who.races {
            self.track.read(offset, into.len(), who, kind).map_err(|what| race(offset, what))?;
        }
        into.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    pub(crate) fn store(
        &mut self,
        address: u32,
        from: &[u8],
        who: &Actor<'_>,
        kind: Kind,
    ) -> Finding<()> {
        let offset = self.offset(address, from.len())?;
        self.unpending(offset, from.len())?;
        let range = offset..offset + from.len();
        if who.races {
            let same = self.bytes[range.clone()] == *from;
            self.track
                .write(offset, from.len(), who, kind, same)
                .map_err(|what| race(offset, what))?;
        }
        self.bytes[range.clone()].copy_from_slice(from);
        self.written[range].fill(true);
        Ok(())
    }

    /// An asynchronous copy begins: a write by who issues it, and nobody's until it is waited for.
    pub(crate) fn begin_async(&mut self, address: u32, len: usize, who: &Actor<'_>) -> Finding<()> {
        let offset = self.offset(address, len)?;
        if who.races {
            self.unpending(offset, len)?;
            let written = self.track.write(offset, len, who, Kind::Plain, false);
            written.map_err(|what| race(offset, what))?;
        }
        self.pending[offset..offset + len].iter_mut().for_each(|n| *n = n.saturating_add(1));
        self.n_pending += len;
        Ok(())
    }

    /// It ends: the bytes are there for who waited, and for others behind a barrier.
    pub(crate) fn end_async(
        &mut self,
        address: u32,
        from: &[u8],
        written: &[bool],
        who: &Actor<'_>,
    ) -> Finding<()> {
        let offset = self.offset(address, from.len())?;
        let range = offset..offset + from.len();
        self.pending[range.clone()].iter_mut().for_each(|n| *n = n.saturating_sub(1));
        self.n_pending -= from.len();
        if who.races {
            let done = self.track.write(offset, from.len(), who, Kind::Plain, false);
            done.map_err(|what| race(offset, what))?;
        }
        self.bytes[range.clone()].copy_from_slice(from);
        self.written[range].copy_from_slice(written);
        Ok(())
    }
}

fn race(offset: usize, what: String) -> (FaultKind, String) {
    (FaultKind::Race, format!("shared memory, byte {offset}: {what}"))
}
