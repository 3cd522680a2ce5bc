//! The pool's promises.

use super::*;

#[test]
fn every_task_runs_once_on_any_team() {
    for threads in 1..5 {
        let mut pool = Pool::new(threads).unwrap();
        for n_task in (0..40).cycle().take(2_000) {
            let runs: Vec<AtomicUsize> = (0..n_task).map(|_| AtomicUsize::new(0)).collect();
            pool.run(n_task, |task, thread| {
                assert!(thread < threads);
                runs[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "{threads} threads");
        }
    }
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

#[test]
fn a_panic_in_a_task_comes_out_and_the_pool_lives() {
    let mut pool = Pool::new(4).unwrap();
    for bad in 0..20 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(20, |task, _| assert!(task != bad, "task {bad}"));
        }));
        assert!(caught.is_err());
        pool.run(20, |_, _| {});
    }
}

#[test]
fn workers_that_parked_come_back_and_the_end_is_prompt() {
    let mut pool = Pool::new(2).unwrap();
    for _ in 0..3 {
        std::thread::park_timeout(std::time::Duration::from_millis(20));
        pool.run(8, |_, _| {});
    }
}

#[test]
fn a_team_of_none_or_thousands_is_refused() {
    assert!(Pool::new(0).is_err() && Pool::new(1025).is_err());
}
