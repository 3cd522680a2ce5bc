//! Which pages of the latent cache belong to whom. Knows no backend: deals in [`crate::PageId`] alone.

pub mod pages;
