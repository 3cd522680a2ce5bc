//! Every integration test, one binary.

mod model;
