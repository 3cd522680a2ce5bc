//! Block formats against the public `gguf` package: `tests/golden/quant/make.py` wrote what it decodes and encodes.

use serde_json::Value;

use hadal_engine::quant::{DType, q4_0, q8_0};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/quant/blocks.json")).unwrap()
}

fn bytes(case: &Value, field: &str) -> Vec<u8> {
    let hex = case[field].as_str().unwrap();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn floats(case: &Value, field: &str) -> Vec<f32> {
    let bytes = bytes(case, field);
    bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

#[test]
fn blocks_decode_to_the_bits_the_reference_gives() {
    let golden = golden();
    let blocks: Vec<DType> = DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1).collect();
    assert_eq!(blocks.len(), golden.as_object().unwrap().len());
    for dtype in blocks {
        let (stored, want) =
            (bytes(&golden[dtype.name()], "blocks"), floats(&golden[dtype.name()], "values"));
        assert_eq!(dtype.row_bytes(want.len()), Some(stored.len()), "{dtype:?}");
        let mut got = vec![0.0f32; want.len()];
        dtype.decode(&stored, &mut got);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(got == want, "{dtype:?} at {i}: {got:e} and {want:e}");
        }
    }
}

type Encode = fn(&[f32], &mut Vec<u8>);

#[test]
fn numbers_encode_to_the_bytes_the_reference_gives() {
    let golden = golden();
    for (dtype, encode) in [(DType::Q8_0, q8_0::encode as Encode), (DType::Q4_0, q4_0::encode)] {
        let (plain, want) =
            (floats(&golden[dtype.name()], "plain"), bytes(&golden[dtype.name()], "encoded"));
        let mut got = vec![1, 2, 3];
        encode(&plain, &mut got);
        assert_eq!(got[..3], [1, 2, 3], "what was there stays");
        for (i, (got, want)) in
            got[3..].chunks(dtype.block_bytes()).zip(want.chunks(dtype.block_bytes())).enumerate()
        {
            assert_eq!(got, want, "{dtype:?}, block {i}: {:?}", &plain[i * 32..(i + 1) * 32]);
        }
        assert_eq!(got.len() - 3, want.len());
    }
}

#[test]
fn rows_that_are_no_whole_blocks_have_no_size() {
    assert_eq!(DType::Q4K.row_bytes(256), Some(144));
    assert_eq!(DType::Q4K.row_bytes(128), None);
    assert_eq!(DType::Q8_0.row_bytes(33), None);
    assert_eq!(DType::F32.row_bytes(usize::MAX), None);
}
