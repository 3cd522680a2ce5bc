//! Images that a module is loaded from: PTX text, or a fatbin with several.
//!
//! A driver takes machine code where the image has some for the card, and compiles PTX otherwise. Here every choice ends in a PTX
//! text: of machine code the text for the same target, which is why test images hold PTX beside every target.

use crate::fault::{Error, Result};

const FATBIN_MAGIC: u32 = 0xba55_ed50;
/// The struct that nvcc's host code points to a fatbin with.
const WRAPPER_MAGIC: u32 = 0x4662_43b1;
const KIND_PTX: u16 = 1;
const KIND_ELF: u16 = 2;
/// Flags of an entry whose payload is compressed.
const COMPRESSED: u64 = 0xf000;
/// Flag of an entry that is for exactly its architecture: `sm_90a`.
const SPECIFIC: u64 = 1 << 20;
/// No image is larger; it bounds what a broken size could make us read.
const IMAGE_BYTES_MAX: u64 = 1 << 30;

/// One payload of a fatbin.
#[derive(Debug)]
struct Entry<'a> {
    kind: u16,
    arch: u32,
    flags: u64,
    payload: &'a [u8],
}

/// The bytes an image pointer stands for.
///
/// # Safety
/// `image` points to a fatbin, a fatbin wrapper or a PTX text that ends in a zero byte.
pub(crate) unsafe fn image_bytes<'a>(image: *const u8) -> Result<&'a [u8]> {
    // SAFETY: all three begin with at least four bytes that may be read.
    let magic = unsafe { image.cast::<u32>().read_unaligned() };
    if magic == WRAPPER_MAGIC {
        // SAFETY: the wrapper is two words and the fatbin's address.
        let inner = unsafe { image.add(8).cast::<*const u8>().read_unaligned() };
        if inner.is_null() {
            return Err(Error::Image("a wrapper around nothing".into()));
        }
        // SAFETY: the address is a fatbin's by the wrapper's contract; a wrapper in a wrapper is refused below.
        let inner_magic = unsafe { inner.cast::<u32>().read_unaligned() };
        if inner_magic != FATBIN_MAGIC {
            return Err(Error::Image(format!("a wrapper around {inner_magic:#x}")));
        }
        // SAFETY: as above.
        return unsafe { image_bytes(inner) };
    }
    if magic == FATBIN_MAGIC {
        // SAFETY: a fatbin's header has 16 bytes: magic, version, header bytes, bytes behind it.
        let (header, rest) = unsafe {
            (
                image.add(6).cast::<u16>().read_unaligned(),
                image.add(8).cast::<u64>().read_unaligned(),
            )
        };
        if rest > IMAGE_BYTES_MAX {
            return Err(Error::Image(format!("a fatbin of {rest} bytes")));
        }
        // SAFETY: the header's sizes cover the image.
        return Ok(unsafe {
            std::slice::from_raw_parts(image, usize::from(header) + rest as usize)
        });
    }
    // SAFETY: what is neither is a text with its end.
    Ok(unsafe { std::ffi::CStr::from_ptr(image.cast()) }.to_bytes())
}

/// The PTX text that a card of this capability runs, `arch` being `10 * major + minor`.
///
/// # Errors
/// [`Error::Image`] where the image is neither a fatbin nor PTX, holds compressed PTX, or nothing for the card.
pub fn choose(image: &[u8], arch: u32) -> Result<String> {
    let text = |bytes: &[u8]| {
        let bytes = bytes.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8(bytes.to_vec()).map_err(|_| Error::Image("the PTX is no text".into()))
    };
    if number(image, 0, 4) != Some(u64::from(FATBIN_MAGIC)) {
        let ptx = text(image)?;
        let target =
            target_of(&ptx).ok_or_else(|| Error::Image("neither a fatbin nor PTX".into()))?;
        return if fits(&target, arch) { Ok(ptx) } else { refuse(arch, &[target]) };
    }
    let entries = entries(image)?;
    let mut texts = Vec::new();
    for entry in entries.iter().filter(|entry| entry.kind == KIND_PTX) {
        let start = entry.payload.trim_ascii_start();
        if entry.flags & COMPRESSED != 0 || !start.starts_with(b"//") && !start.starts_with(b".") {
            return Err(Error::Image(
                "compressed PTX: build test images with `-no-compress`".into(),
            ));
        }
        let ptx = text(entry.payload)?;
        texts.push((target_of(&ptx).unwrap_or_default(), ptx));
    }
    // Machine code runs within its major number, from its minor one on; a specific one on its own card alone.
    let runs = |entry: &&Entry<'_>| match entry.flags & SPECIFIC {
        0 => entry.arch / 10 == arch / 10 && entry.arch <= arch,
        _ => entry.arch == arch,
    };
    let native = entries.iter().filter(|entry| entry.kind == KIND_ELF).filter(runs);
    let native = native.map(|entry| entry.arch).max();
    let mut fitting: Vec<&(String, String)> =
        texts.iter().filter(|(target, _)| fits(target, arch)).collect();
    if let Some(native) = native {
        fitting.retain(|(target, _)| base(target) == native);
        if fitting.is_empty() {
            let what = format!(
                "machine code for sm_{native} without its PTX: the simulator cannot run it"
            );
            return Err(Error::Image(what));
        }
    }
    // The newest target; of one number the specific form before the plain one.
    fitting.sort_by_key(|(target, _)| (base(target), target.ends_with('a')));
    match fitting.pop() {
        Some((_, ptx)) => Ok(ptx.clone()),
        None => refuse(arch, &texts.iter().map(|(target, _)| target.clone()).collect::<Vec<_>>()),
    }
}

fn refuse<T>(arch: u32, targets: &[String]) -> Result<T> {
    Err(Error::Image(format!("no code for sm_{arch}, only for {}", targets.join(", "))))
}

/// `sm_90a` of a text's `.target`.
fn target_of(ptx: &str) -> Option<String> {
    let line = ptx.lines().find_map(|line| line.trim().strip_prefix(".target"))?;
    Some(line.trim().split([',', ' ']).next()?.to_owned())
}

fn base(target: &str) -> u32 {
    target.trim_start_matches("sm_").trim_end_matches(char::is_alphabetic).parse().unwrap_or(0)
}

/// Plain PTX runs on its number and later ones; `a` on exactly its own, `f` within its major number.
fn fits(target: &str, arch: u32) -> bool {
    let base = base(target);
    match target.chars().last() {
        Some('a') => base == arch,
        Some('f') => base / 10 == arch / 10 && base <= arch,
        _ => base > 0 && base <= arch,
    }
}

fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let mut word = [0; 8];
    word[..len].copy_from_slice(bytes.get(at..at.checked_add(len)?)?);
    Some(u64::from_le_bytes(word))
}

/// Entries behind the header: kind, header bytes, payload bytes, architecture, flags.
fn entries(image: &[u8]) -> Result<Vec<Entry<'_>>> {
    let broken = || Error::Image("a fatbin that ends too early".into());
    let mut at = number(image, 6, 2).ok_or_else(broken)? as usize;
    let mut found = Vec::new();
    while at < image.len() {
        let field = |offset, len| number(image, at + offset, len).ok_or_else(broken);
        let (kind, header) = (field(0, 2)? as u16, field(4, 4)? as usize);
        let (size, arch, flags) = (field(8, 8)? as usize, field(28, 4)? as u32, field(40, 8)?);
        let start = at.checked_add(header).filter(|_| header >= 48).ok_or_else(broken)?;
        let end = start.checked_add(size).ok_or_else(broken)?;
        let payload = image.get(start..end).ok_or_else(broken)?;
        found.push(Entry { kind, arch, flags, payload });
        at = end;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(parts: &[(u16, u32, &str)]) -> Vec<u8> {
        let mut entries = Vec::new();
        for (kind, arch, payload) in parts {
            let mut header = vec![0u8; 64];
            header[..2].copy_from_slice(&kind.to_le_bytes());
            header[4..8].copy_from_slice(&64u32.to_le_bytes());
            header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
            header[28..32].copy_from_slice(&arch.to_le_bytes());
            entries.extend(header);
            entries.extend(payload.as_bytes());
        }
        let mut image = FATBIN_MAGIC.to_le_bytes().to_vec();
        image.extend([1, 0, 16, 0]);
        image.extend((entries.len() as u64).to_le_bytes());
        image.extend(entries);
        image
    }

    #[test]
    fn the_driver_takes_machine_code_first_and_the_newest_ptx_otherwise() {
        let parts = [
            (KIND_ELF, 80, "x"),
            (KIND_PTX, 80, "//\n.target sm_80\n"),
            (KIND_ELF, 90, "x"),
            (KIND_PTX, 90, "//\n.target sm_90a\n"),
            (KIND_PTX, 86, "//\n.target sm_86\n"),
        ];
        let target = |arch| choose(&image(&parts), arch).map(|ptx| target_of(&ptx).unwrap());
        assert_eq!(target(80).unwrap(), "sm_80");
        // 8.9 runs the machine code of 8.0 rather than the newer PTX.
        assert_eq!(target(89).unwrap(), "sm_80");
        assert_eq!(target(90).unwrap(), "sm_90a");
        // 12.0 has no machine code, and 9.0a is not for it.
        assert_eq!(target(120).unwrap(), "sm_86");
        assert!(target(75).unwrap_err().to_string().contains("no code for sm_75"));
    }

    #[test]
    fn broken_and_compressed_images_are_refused() {
        let whole = image(&[(KIND_PTX, 80, "//\n.target sm_80\n")]);
        for cut in 8..whole.len() {
            assert!(choose(&whole[..cut], 80).is_err() || cut == 16, "{cut}");
        }
        let packed = image(&[(KIND_PTX, 80, "\u{1}\u{2}")]);
        assert!(choose(&packed, 80).unwrap_err().to_string().contains("-no-compress"));
        assert!(choose(b"hello", 80).is_err());
    }
}
