//! The pool's promises.

use std::sync::atomic::AtomicU32;

use super::*;
use crate::backend::cpu::testing::two_nodes;

#[test]
fn every_task_runs_once_on_a_thread_of_the_team() {
    for threads in [1, 2, 3, 7] {
        let mut pool = Pool::new(&Team::anywhere(threads)).unwrap();
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
fn tasks_with_homes_run_once_wherever_those_are() {
    for threads in [1, 2, 3, 7] {
        let mut pool = Pool::new(&two_nodes(threads)).unwrap();
        let homes: [fn(usize) -> usize; 4] = [|_| 0, |_| 1, |task| task / 3 % 2, |task| task];
        for (n_task, home) in [0, 1, 2, 3, 100, 1000].into_iter().zip(homes.iter().cycle()) {
            let runs: Vec<AtomicU32> = (0..n_task).map(|_| AtomicU32::new(0)).collect();
            pool.run_work_at(WORK_MIN, n_task, home, |task, thread| {
                assert!(thread < threads);
                runs[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
        }
        let bad = AssertUnwindSafe(|| {
            pool.run_work_at(WORK_MIN, 9, |task| task, |task, _| assert!(task != 5, "task {task}"));
        });
        assert!(catch_unwind(bad).is_err());
    }
}

#[test]
fn a_thread_takes_its_own_nodes_tasks_before_others() {
    for node in [0, 1] {
        let pool = Pool::new(&two_nodes(1)).unwrap();
        let order = Mutex::new(Vec::new());
        let body = |task: usize, _: usize| order.lock().unwrap().push(task);
        run_claims(&pool.shared, node, 6, &|task| task % 2, &body);
        let own = [node, node + 2, node + 4];
        let others = own.map(|task| task ^ 1);
        assert_eq!(*order.lock().unwrap(), [own, others].concat());
    }
}

/// All claims of one thread near `node`.
fn run_claims<F: Fn(usize, usize) + Sync, H: Fn(usize) -> usize + Sync>(
    shared: &Shared,
    node: usize,
    n_task: usize,
    home: &H,
    body: &F,
) {
    let home = Home { ask: ask::<H>, of: std::ptr::from_ref(home).cast() };
    let body = std::ptr::from_ref(body).cast();
    claim(shared, Job { call: call::<F>, body, n_task, home: Some(home) }, 0, node);
}

#[test]
fn threads_are_held_to_their_processors_and_the_caller_until_the_pool_is_gone() {
    let Some(before) = Affinity::current() else { return };
    let cpus = before.cpus();
    let seats = cpus.iter().take(3).map(|cpu| Seat { cpu: Some(*cpu), node: 0 });
    let team = Team { seats: seats.collect(), nodes: vec![0] };
    let mut pool = Pool::new(&team).unwrap();
    for _ in 0..20 {
        pool.run(8, |_, thread| {
            assert_eq!(Affinity::current().unwrap().cpus(), [cpus[thread]]);
        });
    }
    for is_last in [false, true] {
        pool.leave_seat();
        assert_eq!(Affinity::current().unwrap().cpus(), cpus);
        if !is_last {
            pool.run(8, |_, _| ());
            assert_eq!(Affinity::current().unwrap().cpus(), cpus[..1]);
        }
    }
    pool.run(8, |_, _| ());
    drop(pool);
    assert_eq!(Affinity::current().unwrap().cpus(), cpus);
    // A processor that is not there: the threads run where they could.
    let far = Team { seats: vec![Seat { cpu: Some(1 << 40), node: 0 }; 2], nodes: vec![0] };
    let mut pool = Pool::new(&far).unwrap();
    pool.run(8, |_, _| assert_eq!(Affinity::current().unwrap().cpus(), cpus));
}

#[test]
fn loops_follow_each_other_while_the_team_is_awake_and_after_it_slept() {
    let mut pool = Pool::new(&Team::anywhere(3)).unwrap();
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
        let mut pool = Pool::new(&Team::anywhere(threads)).unwrap();
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
    let mut pool = Pool::new(&Team::anywhere(3)).unwrap();
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
    Pool::new(&Team::anywhere(1)).unwrap().run_parts(
        0,
        &mut [0; 9],
        &mut [()],
        3,
        part,
        |_, _, ()| (),
    );
}

#[test]
#[should_panic(expected = "a block is outside")]
fn blocks_outside_are_refused() {
    let block = |_: usize| Block { rows: 0..3, column: 0 };
    Pool::new(&Team::anywhere(1)).unwrap().run_blocks(
        &mut [0; 8],
        (4, 4),
        &mut [()],
        1,
        block,
        |_, ()| &[0; 12],
    );
}

#[test]
fn dropping_the_pool_ends_its_threads() {
    let pool = Pool::new(&Team::anywhere(4)).unwrap();
    let shared = Arc::downgrade(&pool.shared);
    drop(pool);
    assert_eq!(shared.strong_count(), 0, "a worker still holds the pool's state");
}

#[test]
fn parts_are_written_by_their_tasks_and_results_are_seen() {
    let mut pool = Pool::new(&Team::anywhere(3)).unwrap();
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
