//! The directory of a zip archive, as far as an archive of stored entries needs it.
//!
//! Nothing is extracted: an entry is a range of the mapped file. Sizes and offsets come from the central directory
//! (local headers of streamed archives do not have them), zip64 included; the local header gives only where its entry's
//! data begin. Format: PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.5.

use std::collections::BTreeMap;

use super::map::Bytes;

const END: [u8; 4] = *b"PK\x05\x06";
const END64: [u8; 4] = *b"PK\x06\x06";
const END64_LOCATOR: [u8; 4] = *b"PK\x06\x07";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";

const END_BYTES: usize = 22;
const LOCATOR_BYTES: usize = 20;
const CENTRAL_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;
/// Behind the end record there is at most a comment of this length.
const COMMENT_BYTES_MAX: usize = u16::MAX as usize;

/// An archive's entries by name.
pub(super) struct Archive {
    file: Bytes,
    entries: BTreeMap<String, Place>,
}

/// Where an entry's data are, and whether they can be used as they lie.
#[derive(Debug, Clone, Copy)]
struct Place {
    method: u16,
    flags: u16,
    start: usize,
    end: usize,
}

/// Whether a file begins like a zip archive.
pub(super) fn is_archive(file: &[u8]) -> bool {
    file.starts_with(&LOCAL)
}

impl Archive {
    /// Reads the central directory.
    ///
    /// # Errors
    /// What was found and what was wanted, without the file's name.
    pub(super) fn open(file: &Bytes) -> Result<Self, String> {
        let directory = directory(file)?;
        let mut rest =
            file.get(directory.start..directory.end).ok_or("the directory is cut off")?;
        // Not sized by the count the file claims: each entry read has its 46 bytes there.
        let mut entries = BTreeMap::new();
        for index in 0..directory.n_entry {
            let (name, place, after) = central_entry(file, rest, directory.start)
                .map_err(|problem| format!("entry {index} of the archive: {problem}"))?;
            if entries.insert(name.clone(), place).is_some() {
                return Err(format!("the archive has two entries named `{name}`"));
            }
            rest = after;
        }
        if !rest.is_empty() {
            let left = rest.len();
            return Err(format!(
                "{left} bytes are left in the archive's directory after its last entry"
            ));
        }
        refuse_overlaps(&entries)?;
        Ok(Self { file: file.clone(), entries })
    }

    /// Entries' names, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A stored entry's bytes; `None` when there is no entry of that name.
    ///
    /// # Errors
    /// For an entry that is compressed or encrypted.
    pub(super) fn stored(&self, name: &str) -> Result<Option<Bytes>, String> {
        let Some(place) = self.entries.get(name) else { return Ok(None) };
        if place.flags & 1 != 0 {
            return Err(format!("entry `{name}` is encrypted"));
        }
        if place.method != 0 {
            let method = place.method;
            return Err(format!(
                "entry `{name}` is compressed (method {method}); it must be stored as it is"
            ));
        }
        Ok(self.file.slice(place.start..place.end))
    }
}

/// Where the central directory is.
struct Directory {
    start: usize,
    end: usize,
    n_entry: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn size(value: u64) -> Option<usize> {
    usize::try_from(value).ok()
}

/// Finds the end record, zip64's where there is one, and what it says of the directory.
fn directory(file: &[u8]) -> Result<Directory, String> {
    let from = file.len().saturating_sub(END_BYTES + COMMENT_BYTES_MAX);
    let last = file.len().checked_sub(END_BYTES);
    let is_end = |at: &usize| {
        let comment = u16_at(file, at + 20).map(usize::from);
        file.get(*at..at + 4) == Some(&END) && comment == Some(file.len() - at - END_BYTES)
    };
    let Some(end) = last.and_then(|last| (from..=last).rev().find(is_end)) else {
        return Err("the archive has no end record: the file is truncated".into());
    };
    let narrow = || {
        Some((u64::from(u16_at(file, end + 10)?), u32_at(file, end + 12)?, u32_at(file, end + 16)?))
    };
    let (n_entry, bytes, start) = narrow().ok_or("the archive's end record is cut off")?;
    let locator =
        end.checked_sub(LOCATOR_BYTES).filter(|at| file.get(*at..at + 4) == Some(&END64_LOCATOR));
    let (n_entry, bytes, start, limit) = match locator {
        None => (n_entry, u64::from(bytes), u64::from(start), end),
        Some(locator) => {
            wide(file, locator).ok_or("the archive's zip64 end record is not where it should be")?
        }
    };
    let range = || -> Option<(usize, usize)> {
        let start = size(start)?;
        Some((start, start.checked_add(size(bytes)?)?))
    };
    match range() {
        // A directory that ends before its end record hides bytes; one that ends after it is not there.
        Some((start, end)) if end == limit => {
            let held = (bytes / CENTRAL_BYTES as u64).min(n_entry);
            if held < n_entry {
                return Err(format!(
                    "the archive claims {n_entry} entries, its directory has room for {held}"
                ));
            }
            Ok(Directory { start, end, n_entry })
        }
        _ => Err(format!(
            "the archive's directory should be {bytes} bytes at {start} and end at {limit}; it does not"
        )),
    }
}

/// Entries, bytes and start of the directory, and where it has to end, from zip64's end record.
fn wide(file: &[u8], locator: usize) -> Option<(u64, u64, u64, usize)> {
    let at = size(u64_at(file, locator + 8)?)?;
    // The record is 12 bytes longer than its own size field says, and lies right before its locator.
    let is_record = file.get(at..at.checked_add(4)?)? == END64;
    let ends_there = at.checked_add(size(u64_at(file, at + 4)?)?)?.checked_add(12)? == locator;
    (is_record && ends_there).then(|| {
        Some((u64_at(file, at + 32)?, u64_at(file, at + 40)?, u64_at(file, at + 48)?, at))
    })?
}

/// One line of the directory: name, place, and what follows it.
fn central_entry<'a>(
    file: &[u8],
    bytes: &'a [u8],
    data_end: usize,
) -> Result<(String, Place, &'a [u8]), String> {
    let cut = || "the directory is cut off".to_owned();
    let (head, rest) = bytes.split_at_checked(CENTRAL_BYTES).ok_or_else(cut)?;
    if !head.starts_with(&CENTRAL) {
        return Err("the directory has something else in its place".into());
    }
    let field16 = |at| u16_at(head, at).ok_or_else(cut);
    let field32 = |at| u32_at(head, at).map(u64::from).ok_or_else(cut);
    let (name, rest) = rest.split_at_checked(field16(28)?.into()).ok_or_else(cut)?;
    let (extra, rest) = rest.split_at_checked(field16(30)?.into()).ok_or_else(cut)?;
    let (_comment, rest) = rest.split_at_checked(field16(32)?.into()).ok_or_else(cut)?;
    let name = plain_name(name)?;
    let (flags, method) = (field16(8)?, field16(10)?);
    let mut wide = WideFields::of(extra);
    // The order is the format's: unpacked size, packed size, offset; each only where 32 bits do not do.
    let unpacked = wide.take(field32(24)?)?;
    let packed = wide.take(field32(20)?)?;
    let offset = wide.take(field32(42)?)?;
    if method == 0 && flags & 1 == 0 && unpacked != packed {
        return Err(format!("`{name}` is stored, yet has {packed} bytes of {unpacked}"));
    }
    let range = || -> Option<(usize, usize)> {
        let local = size(offset)?;
        let at = |skip: usize| u16_at(file, local.checked_add(skip)?).map(usize::from);
        let is_local = file.get(local..local.checked_add(4)?)? == LOCAL;
        let start = local.checked_add(LOCAL_BYTES)?.checked_add(at(26)?)?.checked_add(at(28)?)?;
        let end = start.checked_add(size(packed)?)?;
        (is_local && end <= data_end).then_some((start, end))
    };
    let Some((start, end)) = range() else {
        return Err(format!(
            "`{name}` should have {packed} bytes behind its header at {offset}; the data end at {data_end}"
        ));
    };
    Ok((name, Place { method, flags, start, end }, rest))
}

/// A name that could be a file below a folder. Nothing is ever written under it; one that could not be is a sign of an
/// archive made to deceive.
fn plain_name(name: &[u8]) -> Result<String, String> {
    let shown = String::from_utf8_lossy(name).chars().take(80).collect::<String>();
    let is_plain = |name: &str| {
        !name.is_empty()
            && !name.starts_with('/')
            && !name.contains(['\\', '\0'])
            && name.split('/').all(|part| part != ".." && part != ".")
    };
    match std::str::from_utf8(name) {
        Ok(name) if is_plain(name) => Ok(name.to_owned()),
        _ => Err(format!("`{shown}` is no plain name of a file")),
    }
}

/// The 64-bit fields of an entry's extra data.
struct WideFields<'a>(&'a [u8]);

impl<'a> WideFields<'a> {
    const ID: u16 = 1;

    fn of(mut extra: &'a [u8]) -> Self {
        while let (Some(id), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
            let Some(content) = extra.get(4..4 + usize::from(len)) else { break };
            if id == Self::ID {
                return Self(content);
            }
            extra = extra.get(4 + usize::from(len)..).unwrap_or_default();
        }
        Self(&[])
    }

    /// A 32-bit field, or the 64 bits it stands for.
    fn take(&mut self, narrow: u64) -> Result<u64, String> {
        if narrow != u64::from(u32::MAX) {
            return Ok(narrow);
        }
        let Some((wide, rest)) = self.0.split_first_chunk::<8>() else {
            return Err("a size of 64 bits is announced and missing".into());
        };
        self.0 = rest;
        Ok(u64::from_le_bytes(*wide))
    }
}

/// No byte belongs to two entries: an archive in which it does unpacks to more than it is.
fn refuse_overlaps(entries: &BTreeMap<String, Place>) -> Result<(), String> {
    let mut places: Vec<(usize, usize, &str)> =
        entries.iter().map(|(name, place)| (place.start, place.end, name.as_str())).collect();
    places.sort_unstable();
    for pair in places.windows(2) {
        if let [(_, end, before), (start, after_end, after)] = pair
            && start < end
            && start < after_end
        {
            return Err(format!("entries `{before}` and `{after}` share bytes of the file"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
