//! The page pool.
//!
//! MLA keeps one row a token and layer, `[c_kv, k_pe]`, shared by all heads; 64 rows are a page. This module hands
//! out page numbers with reference counts and never reads a row.

use crate::step::PageId;

/// All pages of a model's latent cache.
pub struct PagePool {
    free: Vec<PageId>,
    total: usize,
}

impl PagePool {
    /// A pool of `n_page` free pages.
    pub fn new(n_page: usize) -> Self {
        Self { free: (0..n_page as u32).rev().map(PageId).collect(), total: n_page }
    }

    /// Pages not in use.
    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    /// All pages.
    pub fn n_page(&self) -> usize {
        self.total
    }
}
