//! A card: memory, loaded modules, launches within its limits.

use std::collections::HashMap;
use std::sync::Arc;

use crate::exec::{Checks, Grid, run_launch};
use crate::fault::{Error, Result};
use crate::memory::Memory;
use crate::profile::{
    BLOCK_THREADS_MAX, BLOCK_Z_MAX, GRID_X_MAX, GRID_YZ_MAX, Profile, SHARED_DEFAULT_BYTES,
};
use crate::ptx::{Kernel, Module};
use crate::{Counters, exec};

/// A simulated card.
#[derive(Debug)]
pub struct Device {
    profile: &'static Profile,
    pub(crate) memory: Memory,
    /// How launches run.
    pub checks: Checks,
}

/// A module on a card: its variables have addresses.
#[derive(Debug, Clone)]
pub struct Loaded {
    module: Arc<Module>,
    globals: HashMap<String, u64>,
}

/// A kernel of a loaded module.
#[derive(Debug, Clone)]
pub struct Function {
    pub(crate) kernel: Arc<Kernel>,
    globals: HashMap<String, u64>,
    /// Shared memory that a launch may add, as the attribute of the same name sets it.
    pub dynamic_shared_max: u32,
}

impl Device {
    /// A card of a profile, with all its memory free.
    pub fn new(profile: &'static Profile) -> Self {
        Self { profile, memory: Memory::new(profile.memory_bytes), checks: Checks::default() }
    }

    /// A card of a profile with less memory than it has.
    pub fn with_memory(profile: &'static Profile, bytes: u64) -> Self {
        Self { memory: Memory::new(bytes), ..Self::new(profile) }
    }

    /// The card's profile.
    pub fn profile(&self) -> &'static Profile {
        self.profile
    }

    /// Takes memory. It is not zeroed: a kernel that reads it is at fault.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64> {
        self.memory.alloc(bytes)
    }

    /// Gives memory back.
    pub fn free(&mut self, address: u64) -> Result<()> {
        self.memory.free(address)
    }

    /// Memory with these bytes.
    pub fn upload(&mut self, bytes: &[u8]) -> Result<u64> {
        let address = self.alloc(bytes.len() as u64)?;
        self.write(address, bytes)?;
        Ok(address)
    }

    /// Copies to the card.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.memory
            .write(address, bytes)
            .map_err(|(kind, what)| Error::Invalid(format!("{kind:?}: {what}")))
    }

    /// Copies from the card.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.memory
            .read(address, bytes)
            .map_err(|(kind, what)| Error::Invalid(format!("{kind:?}: {what}")))
    }

    /// Gives a module's variables their memory and first values.
    pub fn load(&mut self, module: Arc<Module>) -> Result<Loaded> {
        let mut globals = HashMap::new();
        for global in &module.globals {
            let address = self.alloc(global.bytes.max(1))?;
            globals.insert(global.name.clone(), address);
        }
        for global in &module.globals {
            let mut bytes = global.initial.clone();
            bytes.resize(global.bytes.max(1) as usize, 0);
            for (at, name) in &global.addresses {
                let Some(address) = globals.get(name) else {
                    return Err(Error::Invalid(format!(
                        "variable `{}` points to `{name}`",
                        global.name
                    )));
                };
                if let Some(place) = bytes.get_mut(*at..*at + 8) {
                    place.copy_from_slice(&address.to_le_bytes());
                }
            }
            self.write(globals[&global.name], &bytes)?;
        }
        Ok(Loaded { module, globals })
    }

    /// Takes a module's variables away.
    pub fn unload(&mut self, loaded: &Loaded) -> Result<()> {
        loaded.globals.values().try_for_each(|address| self.free(*address))
    }

    /// Holds a launch against the card's limits.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the limit and what was asked for.
    pub fn check_launch(&self, function: &Function, grid: Grid, param_bytes: usize) -> Result<()> {
        let kernel = &function.kernel;
        let refuse =
            |what: String| Err(Error::Invalid(format!("launch of `{}`: {what}", kernel.name)));
        let ([x, y, z], [tx, ty, tz]) = (grid.blocks, grid.threads);
        if x == 0 || y == 0 || z == 0 || x > GRID_X_MAX || y > GRID_YZ_MAX || z > GRID_YZ_MAX {
            return refuse(format!(
                "a grid of {x} x {y} x {z} blocks; y and z end at {GRID_YZ_MAX}"
            ));
        }
        let threads = u64::from(tx) * u64::from(ty) * u64::from(tz);
        if threads == 0 || threads > u64::from(BLOCK_THREADS_MAX) || tz > BLOCK_Z_MAX {
            return refuse(format!(
                "a block of {tx} x {ty} x {tz} threads; {BLOCK_THREADS_MAX} are the most"
            ));
        }
        if let Some(max) = kernel.threads_max
            && threads > u64::from(max)
        {
            return refuse(format!("{threads} threads, the kernel is compiled for {max}"));
        }
        if let Some(wanted) = kernel.threads_required
            && wanted != grid.threads
        {
            return refuse(format!(
                "a block of {tx} x {ty} x {tz}, the kernel is compiled for {wanted:?}"
            ));
        }
        let shared = u64::from(kernel.shared_bytes) + u64::from(grid.shared_bytes);
        let limit = function.dynamic_shared_max.max(SHARED_DEFAULT_BYTES);
        if shared > u64::from(self.profile.shared_optin_bytes)
            || shared > u64::from(limit) + u64::from(kernel.shared_bytes)
        {
            return refuse(format!(
                "{shared} bytes of shared memory, {limit} are opted into, {} are the card's most",
                self.profile.shared_optin_bytes
            ));
        }
        if function.dynamic_shared_max < SHARED_DEFAULT_BYTES
            && shared > u64::from(SHARED_DEFAULT_BYTES)
        {
            return refuse(format!(
                "{shared} bytes of shared memory, {SHARED_DEFAULT_BYTES} without opting in"
            ));
        }
        if param_bytes != kernel.param_bytes {
            return refuse(format!(
                "{param_bytes} bytes of parameters, the kernel takes {}",
                kernel.param_bytes
            ));
        }
        Ok(())
    }

    /// Runs a kernel to its end.
    ///
    /// `params` are the parameters' bytes as the kernel lays them out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a launch that the card does not take, [`Error::Fault`] for what the kernel did wrong.
    pub fn launch(&mut self, function: &Function, grid: Grid, params: &[u8]) -> Result<Counters> {
        self.check_launch(function, grid, params.len())?;
        let launch = exec::Launch {
            kernel: &function.kernel,
            grid,
            params,
            checks: self.checks,
            globals: &function.globals,
        };
        run_launch(&launch, &mut self.memory)
    }
}

impl Loaded {
    /// A kernel by its name.
    pub fn function(&self, name: &str) -> Option<Function> {
        let kernel = self.module.kernels.get(name)?.clone();
        Some(Function { kernel, globals: self.globals.clone(), dynamic_shared_max: 0 })
    }

    /// Address and bytes of a module variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        let bytes = self.module.globals.iter().find(|global| global.name == name)?.bytes;
        Some((*self.globals.get(name)?, bytes))
    }
}

impl Function {
    /// Offset and bytes of each parameter.
    pub fn params(&self) -> &[(usize, usize)] {
        &self.kernel.params
    }
}
