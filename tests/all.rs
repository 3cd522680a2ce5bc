//! Every integration test, one binary.

mod model;
mod text;
