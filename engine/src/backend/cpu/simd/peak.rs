//! What the processor can do at most: loops of one instruction, and memory that is read and nothing else.
//!
//! Not used by any operation. Each call does a known amount of work; whoever calls has the clock and the threads, and
//! so gets the rates that a measured speed is a share of. Sums are kept in as many registers as the latency of an
//! instruction times its throughput wants, so that no sum waits for itself.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::hint::black_box;

/// An instruction that models are computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 multiply and add: the widest this processor has.
    F32,
    /// `vdpbf16ps`, 512 bits: bf16 in pairs.
    Bf16,
    /// `vpdpbusd`, 512 bits, or 256 where there are no more: bytes in fours.
    Int8,
    /// `tdpbf16ps`: tiles of bf16.
    AmxBf16,
    /// `tdpbusd`: tiles of bytes.
    AmxInt8,
}

impl Arithmetic {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::F32, Self::Bf16, Self::Int8, Self::AmxBf16, Self::AmxInt8];

    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::AmxBf16 => "amx-bf16",
            Self::AmxInt8 => "amx-int8",
        }
    }

    /// Multiplies and adds on this thread, `rounds` times around a loop; the multiplications and additions done, a
    /// fused one counted as two. `None`: this processor does not have the instruction.
    pub fn work(self, rounds: usize) -> Option<u64> {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: each loop is called where the processor has its instructions.
        unsafe {
            use x86::{amx_bf16, amx_int8, bf16, f32_avx2, f32_avx512, int8, int8_avx};
            let avx512 = is_x86_feature_detected!("avx512f");
            match self {
                Self::F32 if avx512 => return Some(f32_avx512(rounds)),
                Self::F32 if is_x86_feature_detected!("fma") => return Some(f32_avx2(rounds)),
                Self::F32 => {}
                Self::Bf16 => {
                    let has = avx512 && is_x86_feature_detected!("avx512bf16");
                    return has.then(|| bf16(rounds));
                }
                Self::Int8 => {
                    if avx512 && is_x86_feature_detected!("avx512vnni") {
                        return Some(int8(rounds));
                    }
                    return is_x86_feature_detected!("avxvnni").then(|| int8_avx(rounds));
                }
                Self::AmxBf16 => return super::amx::is_available().then(|| amx_bf16(rounds)),
                Self::AmxInt8 => {
                    let has = super::amx::is_available() && x86::has_amx_int8();
                    return has.then(|| amx_int8(rounds));
                }
            }
        }
        (self == Self::F32).then(|| f32_portable(rounds))
    }
}

/// Sums that the compiler makes the best of.
fn f32_portable(rounds: usize) -> u64 {
    const SUMS: usize = 64;
    let mut sums = [0.0f32; SUMS];
    let (a, b) = (black_box(0.5f32), black_box(0.25f32));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = *sum * a + b;
        }
    }
    black_box(sums);
    (rounds * SUMS * 2) as u64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __cpuid_count, __m256, __m256i, __m512, __m512i, _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps,
        _mm256_set1_epi8, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256,
        _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_set1_epi8, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_setzero_si512,
    };
    use std::hint::black_box;

    /// Registers of sums: 24 of 32, and 12 of 16.
    const SUMS: usize = 24;
    const SUMS_AVX2: usize = 12;

    /// # Safety
    /// AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn f32_avx512(rounds: usize) -> u64 {
        let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(0.25)));
        let mut sums: [__m512; SUMS] = [_mm512_setzero_ps(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
        (rounds * SUMS * 16 * 2) as u64
    }

    /// # Safety
    /// AVX and FMA.
    #[target_feature(enable = "avx,fma")]
    pub(super) unsafe fn f32_avx2(rounds: usize) -> u64 {
        let (a, b) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(0.25)));
        let mut sums: [__m256; SUMS_AVX2] = [_mm256_setzero_ps(); SUMS_AVX2];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
        (rounds * SUMS_AVX2 * 8 * 2) as u64
    }

    /// # Safety
    /// AVX-512 F and BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn bf16(rounds: usize) -> u64 {
        use std::arch::x86_64::{__m512bh, _mm512_dpbf16_ps};
        // Pairs of 0.5: 0x3f00 twice.
        // SAFETY: 64 bytes that may hold anything.
        let half: __m512bh = unsafe { std::mem::transmute([0x3f00_u16; 32]) };
        let (a, b) = (black_box(half), black_box(half));
        let mut sums: [__m512; SUMS] = [_mm512_setzero_ps(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
        (rounds * SUMS * 32 * 2) as u64
    }

    /// # Safety
    /// AVX-512 F and VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn int8(rounds: usize) -> u64 {
        let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(-5)));
        let mut sums: [__m512i; SUMS] = [_mm512_setzero_si512(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        (rounds * SUMS * 64 * 2) as u64
    }

    /// # Safety
    /// AVX-VNNI.
    #[target_feature(enable = "avx,avxvnni")]
    pub(super) unsafe fn int8_avx(rounds: usize) -> u64 {
        let (a, b) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(-5)));
        let mut sums: [__m256i; SUMS_AVX2] = [_mm256_setzero_si256(); SUMS_AVX2];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        (rounds * SUMS_AVX2 * 32 * 2) as u64
    }

    /// Whether the processor has tiles of bytes.
    pub(super) fn has_amx_int8() -> bool {
        __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & (1 << 25) != 0
    }

    /// Four sums, two tiles of weights, two of inputs, as in `simd/amx.rs`: each tile takes part in two products.
    macro_rules! tiles {
        ($name:ident, $instruction:literal, $per_lane:literal) => {
            /// # Safety
            /// The processor has the tiles, and the process may use them.
            pub(super) unsafe fn $name(rounds: usize) -> u64 {
                // SAFETY: the caller's promise; tiles are no state the compiler knows of.
                unsafe {
                    super::super::amx::configure(16);
                    asm!(
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "tilezero tmm2",
                        "tilezero tmm3",
                        "tilezero tmm4",
                        "tilezero tmm5",
                        "tilezero tmm6",
                        "tilezero tmm7",
                        options(nostack, nomem)
                    );
                    for _ in 0..rounds {
                        asm!(
                            concat!($instruction, " tmm0, tmm4, tmm6"),
                            concat!($instruction, " tmm1, tmm4, tmm7"),
                            concat!($instruction, " tmm2, tmm5, tmm6"),
                            concat!($instruction, " tmm3, tmm5, tmm7"),
                            options(nostack, nomem)
                        );
                    }
                    asm!("tilerelease", options(nostack, nomem));
                }
                // 16 x 16 sums, 16 lanes deep.
                (rounds * 4 * 16 * 16 * 16 * $per_lane * 2) as u64
            }
        };
    }
    tiles!(amx_bf16, "tdpbf16ps", 2);
    tiles!(amx_int8, "tdpbusd", 4);
}

/// What memory is mapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB: what a mapped file is read through.
    Small,
    /// 2 MiB, where the system gives them.
    Huge,
}

/// A huge page.
const HUGE_BYTES: usize = 2 << 20;

/// Memory to be read; every page of it is there.
pub struct Memory {
    at: *mut u8,
    layout: Layout,
}

// SAFETY: written by `new` alone, read only after.
unsafe impl Sync for Memory {}
// SAFETY: as above; it is nobody else's.
unsafe impl Send for Memory {}

impl Memory {
    /// `bytes` of it, rounded up to whole huge pages.
    pub fn new(bytes: usize, pages: Pages) -> Self {
        let bytes = bytes.max(1).div_ceil(HUGE_BYTES) * HUGE_BYTES;
        let layout = Layout::from_size_align(bytes, HUGE_BYTES);
        // A size above half the address space: no such memory, so as little as there can be.
        let layout = layout.unwrap_or(Layout::new::<[u64; 8]>());
        // SAFETY: the size is not zero. Not zeroed: that would touch the pages before the system knows which are wanted.
        let at = unsafe { alloc(layout) };
        if at.is_null() {
            handle_alloc_error(layout);
        }
        let memory = Self { at, layout };
        advise(memory.at, layout.size(), pages);
        // SAFETY: the whole of it is ours. Not zero, so that no page is the system's page of zeroes.
        unsafe { memory.at.write_bytes(1, layout.size()) };
        memory
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.layout.size()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.layout.size() == 0
    }

    /// Reads part `part` of `of` equal ones once, on this thread; the bytes read.
    pub fn read(&self, part: usize, of: usize) -> u64 {
        let lines = self.len() / LINES / of.max(1);
        if part >= of || lines == 0 {
            return 0;
        }
        // SAFETY: parts lie one behind the other inside the memory.
        unsafe { sum(self.at.add(part * lines * LINES), lines) };
        (lines * LINES) as u64
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made with this layout.
        unsafe { dealloc(self.at, self.layout) };
    }
}

/// Says which pages are wanted, before the first is touched. Where the system does not listen, it chooses.
fn advise(at: *mut u8, bytes: usize, pages: Pages) {
    #[cfg(target_os = "linux")]
    {
        let advice = match pages {
            Pages::Small => libc::MADV_NOHUGEPAGE,
            Pages::Huge => libc::MADV_HUGEPAGE,
        };
        // SAFETY: advice about memory that is ours; it changes no content.
        unsafe { libc::madvise(at.cast(), bytes, advice) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (at, bytes, pages);
}

/// Bytes read a turn: four cache lines.
const LINES: usize = 256;

/// Reads `turns` times [`LINES`].
///
/// # Safety
/// `at` is valid for all of them.
unsafe fn sum(at: *const u8, turns: usize) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has it; the rest is the caller's promise.
        return unsafe { sum_avx512(at, turns) };
    }
    let mut sums = [0u64; LINES / 8];
    for turn in 0..turns {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *sum |= unsafe { at.add(turn * LINES + i * 8).cast::<u64>().read_unaligned() };
        }
    }
    black_box(sums);
}

/// [`sum`] in whole cache lines, asked for some pages' lines ahead: the processor's own prefetch ends at a small page.
///
/// # Safety
/// As [`sum`]; AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn sum_avx512(at: *const u8, turns: usize) {
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm512_loadu_si512, _mm512_or_si512, _mm512_setzero_si512,
    };
    const AHEAD: usize = 4096;
    let mut sums = [_mm512_setzero_si512(); 4];
    for turn in 0..turns {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise; a prefetch may name any address.
            unsafe {
                let line = at.add(turn * LINES + i * 64);
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD).cast());
                *sum = _mm512_or_si512(*sum, _mm512_loadu_si512(line.cast()));
            }
        }
    }
    black_box(sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_does_the_work_it_counts_or_is_not_there() {
        for arithmetic in Arithmetic::ALL {
            let (one, ten) = (arithmetic.work(1), arithmetic.work(10));
            assert_eq!(one.map(|n| n * 10), ten, "{arithmetic:?}");
            assert!(one.is_none_or(|n| n > 0), "{arithmetic:?}");
        }
        assert!(Arithmetic::F32.work(1).is_some(), "every processor multiplies");
    }

    #[test]
    fn parts_of_memory_make_the_whole() {
        for pages in [Pages::Small, Pages::Huge] {
            let memory = Memory::new(3 << 20, pages);
            assert_eq!(memory.len(), 4 << 20);
            assert!(!memory.is_empty());
            assert_eq!(memory.read(0, 1), 4 << 20);
            assert_eq!((0..4).map(|part| memory.read(part, 4)).sum::<u64>(), 4 << 20);
            assert!((0..3).map(|part| memory.read(part, 3)).sum::<u64>() <= 4 << 20);
            assert_eq!(memory.read(3, 3), 0, "no such part");
        }
    }
}
