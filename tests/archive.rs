//! Archives as `torch.save` writes them, as far as reading needs it.

/// A zip archive of stored entries, checksums left out.
pub fn stored(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let at = bytes.len() as u32;
        let sizes = [content.len() as u32, content.len() as u32].map(u32::to_le_bytes).concat();
        let names = [name.len() as u16, 0].map(u16::to_le_bytes).concat();
        bytes.extend(
            [
                b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0",
                &sizes[..],
                &names,
                name.as_bytes(),
                content,
            ]
            .concat(),
        );
        directory.extend(
            [
                b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0\0\0\0\0",
                &sizes[..],
                &names,
                &[0; 10],
                &at.to_le_bytes(),
                name.as_bytes(),
            ]
            .concat(),
        );
    }
    let (n, start, len) = (entries.len() as u16, bytes.len() as u32, directory.len() as u32);
    let counts = [0, 0, n, n].map(u16::to_le_bytes).concat();
    bytes.extend(directory);
    bytes.extend(
        [b"PK\x05\x06", &counts[..], &len.to_le_bytes(), &start.to_le_bytes(), &[0, 0]].concat(),
    );
    bytes
}
