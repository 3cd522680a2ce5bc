//! The driver under the crate that the backend uses for a real one, unchanged: it finds the library by its name.

mod order;
mod session;
mod trouble;
mod work;
