//! One test a family.

use hadal_kernels::geometry::fits;
use hadal_kernels::{Card, Family, HAVE_TEST_KERNELS, Kernel, check};

use crate::sim::SimCard;

/// Every check of a family on every card; each of its kernels has run in the end.
#[track_caller]
fn run(family: Family) {
    if !HAVE_TEST_KERNELS {
        println!(
            "skipped: this build has no test images; tools/cuda-toolchain.sh installs a compiler"
        );
        return;
    }
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
fn linear() {
    run(Family::Linear);
}

#[test]
fn experts() {
    run(Family::Experts);
}

#[test]
fn head_linear() {
    run(Family::HeadLinear);
}

#[test]
fn mla_decode() {
    run(Family::MlaDecode);
}

#[test]
fn mla_prefill() {
    run(Family::MlaPrefill);
}

#[test]
fn rms_norm() {
    run(Family::RmsNorm);
}

#[test]
fn embed() {
    run(Family::Embed);
}

#[test]
fn rope() {
    run(Family::Rope);
}

#[test]
fn cache_store() {
    run(Family::CacheStore);
}

#[test]
fn swiglu() {
    run(Family::Swiglu);
}

#[test]
fn gather_rows() {
    run(Family::GatherRows);
}

#[test]
fn page_copy() {
    run(Family::PageCopy);
}

#[test]
fn route() {
    run(Family::Route);
}

#[test]
fn sample() {
    run(Family::Sample);
}
