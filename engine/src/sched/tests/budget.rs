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
    let limits = Limits { answer_step_rows_max: 5, ..limits(24, 3, 300) };
    let mut world = World::new(&limits, 16);
    let (_first, _second) =
        (world.enqueue(Order::plain(10, 9), 9), world.enqueue(Order::plain(22, 9), 9));
    assert_eq!(world.turn(), Some(24), "beside an answer it would have twenty: fourteen at once");
    assert_eq!(world.turn(), Some(1 + 8), "its others together");
}

#[test]
fn a_prompt_that_does_not_fit_waits_where_the_next_step_has_room() {
    let limits = Limits { answer_step_rows_max: 8, ..limits(24, 3, 300) };
    let mut world = World::new(&limits, 16);
    let (_first, _second) =
        (world.enqueue(Order::plain(12, 9), 9), world.enqueue(Order::plain(20, 9), 9));
    assert_eq!(world.turn(), Some(12), "the first token of the first comes sooner");
    assert_eq!(world.turn(), Some(1 + 20), "that of the second no later");
    let _long = world.enqueue(Order::plain(60, 9), 9);
    assert_eq!(world.turn(), Some(2 + 6), "one that fits no step begins at once");
}

#[test]
fn a_prompt_that_fills_the_next_step_is_cut_by_the_answer_in_it_and_begins_at_once() {
    let limits = Limits { answer_step_rows_max: 8, ..limits(24, 3, 300) };
    let mut world = World::new(&limits, 16);
    let (_first, _second) =
        (world.enqueue(Order::plain(12, 9), 9), world.enqueue(Order::plain(24, 9), 9));
    assert_eq!([world.turn(), world.turn()], [Some(24), Some(1 + 12)]);
}

#[test]
fn several_prompts_have_fewer_rows_beside_answers_than_one() {
    let limits = Limits { answer_step_rows_max: 8, ..limits(64, 6, 300) };
    let mut world = World::new(&limits, 32);
    let _answer = world.enqueue(Order::plain(3, 20), 20);
    assert_eq!(world.turn(), Some(3));
    let _few: Vec<_> = (0..3).map(|_| world.enqueue(Order::plain(9, 20), 20)).collect();
    assert_eq!(world.turn(), Some(1 + 9 + 9), "two of three, of twenty rows");
    assert_eq!(world.turn(), Some(3 + 9));
    let _one = world.enqueue(Order::plain(28, 9), 9);
    assert_eq!(world.turn(), Some(4 + 28), "all of one, of 32");
}

#[test]
fn a_prompt_beside_parts_of_a_long_one_does_not_wait_for_its_end() {
    let limits = Limits { answer_step_rows_max: 8, ..limits(64, 6, 300) };
    for (rows, steps) in [(13, &[13][..]), (24, &[24]), (30, &[24, 6])] {
        let mut world = World::new(&limits, 32);
        let _answer = world.enqueue(Order::plain(3, 20), 20);
        assert_eq!(world.turn(), Some(3));
        let _long = world.enqueue(Order::plain(200, 9), 9);
        assert_eq!(world.turn(), Some(1 + 7));
        let _short = world.enqueue(Order::plain(rows, 9), 9);
        for rows in steps {
            assert_eq!(world.turn(), Some(1 + 7 + rows));
        }
    }
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
