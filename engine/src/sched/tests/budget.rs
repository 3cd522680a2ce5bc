//! How many rows of a step answers, whole prompts and parts of long ones have.

use super::*;

#[test]
fn a_prompt_has_more_rows_while_no_answer_waits_for_it() {
    let limits = Limits { answer_step_rows_max: 8, ..limits(24, 3, 300) };
    let mut world = World::new(&limits, 16);
    let _first = world.enqueue(Order::plain(30, 9), 9);
    assert_eq!([world.turn(), world.turn()], [Some(24), Some(6)]);
    let _second = world.enqueue(Order::plain(30, 9), 9);
    assert_eq!(world.turn(), Some(8), "an answer's row and seven of the prompt");
    assert_eq!(world.turn(), Some(8), "a prompt that is too long for a step goes on in parts");
}

#[test]
fn a_prompt_that_ends_in_the_step_is_taken_whole_beside_answers() {
    let limits = Limits { answer_step_rows_max: 8, ..limits(24, 3, 300) };
    let mut world = World::new(&limits, 16);
    let _answer = world.enqueue(Order::plain(3, 9), 9);
    assert_eq!(world.turn(), Some(3));
    let (_long, _short) =
        (world.enqueue(Order::plain(30, 9), 9), world.enqueue(Order::plain(12, 9), 9));
    assert_eq!(world.turn(), Some(1 + 7 + 12), "a part of the long one, all of the short one");
    assert_eq!(world.turn(), Some(2 + 6));
}

#[test]
fn a_prompt_that_would_end_in_the_next_step_is_not_long() {
    let limits = Limits { answer_step_rows_max: 8, ..limits(24, 3, 300) };
    let mut world = World::new(&limits, 16);
    let (_first, _second) =
        (world.enqueue(Order::plain(14, 9), 9), world.enqueue(Order::plain(20, 9), 9));
    assert_eq!(world.turn(), Some(24), "ten rows of the second");
    assert_eq!(world.turn(), Some(1 + 10), "its others at once");
}

#[test]
fn answers_leave_half_of_the_rows_for_parts_to_a_long_prompt() {
    let limits = Limits { answer_step_rows_max: 8, ..limits(24, 8, 300) };
    let mut world = World::new(&limits, 16);
    let _answers: Vec<_> = (0..7).map(|_| world.enqueue(Order::plain(1, 9), 9)).collect();
    assert_eq!(world.turn(), Some(7));
    let _long = world.enqueue(Order::plain(40, 9), 9);
    assert_eq!(world.turn(), Some(7 + 4));
}
