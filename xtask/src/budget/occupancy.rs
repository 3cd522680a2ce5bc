//! How many blocks of a kernel a multiprocessor holds (CUDA programming guide, table of compute capabilities; the rules of
//! `cuda_occupancy.h`, which a test compares).

/// A target's multiprocessor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// As `ptxas` has it.
    pub(super) name: &'static str,
    /// The simulated card that runs its code, for geometry; `sm_86` takes `sm_89`'s.
    pub(super) card: &'static str,
    threads: u32,
    blocks: u32,
    shared_bytes: u32,
    shared_optin_bytes: u32,
}

const KIB: u32 = 1 << 10;

/// Every target that ships.
pub(super) const TARGETS: [Target; 5] = [
    target("sm_80", "a100", 2048, 32, [164, 163]),
    target("sm_86", "rtx4090", 1536, 16, [100, 99]),
    target("sm_89", "rtx4090", 1536, 24, [100, 99]),
    target("sm_90a", "h100", 2048, 32, [228, 227]),
    target("sm_120", "rtx5090", 1536, 24, [100, 99]),
];

const fn target(
    name: &'static str,
    card: &'static str,
    threads: u32,
    blocks: u32,
    [shared, optin]: [u32; 2],
) -> Target {
    Target {
        name,
        card,
        threads,
        blocks,
        shared_bytes: shared * KIB,
        shared_optin_bytes: optin * KIB,
    }
}

const WARP: u32 = 32;
/// A multiprocessor's registers lie in four parts, and a warp's in one of them, 256 at a time.
const PARTS: u32 = 4;
const PART_REGISTERS: u32 = 16 << 10;
const REGISTER_UNIT: u32 = 256;
/// Shared memory is given in units, after what the driver keeps of every block.
const SHARED_UNIT: u32 = 128;
const SHARED_RESERVED: u32 = KIB;

impl Target {
    /// Blocks of `threads` threads with `registers` each and `shared` bytes; 0 where not even one fits.
    pub(super) fn blocks(&self, threads: u32, registers: u32, shared: u32) -> u32 {
        if threads == 0 || shared > self.shared_optin_bytes {
            return 0;
        }
        let warps = threads.div_ceil(WARP);
        let by_threads = self.threads / WARP / warps;
        let warp_registers = (registers.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
        // A block's own warps are placed freely, but the card first checks them as if each part had the same number.
        if warp_registers * warps.next_multiple_of(PARTS) > PARTS * PART_REGISTERS {
            return 0;
        }
        let by_registers = PART_REGISTERS / warp_registers * PARTS / warps;
        let block_shared = (shared + SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
        let by_shared = self.shared_bytes / block_shared;
        by_threads.min(by_registers).min(by_shared).min(self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::process::Command;

    use super::*;

    #[track_caller]
    fn check(name: &str, launch: [u32; 3], blocks: u32) {
        let target = TARGETS.iter().find(|target| target.name == name).unwrap();
        assert_eq!(target.blocks(launch[0], launch[1], launch[2]), blocks);
    }

    #[test]
    fn each_resource_is_the_limit_once() {
        // Threads: 2048 / 256 and 1536 / 256.
        check("sm_80", [256, 32, 0], 8);
        check("sm_89", [256, 32, 0], 6);
        // Registers: 255 fill 8192 of a part's 16384, so two warps a part, eight in all.
        check("sm_80", [256, 255, 0], 1);
        check("sm_90a", [128, 255, 0], 2);
        // 64 registers are 2048 a warp: 32 warps.
        check("sm_80", [1024, 64, 0], 1);
        check("sm_80", [1024, 65, 0], 0);
        // Shared memory, with the driver's own.
        check("sm_80", [128, 32, 40 * KIB], 4);
        check("sm_120", [128, 32, 99 * KIB], 1);
        check("sm_120", [128, 32, 100 * KIB], 0);
        // Blocks.
        check("sm_86", [32, 32, 0], 16);
        check("sm_80", [32, 32, 0], 32);
    }

    /// NVIDIA's header, asked about many launches.
    const ASK: &str = r#"
#include <cstdio>
#include <cuda_occupancy.h>
int main() {
  int major, minor, threads_sm, shared_sm, optin, threads, regs, shared;
  while (scanf("%d %d %d %d %d %d %d %d", &major, &minor, &threads_sm, &shared_sm, &optin, &threads, &regs, &shared) == 8) {
    cudaOccDeviceProp p;
    p.computeMajor = major; p.computeMinor = minor; p.maxThreadsPerBlock = 1024; p.maxThreadsPerMultiprocessor = threads_sm;
    p.regsPerBlock = p.regsPerMultiprocessor = 65536; p.warpSize = 32; p.sharedMemPerBlock = 49152;
    p.sharedMemPerMultiprocessor = shared_sm; p.numSms = 1; p.sharedMemPerBlockOptin = optin; p.reservedSharedMemPerBlock = 1024;
    cudaOccFuncAttributes a;
    a.maxThreadsPerBlock = 1024; a.numRegs = regs; a.sharedSizeBytes = 0;
    a.partitionedGCConfig = PARTITIONED_GC_OFF; a.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN; a.maxDynamicSharedSizeBytes = optin;
    a.numBlockBarriers = 1;
    cudaOccDeviceState s;
    s.cacheConfig = CACHE_PREFER_SHARED; s.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult r;
    int status = cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &a, &s, threads, shared);
    printf("%d\n", status == CUDA_OCC_SUCCESS ? r.activeBlocksPerMultiprocessor : -status);
  }
}
"#;

    #[test]
    fn nvidias_own_header_says_the_same() {
        let include = crate::root().join(".cuda-toolchain/include");
        if !include.join("cuda_occupancy.h").exists() {
            println!("skipped: no toolkit");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("ask.cpp"), folder.path().join("ask"));
        std::fs::write(&source, ASK).unwrap();
        let mut made = Command::new("g++");
        made.arg("-I").arg(include).arg(source).arg("-o").arg(&program);
        assert!(made.status().unwrap().success());
        let (mut questions, mut own) = (String::new(), Vec::new());
        for target in &TARGETS {
            let arch = target.name.trim_start_matches("sm_").trim_end_matches('a');
            let (major, minor) = arch.split_at(arch.len() - 1);
            for threads in [32, 64, 96, 128, 160, 256, 288, 512, 1024] {
                for registers in [16, 32, 33, 40, 64, 72, 96, 128, 168, 255] {
                    for shared in [0, 1, 1000, 8192, 40_000, 50_000, 99 * KIB, 163 * KIB, 227 * KIB]
                    {
                        let [sm_threads, sm_shared, optin] =
                            [target.threads, target.shared_bytes, target.shared_optin_bytes];
                        writeln!(
                            questions,
                            "{major} {minor} {sm_threads} {sm_shared} {optin} {threads} {registers} {shared}"
                        )
                        .unwrap();
                        own.push(target.blocks(threads, registers, shared));
                    }
                }
            }
        }
        let file = folder.path().join("questions");
        std::fs::write(&file, &questions).unwrap();
        let input = std::fs::File::open(file).unwrap();
        let output = Command::new(program).stdin(input).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let answers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(answers.len(), own.len());
        for ((question, answer), own) in questions.lines().zip(answers).zip(own) {
            assert_eq!(own, answer, "of {question}");
        }
    }
}
