//! Matrices on a card, uploaded from a checkpoint's tensors some rows at a time.
//!
//! bf16, 8-bit floats in blocks of 128 x 128, `Q8_0` and `Q4_0` keep their format; everything else is decoded to bf16,
//! but for routers, which keep all they have. The halves of `kv_b_proj` are bf16, and there twice: as they are stored
//! and with each head turned round, since absorbed attention multiplies with both.

use hadal_kernels::Format;
use hadal_kernels::abi::{ExpertMatrices, WeightMatrix};

use super::device::{Device, Memory};
use super::pack::{self, Layout};
use crate::backend::{ExpertWeights, KvBPart, MlaShape, Use};
use crate::checkpoint::{Keep, Tensor};
use crate::error::{Error, Result};
use crate::quant::DType;

/// Bytes of decoded rows that are on their way at a time.
const CHUNK_BYTES: usize = 8 << 20;
/// Planes begin at multiples of this.
const PLANE_BYTES: usize = 256;

/// A matrix on a card.
pub struct Weight {
    pub(super) numbers: Numbers,
    /// With each head turned round; of `kv_b_proj` and its key half.
    pub(super) turned: Option<Plane>,
}

/// In what a matrix's numbers are.
pub(super) enum Numbers {
    /// A format that products read.
    Plane(Plane),
    /// f32 rows, `[n_out, stride]`: a router.
    Wide { memory: Memory, n_out: usize, n_in: usize, stride: usize },
}

/// Quants and scales of a matrix.
pub(super) struct Plane {
    memory: Memory,
    scales_at: usize,
    pub(super) layout: Layout,
}

impl Plane {
    fn new(device: &Device, layout: Layout) -> Result<Self> {
        let scales_at = layout.planes.quant_bytes.next_multiple_of(PLANE_BYTES);
        let memory = device.room(scales_at + layout.planes.scale_bytes)?;
        Ok(Self { memory, scales_at, layout })
    }

    /// As kernels take it.
    pub(super) fn matrix(&self) -> WeightMatrix {
        let quants: *const u8 = self.memory.at();
        WeightMatrix {
            quants: quants.cast(),
            scales: quants.wrapping_add(self.scales_at).cast(),
            n_out: self.layout.n_out as u32,
            n_in: self.layout.n_in as u32,
            quant_stride: self.layout.planes.quant_stride as u32,
            scale_stride: self.layout.planes.scale_stride as u32,
        }
    }
}

impl Weight {
    /// The plane of a matrix that products read.
    pub(super) fn plane(&self) -> Result<&Plane> {
        match &self.numbers {
            Numbers::Plane(plane) => Ok(plane),
            Numbers::Wide { .. } => {
                Err(Error::Internal { message: "a router's matrix in a product".into() })
            }
        }
    }
}

/// One layer's experts on a card, and where each is.
pub struct Experts {
    pub(super) n_expert: usize,
    pub(super) gate: Stack,
    pub(super) up: Stack,
    pub(super) down: Stack,
}

/// The same matrix of every expert.
pub(super) struct Stack {
    _memory: Memory,
    /// `[2, n_expert]` addresses: of quants, of scales.
    table: Memory,
    n_expert: usize,
    pub(super) layout: Layout,
}

impl Stack {
    /// As kernels take it.
    pub(super) fn matrices(&self) -> ExpertMatrices {
        let table: *const *const std::ffi::c_void = self.table.at();
        ExpertMatrices {
            quants: table.cast(),
            scales: table.wrapping_add(self.n_expert).cast(),
            n_out: self.layout.n_out as u32,
            n_in: self.layout.n_in as u32,
            quant_stride: self.layout.planes.quant_stride as u32,
            scale_stride: self.layout.planes.scale_stride as u32,
        }
    }
}

/// Uploads matrices as the backend keeps them.
pub(super) struct Uploads<'a> {
    pub(super) device: &'a Device,
    pub(super) keep: Keep,
    pub(super) shape: &'a MlaShape,
}

impl Uploads<'_> {
    /// A matrix for one use.
    pub(super) fn weight(&self, tensor: &Tensor, used: Use) -> Result<Weight> {
        let (n_out, n_in) = (tensor.n_row(), tensor.dim());
        let dtype = self.dtype(tensor);
        match used {
            Use::Router if dtype != DType::Bf16 => self.wide(tensor),
            Use::Router | Use::Table => self.plain(tensor, Format::Bf16),
            Use::Product => self.plain(tensor, pack::format_of(tensor, dtype)),
            Use::KvB(part) => {
                let numbers = self.plain(tensor, Format::Bf16)?.numbers;
                let shape = self.shape;
                let (n, r, v) = (shape.qk_nope_head_dim, shape.qk_rope_head_dim, shape.v_head_dim);
                let (rows, used) = match part {
                    KvBPart::Whole => (n + v, n),
                    KvBPart::Key => (n + r, n),
                    KvBPart::KeyTurned => (shape.kv_lora_rank, shape.kv_lora_rank),
                    KvBPart::Value => return Ok(Weight { numbers, turned: None }),
                };
                assert_eq!(n_out, rows * shape.n_head);
                let layout = Layout::new(Format::Bf16, shape.n_head * n_in, used)?;
                let turned = Some(self.turn(tensor, layout, rows, used)?);
                Ok(Weight { numbers, turned })
            }
        }
    }

    /// What the tensor is stored as, or is to become. What no product reads as it is stored would be bf16, so it is from
    /// bf16 that another format has to gain.
    fn dtype(&self, tensor: &Tensor) -> DType {
        let is_kept =
            tensor.dtype == DType::Bf16 || pack::format_of(tensor, tensor.dtype) != Format::Bf16;
        let kept = if is_kept { tensor.dtype } else { DType::Bf16 };
        match self.keep.of(&tensor.name, kept, &tensor.shape).dtype {
            // Routers keep all they have; the rest is decoded when it is uploaded.
            wanted if wanted == kept => tensor.dtype,
            wanted => wanted,
        }
    }

    fn plain(&self, tensor: &Tensor, format: Format) -> Result<Weight> {
        let plane = Plane::new(self.device, Layout::new(format, tensor.n_row(), tensor.dim())?)?;
        self.fill(tensor, &plane.layout, &plane.memory, 0, plane.scales_at)?;
        Ok(Weight { numbers: Numbers::Plane(plane), turned: None })
    }

    /// A router: f32 rows.
    fn wide(&self, tensor: &Tensor) -> Result<Weight> {
        let (n_out, n_in) = (tensor.n_row(), tensor.dim());
        let stride = n_in.next_multiple_of(16);
        let memory = self.device.room(n_out * stride * 4)?;
        if !self.device.is_account() {
            let mut bytes = vec![0u8; n_out * stride * 4];
            let mut row = vec![0.0; n_in];
            for (index, to) in bytes.chunks_exact_mut(stride * 4).enumerate() {
                tensor.decode_rows(index, &mut row);
                for (from, to) in row.iter().zip(to.chunks_exact_mut(4)) {
                    to.copy_from_slice(&from.to_le_bytes());
                }
            }
            self.device.upload(&memory, 0, &bytes)?;
        }
        Ok(Weight { numbers: Numbers::Wide { memory, n_out, n_in, stride }, turned: None })
    }

    /// Quants and scales of a tensor, into their places in `memory`.
    fn fill(
        &self,
        tensor: &Tensor,
        layout: &Layout,
        memory: &Memory,
        quants_at: usize,
        scales_at: usize,
    ) -> Result<()> {
        if self.device.is_account() {
            return Ok(());
        }
        let (dtype, dim, row_bytes) = (self.dtype(tensor), tensor.dim(), layout.planes.row_bytes);
        let is_packed = layout.format != Format::Bf16 || dtype == DType::Bf16;
        if layout.format == Format::Bf16 && tensor.dtype == DType::Bf16 && dim * 2 == row_bytes {
            return self.device.upload(memory, quants_at, &tensor.bytes);
        }
        // Whole blocks of 128 rows, so that 8-bit floats are encoded with theirs.
        let rows = (CHUNK_BYTES / (dim * 4).max(1)).next_multiple_of(128);
        let mut scales = vec![0u8; layout.planes.scale_bytes];
        let (mut quants, mut values) = (Vec::new(), Vec::new());
        let stored = tensor.dtype.row_bytes(dim).unwrap_or(0);
        for first in (0..layout.n_out).step_by(rows) {
            let n = rows.min(layout.n_out - first);
            if is_packed && tensor.dtype == dtype {
                let bytes = &tensor.bytes[first * stored..(first + n) * stored];
                pack::rows(layout, bytes, first, &mut quants, &mut scales);
            } else if is_packed {
                let encoded = tensor.encode_rows(first, n, dtype)?;
                pack::rows(layout, &encoded.bytes, first, &mut quants, &mut scales);
                let at = (first / 128 * layout.planes.scale_stride * 4).min(scales.len());
                for (to, scale) in scales[at..].chunks_exact_mut(4).zip(&encoded.scales) {
                    to.copy_from_slice(&scale.to_le_bytes());
                }
            } else {
                values.resize(n * dim, 0.0);
                tensor.decode_rows(first, &mut values);
                pack::bf16_rows(&values, dim, row_bytes, &mut quants);
            }
            self.device.upload(memory, quants_at + first * row_bytes, &quants)?;
        }
        if let (Format::Fp8, Some(factors), true) =
            (layout.format, &tensor.scales, tensor.dtype == dtype)
        {
            scales.copy_from_slice(&factors.bytes);
        }
        self.device.upload(memory, scales_at, &scales)
    }

    /// The first `used` of each head's `rows` rows, turned round head by head.
    fn turn(&self, tensor: &Tensor, layout: Layout, rows: usize, used: usize) -> Result<Plane> {
        let plane = Plane::new(self.device, layout)?;
        if self.device.is_account() {
            return Ok(plane);
        }
        let dim = tensor.dim();
        let mut values = vec![0.0; used * dim];
        let (mut turned, mut quants) = (Vec::new(), Vec::new());
        for head in 0..self.shape.n_head {
            tensor.decode_rows(head * rows, &mut values);
            pack::turned(&values, used, dim, &mut turned);
            pack::bf16_rows(&turned, used, layout.planes.row_bytes, &mut quants);
            self.device.upload(&plane.memory, head * dim * layout.planes.row_bytes, &quants)?;
        }
        Ok(plane)
    }

    /// A layer's experts; `done(bytes)` after each matrix.
    pub(super) fn experts(
        &self,
        tensors: &ExpertWeights<Tensor>,
        done: &mut dyn FnMut(usize),
    ) -> Result<Experts> {
        // One product computes both halves.
        let halves = self.common(tensors.gate.iter().chain(&tensors.up));
        let down = self.common(tensors.down.iter());
        Ok(Experts {
            n_expert: tensors.gate.len(),
            gate: self.stack(&tensors.gate, halves, done)?,
            up: self.stack(&tensors.up, halves, done)?,
            down: self.stack(&tensors.down, down, done)?,
        })
    }

    /// The format that all of them have; bf16, which all can have, where they differ.
    fn common<'t>(&self, tensors: impl Iterator<Item = &'t Tensor>) -> Format {
        let mut formats = tensors.map(|tensor| pack::format_of(tensor, self.dtype(tensor)));
        let first = formats.next().unwrap_or(Format::Bf16);
        if formats.all(|format| format == first) { first } else { Format::Bf16 }
    }

    fn stack(
        &self,
        tensors: &[Tensor],
        format: Format,
        done: &mut dyn FnMut(usize),
    ) -> Result<Stack> {
        let (n_out, n_in) = tensors.first().map_or((0, 0), |one| (one.n_row(), one.dim()));
        let layout = Layout::new(format, n_out, n_in)?;
        let n_expert = tensors.len();
        let quant_bytes = layout.planes.quant_bytes.next_multiple_of(PLANE_BYTES);
        let scale_bytes = layout.planes.scale_bytes.next_multiple_of(PLANE_BYTES);
        let each = quant_bytes + scale_bytes;
        let memory = self.device.room(n_expert * each)?;
        for (expert, tensor) in tensors.iter().enumerate() {
            let at = expert * each;
            self.fill(tensor, &layout, &memory, at, at + quant_bytes)?;
            done(tensor.stored_bytes());
        }
        let base = memory.at::<u8>() as u64;
        let quants = (0..n_expert).map(|expert| base + (expert * each) as u64);
        let scales = (0..n_expert).map(|expert| base + (expert * each + quant_bytes) as u64);
        let table: Vec<u8> = quants.chain(scales).flat_map(u64::to_le_bytes).collect();
        let table_memory = self.device.room(table.len())?;
        self.device.upload(&table_memory, 0, &table)?;
        Ok(Stack { _memory: memory, table: table_memory, n_expert, layout })
    }
}
