//! A card with one module, and arguments in the order of a kernel's parameters.

use std::sync::Arc;

use cuda_sim::{Counters, Device, Error, Grid, Loaded, Module, Profile};

/// A card that has loaded one PTX text.
pub(crate) struct Card {
    pub(crate) device: Device,
    loaded: Loaded,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Arg {
    Pointer(u64),
    U32(u32),
    F32(f32),
}

impl Card {
    pub(crate) fn new(ptx: &str) -> Self {
        let mut device = Device::new(Profile::find("a100").unwrap());
        let module = Module::parse(ptx).unwrap();
        let loaded = device.load(Arc::new(module)).unwrap();
        Self { device, loaded }
    }

    pub(crate) fn upload<T: Bytes>(&mut self, values: &[T]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.bytes()).collect();
        self.device.upload(&bytes).unwrap()
    }

    pub(crate) fn download<T: Bytes>(&mut self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * size_of::<T>()];
        self.device.read(address, &mut bytes).unwrap();
        bytes.chunks_exact(size_of::<T>()).map(T::of).collect()
    }

    pub(crate) fn launch(
        &mut self,
        name: &str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<Counters, Error> {
        let mut function = self.loaded.function(name).unwrap();
        function.dynamic_shared_max = 64 << 10;
        let size = function.params().iter().map(|(at, bytes)| at + bytes).max().unwrap_or(0);
        let mut params = vec![0; size];
        assert_eq!(function.params().len(), args.len());
        for ((at, _), arg) in function.params().iter().zip(args) {
            match arg {
                Arg::Pointer(value) => params[*at..at + 8].copy_from_slice(&value.to_le_bytes()),
                Arg::U32(value) => params[*at..at + 4].copy_from_slice(&value.to_le_bytes()),
                Arg::F32(value) => params[*at..at + 4].copy_from_slice(&value.to_le_bytes()),
            }
        }
        self.device.launch(&function, grid, &params)
    }
}

/// Plain values as bytes.
pub(crate) trait Bytes: Copy {
    fn bytes(self) -> Vec<u8>;
    fn of(bytes: &[u8]) -> Self;
}

macro_rules! bytes {
    ($($t:ty),+) => {
        $(impl Bytes for $t {
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn of(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap())
            }
        })+
    };
}
bytes!(u8, u16, u32, i32, f32);

/// Nearest bf16, by adding half of what is cut; no NaN comes here.
pub(crate) fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

pub(crate) fn from_bf16(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// Seeded values in [-1, 1).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next_u32(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as u32
    }

    pub(crate) fn next_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}
