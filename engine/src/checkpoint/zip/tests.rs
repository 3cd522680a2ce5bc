use super::*;

/// An entry of a made archive: name, bytes, method.
type Made<'a> = (&'a str, &'a [u8], u16);

/// Writes an archive as a streaming writer does: local headers without sizes, then the directory.
fn archive(entries: &[Made<'_>], is_wide: bool) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    let narrow = |size: usize| if is_wide { u32::MAX } else { size as u32 };
    for (name, bytes, method) in entries {
        let offset = file.len();
        file.extend(LOCAL);
        file.extend([0; 22]);
        file.extend((name.len() as u16).to_le_bytes());
        // Padding in the extra field, so that data do not begin where central sizes alone would put them.
        file.extend(7u16.to_le_bytes());
        file.extend(name.as_bytes());
        file.extend([0; 7]);
        file.extend(*bytes);
        let mut extra = vec![0x99, 0x99, 1, 0, 7];
        if is_wide {
            extra.extend([1, 0, 24, 0]);
            for size in [bytes.len(), bytes.len(), offset] {
                extra.extend((size as u64).to_le_bytes());
            }
        }
        directory.extend(CENTRAL);
        directory.extend([0, 0, 0, 0, 8, 0]);
        directory.extend(method.to_le_bytes());
        directory.extend([0; 8]);
        directory.extend(narrow(bytes.len()).to_le_bytes());
        directory.extend(narrow(bytes.len()).to_le_bytes());
        directory.extend((name.len() as u16).to_le_bytes());
        directory.extend((extra.len() as u16).to_le_bytes());
        directory.extend([0; 10]);
        directory.extend(narrow(offset).to_le_bytes());
        directory.extend(name.as_bytes());
        directory.extend(extra);
    }
    let (start, n) = (file.len(), entries.len());
    file.extend(&directory);
    if is_wide {
        let record = file.len() as u64;
        file.extend(END64);
        file.extend(44u64.to_le_bytes());
        file.extend([0; 12]);
        for number in [n, n, directory.len(), start] {
            file.extend((number as u64).to_le_bytes());
        }
        file.extend(END64_LOCATOR);
        file.extend([0; 4]);
        file.extend(record.to_le_bytes());
        file.extend([1, 0, 0, 0]);
    }
    file.extend(END);
    file.extend([0; 4]);
    let n = if is_wide { u16::MAX } else { n as u16 };
    file.extend(n.to_le_bytes());
    file.extend(n.to_le_bytes());
    file.extend(narrow(directory.len()).to_le_bytes());
    file.extend(narrow(start).to_le_bytes());
    file.extend([0, 0]);
    file
}

fn open(file: Vec<u8>) -> Result<Archive, String> {
    Archive::open(&Bytes::owned(file))
}

#[track_caller]
fn refused(file: Vec<u8>, why: &str) {
    let error = open(file).err().unwrap_or_else(|| "opened".into());
    assert!(error.contains(why), "{error}");
}

const TWO: [Made<'_>; 2] = [("x/data.pkl", b"hello", 0), ("x/data/0", b"0123456789", 0)];

#[test]
fn stored_entries_are_ranges_of_the_file() {
    for is_wide in [false, true] {
        let file = archive(&TWO, is_wide);
        let archive = open(file.clone()).unwrap();
        assert_eq!(archive.names().collect::<Vec<_>>(), ["x/data.pkl", "x/data/0"]);
        assert_eq!(&archive.stored("x/data/0").unwrap().unwrap()[..], b"0123456789");
        assert!(archive.stored("x/data/1").unwrap().is_none());
        // A comment behind the end record may even look like one.
        let mut commented = file;
        let at = commented.len() - 2;
        commented.splice(at.., [4, 0]);
        commented.extend(END);
        assert_eq!(&open(commented).unwrap().stored("x/data.pkl").unwrap().unwrap()[..], b"hello");
    }
}

#[test]
fn what_cannot_be_used_as_it_lies_is_named() {
    let archive = open(archive(&[("x/data.pkl", b"zz", 8)], false)).unwrap();
    let error = archive.stored("x/data.pkl").unwrap_err();
    assert!(error.contains("`x/data.pkl` is compressed (method 8)"), "{error}");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["../x", "x/../../y", "/etc/passwd", "x\\y", "x/./y", "", "a\0b"] {
        refused(archive(&[(name, b"", 0)], false), "no plain name");
    }
    refused(archive(&[("x", b"a", 0), ("x", b"b", 0)], false), "two entries named `x`");
}

#[test]
fn every_truncation_is_refused() {
    for is_wide in [false, true] {
        let file = archive(&TWO, is_wide);
        for len in 0..file.len() {
            assert!(open(file[..len].to_vec()).is_err(), "{len} of {} bytes", file.len());
        }
    }
}

/// Puts bytes over an archive's own, counted from its end record.
fn patched(at: usize, with: &[u8]) -> Vec<u8> {
    let mut file = archive(&TWO, false);
    let end = file.len() - END_BYTES;
    file[end + at..end + at + with.len()].copy_from_slice(with);
    file
}

#[test]
fn counts_and_places_that_are_not_so_are_refused() {
    refused(patched(10, &u16::MAX.to_le_bytes()), "claims 65535 entries");
    refused(patched(10, &1u16.to_le_bytes()), "bytes are left");
    refused(patched(10, &3u16.to_le_bytes()), "entr");
    refused(patched(12, &u32::MAX.to_le_bytes()), "directory should be 4294967295 bytes");
    refused(patched(16, &0u32.to_le_bytes()), "directory should be");
}

#[test]
fn entries_that_share_bytes_or_lie_outside_are_refused() {
    let file = archive(&TWO, false);
    let second = file.windows(4).rposition(|four| four == CENTRAL).unwrap();
    let mut overlapping = file.clone();
    // The second entry's offset is the first one's: it unpacks the same bytes again.
    overlapping[second + 42..second + 46].copy_from_slice(&0u32.to_le_bytes());
    refused(overlapping, "share bytes");
    for (field, name) in [(20, "packed"), (42, "offset")] {
        let mut outside = file.clone();
        outside[second + field..second + field + 4].copy_from_slice(&0x00ff_ffffu32.to_le_bytes());
        if field == 20 {
            outside[second + 24..second + 28].copy_from_slice(&0x00ff_ffffu32.to_le_bytes());
        }
        refused(outside, "the data end at");
        let mut wide = file.clone();
        wide[second + field..second + field + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(open(wide).is_err(), "{name} of 64 bits that are not there");
    }
}
