//! The latent cache's memory: one buffer a layer, `[n_page, 64, c + n_k_pe * r]`.
//!
//! MLA keeps one row a token and layer, `[c_kv, k_pe]`, shared by all heads; mini-deepseek has a rotary key for each. Which page belongs to whom is decided
//! in `cache`; here is only the memory.

use super::scratch;
use crate::backend::Backend;
use crate::checkpoint::ModelConfig;
use crate::error::Result;
use crate::step::PAGE_TOKENS;

/// Bytes of one page over all layers.
pub(super) fn page_bytes<B: Backend>(backend: &B, config: &ModelConfig) -> u64 {
    let row = backend.cache_row_bytes(&scratch::mla_shape(config));
    (config.num_hidden_layers * PAGE_TOKENS * row) as u64
}

/// One buffer a layer.
pub(super) fn alloc<B: Backend>(
    backend: &mut B,
    config: &ModelConfig,
    n_page: usize,
) -> Result<Vec<B::Cache>> {
    (0..config.num_hidden_layers).map(|_| layer(backend, config, n_page)).collect()
}

/// The buffer of one layer.
pub(super) fn layer<B: Backend>(
    backend: &mut B,
    config: &ModelConfig,
    n_page: usize,
) -> Result<B::Cache> {
    backend.cache(&scratch::mla_shape(config), n_page)
}
