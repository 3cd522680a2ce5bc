//! Loops whose tasks have parts of an output, and a thread's scratch, to themselves.

use std::ops::Range;

use super::Pool;

impl Pool {
    /// [`Pool::run_work`] where task `i` gets `out[parts(i)]` to itself, and every thread a scratch of its own.
    ///
    /// Parts must ascend without overlap, and there must be a scratch for each thread; both are checked.
    pub(in super::super) fn run_parts<T: Send, S: Send>(
        &mut self,
        work: usize,
        out: &mut [T],
        scratch: &mut [S],
        n_task: usize,
        parts: impl Fn(usize) -> Range<usize> + Sync,
        body: impl Fn(usize, &mut [T], &mut S) + Sync,
    ) {
        let body = self.part_body(out, scratch, n_task, parts, body);
        self.run_work(work, n_task, body);
    }

    /// The same, tasks with threads near `home(task)`, as for [`Pool::run_work_at`].
    #[allow(clippy::too_many_arguments, reason = "what a loop is, and where its tasks are at home")]
    pub(in super::super) fn run_parts_at<T: Send, S: Send>(
        &mut self,
        work: usize,
        out: &mut [T],
        scratch: &mut [S],
        n_task: usize,
        home: impl Fn(usize) -> usize + Sync,
        parts: impl Fn(usize) -> Range<usize> + Sync,
        body: impl Fn(usize, &mut [T], &mut S) + Sync,
    ) {
        let body = self.part_body(out, scratch, n_task, parts, body);
        self.run_work_at(work, n_task, home, body);
    }

    /// Every thread has a scratch of its own.
    fn check_scratch<S>(&self, scratch: &[S]) {
        let (threads, n) = (self.threads(), scratch.len());
        assert!(threads <= n, "{threads} threads, {n} scratches");
    }

    /// Checks parts and scratches, and gives each task its own.
    fn part_body<'a, T: Send, S: Send>(
        &self,
        out: &'a mut [T],
        scratch: &'a mut [S],
        n_task: usize,
        parts: impl Fn(usize) -> Range<usize> + Sync + 'a,
        body: impl Fn(usize, &mut [T], &mut S) + Sync + 'a,
    ) -> impl Fn(usize, usize) + Sync + 'a {
        let mut end = 0;
        for task in 0..n_task {
            let part = parts(task);
            assert!(end <= part.start && part.start <= part.end, "parts of a loop overlap");
            end = part.end;
        }
        assert!(end <= out.len(), "a part ends at {end}, the output at {}", out.len());
        self.check_scratch(scratch);
        let (out, scratch) = (Exclusive::new(out), Exclusive::new(scratch));
        move |task, thread| {
            let part = parts(task);
            // SAFETY: parts are inside `out` and disjoint, each task runs once, and a thread runs one task at a time.
            let (part, scratch) =
                unsafe { (out.slice(part.start, part.len()), &mut *scratch.at(thread)) };
            body(task, part, scratch);
        }
    }
}

/// A block of a matrix `[row, stride]`: some columns of some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Block {
    /// Rows of the block.
    pub(in super::super) rows: Range<usize>,
    /// First column.
    pub(in super::super) column: usize,
}

impl Pool {
    /// [`Pool::run`] where task `i` computes the block `blocks(i)`, `width` columns wide, of `out [row, stride]` in its
    /// thread's scratch and hands it back, rows back to back.
    ///
    /// Blocks must ascend, by rows and then by column, without overlap; that is checked.
    pub(in super::super) fn run_blocks<T: Copy + Send, S: Send>(
        &mut self,
        out: &mut [T],
        (stride, width): (usize, usize),
        scratch: &mut [S],
        n_task: usize,
        blocks: impl Fn(usize) -> Block + Sync,
        body: impl Fn(usize, &mut S) -> &[T] + Sync,
    ) {
        let mut before = Block { rows: 0..0, column: 0 };
        for task in 0..n_task {
            let block = blocks(task);
            let beside = block.rows == before.rows && block.column >= before.column + width;
            assert!(beside || block.rows.start >= before.rows.end, "blocks of a loop overlap");
            assert!(
                block.column + width <= stride && block.rows.end * stride <= out.len(),
                "a block is outside"
            );
            before = block;
        }
        self.check_scratch(scratch);
        let (out, scratch) = (Exclusive::new(out), Exclusive::new(scratch));
        self.run(n_task, |task, thread| {
            let block = blocks(task);
            // SAFETY: a thread runs one task at a time.
            let made = body(task, unsafe { &mut *scratch.at(thread) });
            for (row, made) in block.rows.zip(made.chunks(width)) {
                // SAFETY: inside `out` and this task's alone, as checked above.
                unsafe { out.slice(row * stride + block.column, width) }.copy_from_slice(made);
            }
        });
    }
}

/// A pointer that threads use at places of their own.
pub(in super::super) struct Exclusive<T>(*mut T);

impl<T> Exclusive<T> {
    /// Over all of `slice`, which nobody else has.
    pub(in super::super) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// The place of element `index`.
    pub(in super::super) fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }

    /// `len` elements from `start`.
    ///
    /// # Safety
    /// They are inside the slice, and no other thread has them now.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(in super::super) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(start), len) }
    }
}

// SAFETY: whoever dereferences shows that no other thread has the same place.
unsafe impl<T: Send> Sync for Exclusive<T> {}
