//! Every planted defect is found, where it is and for what it is; the right form beside it raises no alarm.

use cuda_sim::{Checks, Error, Fault, FaultKind, Grid};

use crate::card::{Arg, Card};

const PTX: &str = include_str!("../kernels/defects.ptx");
const SOURCE: &str = include_str!("../kernels/defects.cu");

/// Runs a kernel of `(x, y)` on one block of 128 threads.
fn run(name: &str, n_x: usize) -> Result<Vec<f32>, Box<Fault>> {
    let mut card = Card::new(PTX);
    card.device.checks = Checks { instructions_max: 200_000, ..Checks::default() };
    let x: Vec<f32> = (0..n_x).map(|n| n as f32 + 8.0).collect();
    let (x, y) = (card.upload(&x), card.upload(&[0f32; 128]));
    match card.launch(name, Grid::flat(1, 128, 0), &[Arg::Pointer(x), Arg::Pointer(y)]) {
        Ok(_) => Ok(card.download(y, 128)),
        Err(Error::Fault(fault)) => Err(fault),
        Err(other) => panic!("{name}: {other}"),
    }
}

/// The defect is of its kind, and its line is the planted one or the one that the words name.
#[track_caller]
fn finds(name: &str, n_x: usize, kind: FaultKind) -> Fault {
    let fault = *run(name, n_x).expect_err("the defect is not found");
    assert_eq!((fault.kind, fault.kernel.as_str()), (kind, name), "{fault}");
    let source = fault.source.clone().unwrap();
    assert!(source.contains(".cu:") || source.contains(".hpp:"), "{fault}");
    fault
}

/// The line of a kernel's planted mistake.
fn planted(name: &str) -> usize {
    let from = SOURCE.lines().position(|line| line.contains(&format!(" {name}("))).unwrap();
    from + 1 + SOURCE.lines().skip(from).position(|line| line.contains("// planted")).unwrap()
}

#[track_caller]
fn finds_at_its_line(name: &str, n_x: usize, kind: FaultKind) {
    let fault = finds(name, n_x, kind);
    assert_eq!(fault.source.clone(), Some(format!("defects.cu:{}", planted(name))), "{fault}");
}

#[track_caller]
fn passes(name: &str, n_x: usize) -> Vec<f32> {
    run(name, n_x).unwrap_or_else(|fault| panic!("a false alarm: {fault}"))
}

#[test]
fn a_missing_barrier_is_a_race() {
    finds("missing_barrier", 128, FaultKind::Race);
    assert_eq!(passes("with_barrier", 128)[0], 135.0);
}

#[test]
fn a_write_after_read_without_a_barrier_is_a_race() {
    let fault = finds("write_after_read", 128, FaultKind::Race);
    assert!(fault.what.contains("nothing orders the two"), "{fault}");
    passes("write_behind_barrier", 128);
}

#[test]
fn lanes_of_a_warp_are_not_ordered_by_running_together() {
    finds_at_its_line("without_syncwarp", 128, FaultKind::Race);
    assert_eq!(passes("with_syncwarp", 128)[0], 39.0);
}

#[test]
fn an_asynchronous_copy_is_there_only_behind_its_wait() {
    finds_at_its_line("async_without_wait", 512, FaultKind::AsyncPending);
    let fault = run("async_without_barrier", 512).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Race | FaultKind::AsyncPending), "{fault}");
    let fault = finds("async_wrong_count", 512, FaultKind::AsyncPending);
    assert!(fault.what.contains("not waited for"), "{fault}");
    passes("async_right", 512);
}

#[test]
fn one_element_past_an_allocation_is_out_of_bounds() {
    let fault = finds("one_past_the_end", 128, FaultKind::OutOfBounds);
    assert_eq!((fault.thread, fault.block), ([127, 0, 0], [0, 0, 0]));
    assert!(fault.what.contains("4 bytes past the end of allocation 0 of 512 bytes"), "{fault}");
    assert_eq!(fault.source, Some(format!("defects.cu:{}", planted("one_past_the_end"))));
    passes("one_past_the_end", 129);
}

#[test]
fn unwritten_memory_is_not_read() {
    let fault = finds("uninitialised_shared", 128, FaultKind::Uninitialised);
    assert_eq!(fault.thread, [50, 0, 0]);
    finds("uninitialised_local", 128, FaultKind::Uninitialised);
    let mut card = Card::new(PTX);
    let (x, y) = (card.device.alloc(512).unwrap(), card.device.alloc(512).unwrap());
    let args = [Arg::Pointer(x), Arg::Pointer(y)];
    let Err(Error::Fault(fault)) = card.launch("with_barrier", Grid::flat(1, 128, 0), &args) else {
        panic!("fresh memory was read")
    };
    assert_eq!(fault.kind, FaultKind::Uninitialised);
}

#[test]
fn memory_that_was_given_back_is_gone() {
    let mut card = Card::new(PTX);
    let (x, y) = (card.upload(&[1f32; 128]), card.upload(&[0f32; 128]));
    card.device.free(x).unwrap();
    let args = [Arg::Pointer(x), Arg::Pointer(y)];
    let Err(Error::Fault(fault)) = card.launch("with_barrier", Grid::flat(1, 128, 0), &args) else {
        panic!("freed memory was read")
    };
    assert_eq!(fault.kind, FaultKind::UseAfterFree);
    assert!(card.device.free(x).is_err());
}

#[test]
fn a_barrier_is_for_all_or_for_none() {
    finds("barrier_in_divergent_code", 128, FaultKind::DivergentBarrier);
}

#[test]
fn a_shuffle_needs_the_lanes_that_its_mask_names() {
    finds("shuffle_with_absent_lanes", 128, FaultKind::AbsentLanes);
    let y = passes("shuffle_in_half_a_warp", 128);
    assert_eq!(y[..3], [24.0, 26.0, 28.0]);
    assert_eq!(y[16..18], [24.0, 25.0]);
}

#[test]
fn a_vector_starts_at_a_multiple_of_its_size() {
    let fault = finds("misaligned_vector", 132, FaultKind::Misaligned);
    assert!(fault.what.contains("16 bytes"), "{fault}");
}

#[test]
fn global_memory_has_races_too() {
    finds_at_its_line("global_race", 128, FaultKind::Race);
    let run = |name: &str| {
        let mut card = Card::new(PTX);
        let y = card.upload(&[0f32]);
        let end = card.launch(name, Grid::flat(8, 64, 0), &[Arg::Pointer(y)]);
        end.map(|_| card.download::<f32>(y, 1)[0])
    };
    let Err(Error::Fault(fault)) = run("blocks_race") else { panic!("blocks race unseen") };
    assert_eq!((fault.kind, fault.block), (FaultKind::Race, [1, 0, 0]));
    assert_eq!(run("blocks_add_atomically").unwrap(), 8.0);
}

#[test]
fn a_kernel_that_never_ends_is_ended() {
    finds("never_ends", 128, FaultKind::Hang);
}

#[test]
fn lanes_that_wait_for_each_other_have_their_turns() {
    passes("spin_on_a_neighbour", 128);
}

#[test]
fn races_can_be_left_out_for_speed_and_nothing_else_can() {
    let mut card = Card::new(PTX);
    card.device.checks.races = false;
    let (x, y) = (card.upload(&[1f32; 128]), card.upload(&[0f32; 128]));
    let args = [Arg::Pointer(x), Arg::Pointer(y)];
    card.launch("global_race", Grid::flat(1, 128, 0), &args).unwrap();
    assert!(card.launch("one_past_the_end", Grid::flat(1, 128, 0), &args).is_err());
}
