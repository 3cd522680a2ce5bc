//! The simulated card, as the checks see a card.

use std::collections::HashMap;
use std::sync::Arc;

use cuda_sim::{Counters, Device, Loaded, Module, PROFILES, Profile, image_ptx};
use hadal_kernels::{Caps, Card, Failure, Family, Grid, Kernel, Result, image};

/// One simulated card. Images are loaded when a kernel of theirs is first launched.
pub(crate) struct SimCard {
    device: Device,
    images: HashMap<Family, Loaded>,
    /// What the launches of each kernel did.
    pub(crate) counters: HashMap<Kernel, Counters>,
    /// Geometry of each kernel's last launch.
    pub(crate) grids: HashMap<Kernel, Grid>,
}

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure(error.to_string())
}

impl SimCard {
    pub(crate) fn new(profile: &'static Profile) -> Self {
        Self {
            device: Device::new(profile),
            images: HashMap::new(),
            counters: HashMap::new(),
            grids: HashMap::new(),
        }
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        PROFILES.iter().map(Self::new)
    }

    pub(crate) fn key(&self) -> &'static str {
        self.device.profile().key
    }

    /// Takes a family's kernels from another text.
    pub(crate) fn replace(&mut self, family: Family, ptx: &str) {
        let module = Module::parse(ptx).unwrap();
        let loaded = self.device.load(Arc::new(module)).unwrap();
        self.images.insert(family, loaded);
    }

    fn loaded(&mut self, family: Family) -> Result<&Loaded> {
        if !self.images.contains_key(&family) {
            let ptx = image_ptx(image(family), self.device.profile().arch()).map_err(failure)?;
            let module = Module::parse(&ptx).map_err(failure)?;
            let loaded = self.device.load(Arc::new(module)).map_err(failure)?;
            self.images.insert(family, loaded);
        }
        self.images.get(&family).ok_or_else(|| failure("no image"))
    }
}

impl Card for SimCard {
    fn caps(&self) -> Caps {
        let profile = self.device.profile();
        Caps {
            arch: profile.arch(),
            multiprocessors: profile.multiprocessors,
            shared_optin_bytes: profile.shared_optin_bytes,
        }
    }

    fn alloc(&mut self, bytes: usize) -> Result<u64> {
        self.device.alloc(bytes as u64).map_err(failure)
    }

    fn free(&mut self, at: u64) -> Result<()> {
        self.device.free(at).map_err(failure)
    }

    fn upload(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.device.write(at, bytes).map_err(failure)
    }

    fn download(&mut self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.device.read(at, bytes).map_err(failure)
    }

    unsafe fn launch(&mut self, kernel: Kernel, grid: Grid, params: &[u8]) -> Result<()> {
        let entry = kernel.entry();
        let mut function = self
            .loaded(kernel.family())?
            .function(entry)
            .ok_or_else(|| failure(format!("no kernel `{entry}`")))?;
        function.dynamic_shared_max = grid.shared_bytes;
        self.grids.insert(kernel, grid);
        let grid = cuda_sim::Grid {
            blocks: grid.blocks,
            threads: [grid.threads, 1, 1],
            shared_bytes: grid.shared_bytes,
        };
        let counters = self.device.launch(&function, grid, params).map_err(failure)?;
        self.counters.entry(kernel).or_default().add(&counters);
        Ok(())
    }
    /// Runs them and has no clock: half a second, whatever the launch.
    unsafe fn time(
        &mut self,
        kernel: Kernel,
        grid: Grid,
        params: &[u8],
        n: u32,
    ) -> Result<Option<f64>> {
        // SAFETY: the caller's promise.
        (0..n).try_for_each(|_| unsafe { self.launch(kernel, grid, params) })?;
        Ok(Some(0.5))
    }
}
