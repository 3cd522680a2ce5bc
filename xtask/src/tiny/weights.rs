//! Writes safetensors files as a stream: header first, then numbers made as they are written.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

use half::bf16;
use serde_json::{Map, Value, json};

use super::plan::{Fill, Planned};

/// Draws come from a table of this many normal numbers: one lookup a weight, so gigabytes take seconds.
const TABLE: usize = 1 << 16;

impl Planned {
    fn count(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    fn bytes(&self) -> u64 {
        self.count() * if matches!(self.fill, Fill::NormalF32(_)) { 4 } else { 2 }
    }

    /// What number `at` is whatever is drawn: where it begins a row, and rows have their beginnings given.
    fn first_of(&self, at: u64) -> Option<f32> {
        let given = self.first.len() as u64;
        let columns = if self.shape.len() < 2 { 1 } else { *self.shape.last()? as u64 };
        if given == 0 || !at.is_multiple_of(columns) {
            return None;
        }
        self.first.get((at / columns % given) as usize).copied()
    }

    fn dtype(&self) -> &'static str {
        if matches!(self.fill, Fill::NormalF32(_)) { "F32" } else { "BF16" }
    }
}

/// Writes all tensors, cut into files of about `shard_bytes`; the bytes of all tensors.
pub(super) fn write(out: &Path, tensors: &[Planned], seed: u64, shard_bytes: u64) -> Result<u64> {
    let shards = cut(tensors, shard_bytes);
    let total = tensors.iter().map(Planned::bytes).sum();
    let normal = normal_table();
    let mut weight_map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        let mut file = BufWriter::with_capacity(1 << 20, File::create(out.join(&name))?);
        file.write_all(&header(shard))?;
        for tensor in *shard {
            weight_map.insert(tensor.name.clone(), name.clone().into());
            fill(&mut file, tensor, &normal, seed)?;
        }
        file.flush()?;
    }
    if shards.len() > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        std::fs::write(out.join("model.safetensors.index.json"), format!("{index:#}\n"))?;
    }
    Ok(total)
}

/// Runs of tensors whose bytes come to at most `shard_bytes`, at least one tensor each.
fn cut(tensors: &[Planned], shard_bytes: u64) -> Vec<&[Planned]> {
    let (mut shards, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (i, tensor) in tensors.iter().enumerate() {
        if i > begin && bytes + tensor.bytes() > shard_bytes {
            shards.push(&tensors[begin..i]);
            (begin, bytes) = (i, 0);
        }
        bytes += tensor.bytes();
    }
    shards.push(&tensors[begin..]);
    shards
}

/// The length and the JSON of a file's header, padded so that the tensors begin on a cache line.
fn header(shard: &[Planned]) -> Vec<u8> {
    let (mut entries, mut at) = (Map::new(), 0);
    entries.insert("__metadata__".into(), json!({ "format": "pt" }));
    for tensor in shard {
        let end = at + tensor.bytes();
        let entry =
            json!({ "dtype": tensor.dtype(), "shape": tensor.shape, "data_offsets": [at, end] });
        entries.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize((json.len() + 8).next_multiple_of(64) - 8, b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

fn fill(file: &mut impl Write, tensor: &Planned, normal: &[f32], seed: u64) -> Result<()> {
    // A tensor's draws depend on its name and the seed alone, not on its place or its file.
    let mut random = Random(hash(&tensor.name) ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    match tensor.fill {
        Fill::Ones => {
            (0..tensor.count()).try_for_each(|_| file.write_all(&bf16::ONE.to_le_bytes()))
        }
        Fill::NormalF32(deviation) => (0..tensor.count()).try_for_each(|at| {
            let draw = normal[random.next() as usize % TABLE];
            file.write_all(&tensor.first_of(at).unwrap_or(draw * deviation).to_le_bytes())
        }),
        Fill::Normal(deviation) => {
            let scaled: Vec<[u8; 2]> =
                normal.iter().map(|&draw| bf16::from_f32(draw * deviation).to_le_bytes()).collect();
            let mut left = tensor.count();
            while left > 0 {
                let draw = random.next();
                let four = [draw, draw >> 16, draw >> 32, draw >> 48];
                let mut bytes = [0; 8];
                let at = tensor.count() - left..;
                for ((to, draw), at) in bytes.chunks_exact_mut(2).zip(four).zip(at) {
                    let first = tensor.first_of(at).map(|x| bf16::from_f32(x).to_le_bytes());
                    to.copy_from_slice(&first.unwrap_or(scaled[draw as usize % TABLE]));
                }
                let n = left.min(4);
                file.write_all(&bytes[..2 * n as usize])?;
                left -= n;
            }
            Ok(())
        }
    }
}

/// Normal numbers by Box and Muller, in pairs.
pub(super) fn normal_table() -> Vec<f32> {
    let mut random = Random(1);
    let mut unit = || (random.next() >> 11) as f64 / (1u64 << 53) as f64;
    let mut table = Vec::with_capacity(TABLE);
    while table.len() < TABLE {
        let (radius, angle) = ((-2.0 * (1.0 - unit()).ln()).sqrt(), std::f64::consts::TAU * unit());
        table.push((radius * angle.cos()) as f32);
        table.push((radius * angle.sin()) as f32);
    }
    table
}

/// `SplitMix64`.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_normal() {
        let table = normal_table();
        let n = table.len() as f32;
        let mean = table.iter().sum::<f32>() / n;
        let variance = table.iter().map(|x| x * x).sum::<f32>() / n;
        assert!(
            mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02,
            "mean {mean}, variance {variance}"
        );
    }

    fn planned(name: &str, n: usize) -> Planned {
        Planned { name: name.into(), shape: vec![n], fill: Fill::Normal(1.0), first: Vec::new() }
    }

    #[test]
    fn shards_keep_to_their_size_and_hold_at_least_one_tensor() {
        let tensors = [planned("a", 10), planned("b", 10), planned("c", 100), planned("d", 1)];
        let names: Vec<usize> = cut(&tensors, 40).iter().map(|shard| shard.len()).collect();
        assert_eq!(names, [2, 1, 1]);
    }

    #[test]
    fn tensors_begin_on_a_cache_line() {
        assert_eq!(header(&[planned("a", 3), planned("bcd", 5)]).len() % 64, 0);
    }

    #[test]
    fn rows_begin_with_what_is_given_and_go_on_as_before() {
        let plain = Planned { shape: vec![3, 3], ..planned("a", 0) };
        let given = Planned { shape: vec![3, 3], first: vec![0.5, -2.0], ..planned("a", 0) };
        let written = |tensor: &Planned| {
            let mut bytes = Vec::new();
            fill(&mut bytes, tensor, &normal_table(), 1).unwrap();
            let numbers = bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32());
            numbers.collect::<Vec<f32>>()
        };
        let (plain, given) = (written(&plain), written(&given));
        assert_eq!([given[0], given[3], given[6]], [0.5, -2.0, 0.5]);
        assert!((0..9).filter(|at| at % 3 != 0).all(|at| plain[at] == given[at]));
    }

    #[test]
    fn an_odd_count_is_written_whole() {
        let mut bytes = Vec::new();
        fill(&mut bytes, &planned("a", 7), &normal_table(), 1).unwrap();
        assert_eq!(bytes.len(), 14);
    }
}
