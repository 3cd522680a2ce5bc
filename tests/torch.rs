//! Writes files as `torch.save` does, right and wrong ones: what tests of the reader feed it. Shares no code with it.

/// A tensor to write: a view of a storage, in elements.
#[derive(Debug, Clone)]
pub struct View {
    /// Its name.
    pub name: String,
    /// `FloatStorage`, ...
    pub class: &'static str,
    /// Which storage.
    pub key: String,
    /// Elements the storage is said to have.
    pub count: usize,
    /// First element.
    pub offset: usize,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Elements from one to the next, a dimension each.
    pub stride: Vec<usize>,
}

impl View {
    /// A whole storage, row-major.
    pub fn whole(name: &str, class: &'static str, key: &str, shape: &[usize]) -> Self {
        let mut stride = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            stride[i - 1] = usize::saturating_mul(stride[i], shape[i]);
        }
        let count = shape.iter().fold(1, |count: usize, size| count.saturating_mul(*size));
        let (name, key, shape) = (name.to_owned(), key.to_owned(), shape.to_vec());
        Self { name, class, key, count, offset: 0, shape, stride }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn int(out: &mut Vec<u8>, number: usize) {
    // LONG1 of eight bytes: any size there is.
    out.extend([0x8a, 8]);
    out.extend((number as u64).to_le_bytes());
}

fn tuple(out: &mut Vec<u8>, numbers: &[usize]) {
    out.push(b'(');
    for number in numbers {
        int(out, *number);
    }
    out.push(b't');
}

/// The pickle of a dict of tensors, under `model_state_dict` when `is_trainers`.
pub fn pickle(views: &[View], is_trainers: bool) -> Vec<u8> {
    let mut out = b"\x80\x02".to_vec();
    if is_trainers {
        out.extend(b"}(");
        text(&mut out, "global_step");
        int(&mut out, 7);
        text(&mut out, "model_state_dict");
    }
    out.extend(b"ccollections\nOrderedDict\n)R(");
    for view in views {
        text(&mut out, &view.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{}\n", view.class).as_bytes());
        text(&mut out, &view.key);
        text(&mut out, "cpu");
        int(&mut out, view.count);
        out.extend(b"tQ");
        int(&mut out, view.offset);
        tuple(&mut out, &view.shape);
        tuple(&mut out, &view.stride);
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.push(b'u');
    if is_trainers {
        out.push(b'u');
    }
    out.push(b'.');
    out
}

/// A zip archive of stored entries.
pub fn archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let offset = file.len() as u32;
        let (size, name_len) =
            ((bytes.len() as u32).to_le_bytes(), (name.len() as u16).to_le_bytes());
        file.extend(b"PK\x03\x04");
        file.extend([0; 22]);
        file.extend(name_len);
        file.extend([0, 0]);
        file.extend(name.as_bytes());
        file.extend(bytes);
        directory.extend(b"PK\x01\x02");
        directory.extend([0; 16]);
        directory.extend([size, size].concat());
        directory.extend(name_len);
        directory.extend([0; 12]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let n = (entries.len() as u16).to_le_bytes();
    let start = (file.len() as u32).to_le_bytes();
    let len = (directory.len() as u32).to_le_bytes();
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([n, n].concat());
    file.extend([len, start].concat());
    file.extend([0, 0]);
    file
}

/// A file as `torch.save` writes it now.
pub fn save(views: &[View], storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut entries = vec![("best/data.pkl".to_owned(), pickle(views, true))];
    entries.push(("best/byteorder".to_owned(), b"little".to_vec()));
    entries.extend(storages.iter().map(|(key, bytes)| (format!("best/data/{key}"), bytes.clone())));
    entries.push(("best/version".to_owned(), b"3\n".to_vec()));
    archive(&entries)
}

/// A file as `torch.save` wrote it before; counts are each storage's own elements.
pub fn save_legacy(
    views: &[View],
    storages: &[(&str, usize, Vec<u8>)],
    is_little: bool,
) -> Vec<u8> {
    let mut file =
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}("
            .to_vec();
    text(&mut file, "little_endian");
    file.extend([if is_little { 0x88 } else { 0x89 }]);
    file.extend(b"u.");
    file.extend(pickle(views, false));
    file.extend(b"\x80\x02](");
    for (key, ..) in storages {
        text(&mut file, key);
    }
    file.extend(b"e.");
    for (_, count, bytes) in storages {
        file.extend((*count as u64).to_le_bytes());
        file.extend(bytes);
    }
    file
}
