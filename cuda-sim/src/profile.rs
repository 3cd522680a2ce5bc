//! The four cards: published limits that kernel selection and launches depend on.
//!
//! Numbers are from the CUDA programming guide's table of compute capabilities and the cards' data sheets. They describe
//! what a driver reports, and are no evidence about a card's speed.

/// A card as a driver reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Short name, as the configuration spells it.
    pub key: &'static str,
    /// What `cuDeviceGetName` says. It names the simulation, so that no report can be taken for a measurement.
    pub name: &'static str,
    /// Compute capability.
    pub major: u32,
    /// Compute capability, minor.
    pub minor: u32,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory a multiprocessor has.
    pub shared_per_sm_bytes: u32,
    /// Shared memory a block may have after opting in.
    pub shared_optin_bytes: u32,
    /// Threads a multiprocessor holds.
    pub threads_per_sm: u32,
    /// Blocks a multiprocessor holds.
    pub blocks_per_sm: u32,
    /// Second-level cache.
    pub l2_bytes: u32,
    /// Memory bus in bits.
    pub bus_bits: u32,
    /// Memory clock in kHz.
    pub memory_khz: u32,
    /// Core clock in kHz.
    pub clock_khz: u32,
}

/// Shared memory a block may have without asking, on every card.
pub const SHARED_DEFAULT_BYTES: u32 = 48 << 10;
/// Shared memory the driver keeps for itself in every block.
pub const SHARED_RESERVED_BYTES: u32 = 1 << 10;
/// Threads of a block, and the longest x and y of it.
pub const BLOCK_THREADS_MAX: u32 = 1024;
/// Longest z of a block.
pub const BLOCK_Z_MAX: u32 = 64;
/// Longest y and z of a grid.
pub const GRID_YZ_MAX: u32 = 65_535;
/// Longest x of a grid.
pub const GRID_X_MAX: u32 = i32::MAX as u32;
/// Bytes of a kernel's parameters.
pub const PARAM_BYTES_MAX: usize = 32_764;

/// The cards, oldest first.
pub const PROFILES: [Profile; 4] = [
    Profile {
        key: "a100",
        name: "A100 (simulated)",
        major: 8,
        minor: 0,
        memory_bytes: 80 << 30,
        multiprocessors: 108,
        shared_per_sm_bytes: 164 << 10,
        shared_optin_bytes: 163 << 10,
        threads_per_sm: 2048,
        blocks_per_sm: 32,
        l2_bytes: 40 << 20,
        bus_bits: 5120,
        memory_khz: 1_593_000,
        clock_khz: 1_410_000,
    },
    Profile {
        key: "rtx4090",
        name: "RTX 4090 (simulated)",
        major: 8,
        minor: 9,
        memory_bytes: 24 << 30,
        multiprocessors: 128,
        shared_per_sm_bytes: 100 << 10,
        shared_optin_bytes: 99 << 10,
        threads_per_sm: 1536,
        blocks_per_sm: 24,
        l2_bytes: 72 << 20,
        bus_bits: 384,
        memory_khz: 10_501_000,
        clock_khz: 2_520_000,
    },
    Profile {
        key: "h100",
        name: "H100 (simulated)",
        major: 9,
        minor: 0,
        memory_bytes: 80 << 30,
        multiprocessors: 132,
        shared_per_sm_bytes: 228 << 10,
        shared_optin_bytes: 227 << 10,
        threads_per_sm: 2048,
        blocks_per_sm: 32,
        l2_bytes: 50 << 20,
        bus_bits: 5120,
        memory_khz: 2_619_000,
        clock_khz: 1_980_000,
    },
    Profile {
        key: "rtx5090",
        name: "RTX 5090 (simulated)",
        major: 12,
        minor: 0,
        memory_bytes: 32 << 30,
        multiprocessors: 170,
        shared_per_sm_bytes: 100 << 10,
        shared_optin_bytes: 99 << 10,
        threads_per_sm: 1536,
        blocks_per_sm: 24,
        l2_bytes: 96 << 20,
        bus_bits: 512,
        memory_khz: 14_001_000,
        clock_khz: 2_407_000,
    },
];

impl Profile {
    /// The profile of a key.
    pub fn find(key: &str) -> Option<&'static Self> {
        PROFILES.iter().find(|profile| profile.key == key)
    }

    /// `80`, `89`, `90` or `120`.
    pub fn arch(&self) -> u32 {
        self.major * 10 + self.minor
    }
}
