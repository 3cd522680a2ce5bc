//! One test a family.

use hadal_kernels::geometry::fits;
use hadal_kernels::{Card, Family, Kernel, check};

use crate::sim::SimCard;

/// Every check of a family on every card; each of its kernels has run in the end.
#[track_caller]
fn run(family: Family) {
    let checks: Vec<_> = check::all().into_iter().filter(|check| check.family == family).collect();
    for mut card in SimCard::all() {
        for check in &checks {
            if let Err(failure) = check.run(&mut card) {
                panic!("{}, {}, {}: {failure}", family.name(), card.key(), check.name);
            }
        }
        let here = |kernel: &&Kernel| kernel.family() == family && fits(**kernel, &card.caps());
        for kernel in Kernel::ALL.iter().filter(here) {
            assert!(card.counters.contains_key(kernel), "no check runs `{}`", kernel.entry());
        }
    }
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn linear() {
    run(Family::Linear);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn experts() {
    run(Family::Experts);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn head_linear() {
    run(Family::HeadLinear);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn mla_decode() {
    run(Family::MlaDecode);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn mla_prefill() {
    run(Family::MlaPrefill);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn rms_norm() {
    run(Family::RmsNorm);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn embed() {
    run(Family::Embed);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn rope() {
    run(Family::Rope);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn cache_store() {
    run(Family::CacheStore);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn swiglu() {
    run(Family::Swiglu);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn gather_rows() {
    run(Family::GatherRows);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn page_copy() {
    run(Family::PageCopy);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn route() {
    run(Family::Route);
}

#[test]
#[cfg_attr(not(have_test_kernels), ignore = "no test images: tools/cuda-toolchain.sh makes nvcc")]
fn sample() {
    run(Family::Sample);
}
