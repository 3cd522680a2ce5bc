//! GGUF's storage types by number.

use crate::quant::DType;

/// A type as a file has it.
pub(super) struct Stored {
    /// As people call it.
    pub(super) name: String,
    /// `None`: a type this build cannot use.
    pub(super) dtype: Option<DType>,
}

/// Names of the types that are known and not used, by number.
const UNUSED: &[(u32, &str)] = &[
    (3, "Q4_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// The type of number `kind`.
pub(super) fn stored(kind: u32) -> Stored {
    let dtype = match kind {
        0 => Some(DType::F32),
        1 => Some(DType::F16),
        2 => Some(DType::Q4_0),
        6 => Some(DType::Q5_0),
        7 => Some(DType::Q5_1),
        8 => Some(DType::Q8_0),
        12 => Some(DType::Q4K),
        13 => Some(DType::Q5K),
        14 => Some(DType::Q6K),
        30 => Some(DType::Bf16),
        _ => None,
    };
    let known = UNUSED.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name);
    let name = match (dtype, known) {
        (Some(dtype), _) => dtype.name().to_owned(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => format!("number {kind}"),
    };
    Stored { name, dtype }
}

/// Bytes of a tensor.
///
/// # Errors
/// What is wrong with its shape.
pub(super) fn size(dtype: DType, shape: &[u64]) -> Result<u64, String> {
    let (Some((columns, outer)), false) = (shape.split_last(), shape.contains(&0)) else {
        return Err(format!("has shape {shape:?}: nothing is in it"));
    };
    let row = usize::try_from(*columns).ok().and_then(|columns| dtype.row_bytes(columns));
    let Some(row) = row else {
        let (name, block) = (dtype.name(), dtype.block_len());
        return Err(format!("rows of {columns} numbers, wanted a multiple of {block} for {name}"));
    };
    let bytes = outer.iter().try_fold(row as u64, |bytes, size| bytes.checked_mul(*size));
    bytes.ok_or_else(|| format!("has shape {shape:?}, over 2^64 bytes"))
}
