//! The pool's promises.

use std::sync::atomic::AtomicU32;

use super::*;

#[test]
fn every_task_runs_once_on_a_thread_of_the_team() {
    for threads in [1, 2, 3, 7] {
        let mut pool = Pool::new(threads).unwrap();
        for n_task in [0, 1, 2, 3, 100, 1000] {
            let runs: Vec<AtomicU32> = (0..n_task).map(|_| AtomicU32::new(0)).collect();
            pool.run(n_task, |task, thread| {
                assert!(thread < threads);
                runs[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn loops_follow_each_other_while_the_team_is_awake_and_after_it_slept() {
    let mut pool = Pool::new(3).unwrap();
    let total = AtomicUsize::new(0);
    for i in 0..5000 {
        pool.run(5, |task, _| {
            total.fetch_add(task, Ordering::Relaxed);
        });
        if i % 1000 == 0 {
            // Longer than a worker spins, without a clock.
            (0..200_000).for_each(|_| std::hint::spin_loop());
        }
    }
    assert_eq!(total.load(Ordering::Relaxed), 5000 * 10);
}

#[test]
fn a_panic_in_a_task_reaches_the_caller_and_the_pool_goes_on() {
    for threads in [1, 3] {
        let mut pool = Pool::new(threads).unwrap();
        for bad in [0, 7, 99] {
            let run = AssertUnwindSafe(|| {
                pool.run(100, |task, _| assert!(task != bad, "task {task}"));
            });
            let panic = catch_unwind(run).unwrap_err();
            assert_eq!(panic.downcast_ref::<String>(), Some(&format!("task {bad}")));
            let runs = AtomicUsize::new(0);
            pool.run(100, |_, _| {
                runs.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(runs.load(Ordering::Relaxed), 100);
        }
    }
}

#[test]
fn parts_and_blocks_are_written_where_they_belong() {
    let mut pool = Pool::new(3).unwrap();
    let mut scratch = [[0u32; 4]; 3];
    let mut out = [9; 10];
    let part = |task: usize| task * 3..task * 3 + 2;
    pool.run_parts(usize::MAX, &mut out, &mut scratch, 3, part, |task, out, _| {
        out.fill(task as u32);
    });
    assert_eq!(out, [0, 0, 9, 1, 1, 9, 2, 2, 9, 9]);
    let mut out = [9; 12];
    let block = |task: usize| Block { rows: 1..3, column: task * 2 };
    pool.run_blocks(&mut out, (4, 2), &mut scratch, 2, block, |task, scratch| {
        *scratch = [0, 1, 2, 3].map(|i| task as u32 * 10 + i);
        &scratch[..]
    });
    assert_eq!(out, [9, 9, 9, 9, 0, 1, 10, 11, 2, 3, 12, 13]);
}

#[test]
#[should_panic(expected = "parts of a loop overlap")]
fn parts_that_overlap_are_refused() {
    let part = |task: usize| task..task + 2;
    Pool::new(1).unwrap().run_parts(0, &mut [0; 9], &mut [()], 3, part, |_, _, ()| ());
}

#[test]
#[should_panic(expected = "a block is outside")]
fn blocks_outside_are_refused() {
    let block = |_: usize| Block { rows: 0..3, column: 0 };
    Pool::new(1).unwrap().run_blocks(&mut [0; 8], (4, 4), &mut [()], 1, block, |_, ()| &[0; 12]);
}

#[test]
fn a_team_out_of_bounds_is_refused_by_name() {
    for threads in [0, 1025] {
        let error = Pool::new(threads).err().unwrap().to_string();
        assert_eq!(error, format!("`threads` is {threads}, wanted 1 to 1024"));
    }
}

#[test]
fn dropping_the_pool_ends_its_threads() {
    let pool = Pool::new(4).unwrap();
    let shared = Arc::downgrade(&pool.shared);
    drop(pool);
    assert_eq!(shared.strong_count(), 0, "a worker still holds the pool's state");
}

#[test]
fn parts_are_written_by_their_tasks_and_results_are_seen() {
    let mut pool = Pool::new(3).unwrap();
    let (mut out, mut scratch) = (vec![0; 1000], vec![(); 3]);
    for round in 0..500 {
        pool.run_parts(
            usize::MAX,
            &mut out,
            &mut scratch,
            100,
            |i| i * 10..i * 10 + 10,
            |i, part, ()| {
                part.fill(i + round);
            },
        );
        assert!(out.iter().enumerate().all(|(at, value)| *value == at / 10 + round));
    }
}
