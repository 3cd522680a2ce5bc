//! The page pool, and which pages a sequence holds.
//!
//! MLA keeps one row a token and layer, `[c_kv, k_pe]`, shared by all heads; [`PAGE_TOKENS`] rows are a page. A page
//! is counted by its holders: several sequences may read one, and it is free again when the last one lets go.
//!
//! A *slot* is a row's address, `page * PAGE_TOKENS + offset`. This module hands out slots and never reads a row: it
//! knows no backend, so its tests need none. Nothing here allocates once pool and tables are reserved.

use crate::step::{PAGE_TOKENS, PageId, Slot};

/// The most pages a pool can have: beyond it a [`Slot`] would not fit its 32 bits.
pub const PAGES_MAX: usize = (u32::MAX as usize + 1) / PAGE_TOKENS;

/// Pages that hold `tokens` rows.
pub fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(PAGE_TOKENS)
}

/// All pages of a model's latent cache.
pub struct PagePool {
    /// Pages that nobody holds; the next one is taken from the end.
    free: Vec<PageId>,
    /// Holders of each page.
    holders: Vec<u32>,
}

impl PagePool {
    /// Bytes that a page takes in the pool, and in the lists of a step that may name every one.
    pub const PAGE_BYTES: u64 = (4 * size_of::<PageId>()) as u64;

    /// A pool of `n_page` free pages, at most [`PAGES_MAX`].
    ///
    /// # Panics
    /// When there are more.
    pub fn new(n_page: usize) -> Self {
        assert!(n_page <= PAGES_MAX, "{n_page} pages, at most {PAGES_MAX} can be numbered");
        let free = (0..n_page as u32).rev().map(PageId).collect();
        Self { free, holders: vec![0; n_page] }
    }

    /// Pages not in use.
    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    /// All pages.
    pub fn n_page(&self) -> usize {
        self.holders.len()
    }

    /// How many hold `page`.
    pub fn n_holder(&self, page: PageId) -> u32 {
        self.holders[page.0 as usize]
    }

    /// A free page, held once; `None` when there is none.
    ///
    /// # Panics
    /// When a free page has a holder: a bug here.
    pub fn alloc(&mut self) -> Option<PageId> {
        let page = self.free.pop()?;
        let holders = &mut self.holders[page.0 as usize];
        assert_eq!(*holders, 0, "a free page has no holder");
        *holders = 1;
        Some(page)
    }

    /// One more holder of a page that is held already.
    ///
    /// # Panics
    /// When nobody holds it: a bug of the caller.
    pub fn share(&mut self, page: PageId) {
        let holders = &mut self.holders[page.0 as usize];
        assert_ne!(*holders, 0, "only a held page can be shared");
        *holders += 1;
    }

    /// One holder less; the last one makes the page free.
    ///
    /// # Panics
    /// When nobody holds it: a bug of the caller.
    pub fn release(&mut self, page: PageId) {
        let holders = &mut self.holders[page.0 as usize];
        assert_ne!(*holders, 0, "only a held page can be released");
        *holders -= 1;
        if *holders == 0 {
            self.free.push(page);
        }
    }
}

/// A sequence's pages, in the order of its positions.
#[derive(Debug, Default)]
pub struct PageTable {
    pages: Vec<PageId>,
}

impl PageTable {
    /// Room for the pages of `tokens` rows, so that growing to them does not allocate.
    pub fn reserve(&mut self, tokens: usize) {
        self.pages.reserve_exact(pages_for(tokens).saturating_sub(self.pages.len()));
    }

    /// The pages held.
    pub fn pages(&self) -> &[PageId] {
        &self.pages
    }

    /// Where the row at `position` lives. The table has grown over it.
    pub fn slot(&self, position: usize) -> Slot {
        Slot::new(self.pages[position / PAGE_TOKENS], position % PAGE_TOKENS)
    }

    /// Takes the pages that `tokens` rows need beyond those held; all or none. `false`: there are too few.
    pub fn grow(&mut self, tokens: usize, pool: &mut PagePool) -> bool {
        let more = pages_for(tokens).saturating_sub(self.pages.len());
        if more > pool.n_free() {
            return false;
        }
        self.pages.extend((0..more).map_while(|_| pool.alloc()));
        true
    }

    /// Gives every page back.
    pub fn release(&mut self, pool: &mut PagePool) {
        for page in self.pages.drain(..) {
            pool.release(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_handed_out_once_and_then_none() {
        let mut pool = PagePool::new(3);
        let mut pages: Vec<_> = (0..3).map(|_| pool.alloc().unwrap()).collect();
        assert_eq!(pool.alloc(), None);
        pages.sort();
        assert_eq!(pages, [PageId(0), PageId(1), PageId(2)]);
    }

    #[test]
    fn a_shared_page_is_free_when_its_last_holder_lets_go() {
        let mut pool = PagePool::new(1);
        let page = pool.alloc().unwrap();
        pool.share(page);
        pool.release(page);
        assert_eq!((pool.n_free(), pool.n_holder(page)), (0, 1));
        pool.release(page);
        assert_eq!((pool.n_free(), pool.n_holder(page)), (1, 0));
    }

    #[test]
    #[should_panic(expected = "only a held page can be released")]
    fn releasing_a_free_page_is_a_bug() {
        PagePool::new(1).release(PageId(0));
    }

    #[test]
    fn a_table_grows_by_whole_pages_or_not_at_all() {
        let mut pool = PagePool::new(2);
        let mut table = PageTable::default();
        assert!(table.grow(1, &mut pool));
        assert!(table.grow(PAGE_TOKENS, &mut pool));
        assert_eq!(table.pages().len(), 1);
        assert!(!table.grow(2 * PAGE_TOKENS + 1, &mut pool));
        assert_eq!((table.pages().len(), pool.n_free()), (1, 1));
        assert!(table.grow(PAGE_TOKENS + 1, &mut pool));
        assert_eq!(table.slot(PAGE_TOKENS + 2), Slot::new(table.pages()[1], 2));
        table.release(&mut pool);
        assert_eq!((table.pages().len(), pool.n_free()), (0, 2));
    }

    #[test]
    fn the_last_slot_of_the_largest_pool_fits() {
        let last = Slot::new(PageId(PAGES_MAX as u32 - 1), PAGE_TOKENS - 1);
        assert_eq!(last.0, u32::MAX);
    }
}
