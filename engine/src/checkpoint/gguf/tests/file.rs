//! GGUF files made by hand.

/// A GGUF file in the making.
#[derive(Clone)]
pub(super) struct File {
    pub(super) version: u32,
    pub(super) keys: Vec<(String, Vec<u8>)>,
    pub(super) tensors: Vec<Tensor>,
    alignment: usize,
}

#[derive(Clone)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// Innermost first.
    pub(super) shape: Vec<u64>,
    pub(super) kind: u32,
    pub(super) offset: Option<u64>,
    bytes: Vec<u8>,
}

pub(super) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(super) fn typed(kind: u32, value: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], value].concat()
}

pub(super) fn texts(list: &[&str]) -> Vec<u8> {
    let items: Vec<u8> = list.iter().flat_map(|item| text(item)).collect();
    typed(9, &[&8u32.to_le_bytes()[..], &(list.len() as u64).to_le_bytes(), &items].concat())
}

impl File {
    pub(super) fn empty() -> Self {
        Self { version: 3, keys: Vec::new(), tensors: Vec::new(), alignment: 32 }
    }

    pub(super) fn key(&mut self, name: &str, value: Vec<u8>) -> &mut Self {
        self.keys.retain(|(key, _)| key != name);
        self.keys.push((name.to_owned(), value));
        self
    }

    pub(super) fn number(&mut self, name: &str, value: u32) -> &mut Self {
        self.key(name, typed(4, &value.to_le_bytes()))
    }

    pub(super) fn words(&mut self, name: &str, value: &str) -> &mut Self {
        self.key(name, typed(8, &text(value)))
    }

    pub(super) fn tensor(&mut self, name: &str, shape: &[u64]) -> &mut Self {
        self.stored(name, shape, 0, vec![0; shape.iter().product::<u64>() as usize * 4])
    }

    pub(super) fn stored(
        &mut self,
        name: &str,
        shape: &[u64],
        kind: u32,
        bytes: Vec<u8>,
    ) -> &mut Self {
        let shape = shape.to_vec();
        self.tensors.push(Tensor { name: name.into(), shape, kind, offset: None, bytes });
        self
    }

    /// Keys of a model of one dense layer.
    pub(super) fn model_keys(&mut self) -> &mut Self {
        self.words("general.architecture", "deepseek2");
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", 4),
            ("feed_forward_length", 6),
            ("attention.head_count", 2),
            ("attention.kv_lora_rank", 5),
            ("attention.key_length", 7),
            ("attention.value_length", 5),
            ("attention.key_length_mla", 5),
            ("attention.value_length_mla", 4),
            ("rope.dimension_count", 2),
            ("vocab_size", 3),
        ] {
            self.number(&format!("deepseek2.{key}"), value);
        }
        self
    }

    pub(super) fn model() -> Self {
        let mut file = Self::empty();
        file.model_keys();
        for (name, shape) in [
            ("token_embd.weight", &[4, 3][..]),
            ("output_norm.weight", &[4]),
            ("rope_freqs.weight", &[1]),
            ("blk.0.attn_norm.weight", &[4]),
            ("blk.0.attn_q.weight", &[4, 10]),
            ("blk.0.attn_kv_a_mqa.weight", &[4, 7]),
            ("blk.0.attn_kv_a_norm.weight", &[5]),
            ("blk.0.attn_k_b.weight", &[3, 5, 2]),
            ("blk.0.attn_v_b.weight", &[5, 4, 2]),
            ("blk.0.attn_output.weight", &[8, 4]),
            ("blk.0.ffn_norm.weight", &[4]),
            ("blk.0.ffn_gate.weight", &[4, 6]),
            ("blk.0.ffn_up.weight", &[4, 6]),
            ("blk.0.ffn_down.weight", &[6, 4]),
        ] {
            file.tensor(name, shape);
        }
        file
    }

    pub(super) fn find(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            out.extend(text(key));
            out.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            out.extend(text(&tensor.name));
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            out.extend(tensor.shape.iter().flat_map(|n| n.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        out
    }
}
