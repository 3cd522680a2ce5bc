//! Every integration test, one binary.

mod http;
mod model;
mod text;
