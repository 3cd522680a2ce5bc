//! The chat page's API: models, generation, and the older aliases.

pub(crate) mod assets;
pub(crate) mod generate;
pub(crate) mod models;
pub(crate) mod older;
mod stream;

pub(crate) use stream::usage;
