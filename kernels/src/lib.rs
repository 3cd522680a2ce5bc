//! CUDA kernels: their images, names, parameters and geometry, and the checks that hold them to float64.
//!
//! A leaf: it knows no model, no engine and no driver. The sources are in `cuda/`, one *family* a file; `include/<family>.h`
//! is a family's whole interface and [`abi`] its Rust face. Whoever has a card implements [`card::Card`] and can run every
//! check of [`check::all`] on it: the tests here do so on simulated ones.
//!
//! ```text
//! abi        parameter structs, generated from include/*.h
//! kernel     the kernels by name, the families' images
//! geometry   grid, threads and shared memory of a launch, as functions of shape and card
//! card       what a check asks of a card
//! check      cases and float64 oracles, one family a file
//! ```

pub mod abi;
pub mod card;
pub mod check;
mod format;
pub mod geometry;
mod kernel;

pub use card::{Caps, Card, Failure, Params, Result};
pub use format::{Format, Planes, SEGMENT};
pub use geometry::Grid;
pub use kernel::{Family, Kernel, image};

/// Bytes at an address that any type of a driver may be read from.
#[cfg(have_kernels)]
#[repr(C, align(64))]
pub(crate) struct Aligned<T: ?Sized>(pub(crate) T);

/// Whether this build has images at all.
pub const HAVE_KERNELS: bool = cfg!(have_kernels);
/// Whether the images hold every target's PTX as plain text, which the simulated card needs.
pub const HAVE_TEST_KERNELS: bool = cfg!(have_test_kernels);
/// Rows of the latent cache in one page.
pub const PAGE_TOKENS: usize = 64;
