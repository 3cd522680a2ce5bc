//! Whole golden checkpoints on the simulated card.

use hadal_engine::checkpoint::{Source, Target};

use super::card::{PROFILES, card};
use super::compare;
use super::held::{KEYS, check, check_source, folder, run};

#[test]
fn v3_on_every_card() {
    for profile in PROFILES {
        let Some(card) = card(&format!("devices={profile}")) else { return };
        check(&card, "v3-moe-bf16", 64);
    }
}

#[test]
fn prompts_in_chunks_of_odd_sizes_and_any_order_of_streams() {
    for seed in [2, 3] {
        let Some(card) = card(&format!("devices=rtx5090 seed={seed}")) else { return };
        check(&card, "v2-lite-bf16", 7);
    }
}

#[test]
fn other_rotations_rules_and_ways_to_make_queries() {
    let Some(card) = card("devices=a100") else { return };
    for case in ["v3-yarn-bf16", "v2-group-bf16", "v3-noqlora-bf16", "v3-tied-bf16"] {
        check(&card, case, 33);
    }
}

#[test]
fn relatives_and_halves_of_kv_b() {
    let Some(card) = card("devices=h100") else { return };
    for case in ["v3-halves-bf16", "glm-lite-bf16", "kimi-k2-bf16"] {
        check(&card, case, 64);
    }
}

#[test]
fn eight_bit_floats_with_and_without_their_own_instructions() {
    for profile in ["a100", "h100"] {
        let Some(card) = card(&format!("devices={profile}")) else { return };
        check(&card, "v3-fp8", 64);
        check(&card, "v3-fp8-ue8m0", 64);
    }
}

#[test]
fn f32_weights_are_rounded_and_released_head_sizes_run() {
    let Some(card) = card("devices=rtx4090") else { return };
    check(&card, "v3-moe-f32", 64);
    check(&card, "v3-realdims", 64);
}

/// Serving drafts nothing, on any device; a trace runs the MTP layer, and the card's is the reference's.
#[test]
fn an_mtp_layer_drafts_what_the_reference_drafts() {
    let Some(card) = card("devices=a100") else { return };
    let source = Source::Directory(folder("v3-mtp-bf16"));
    let keys = [&KEYS[..], &["mtp.hidden", "mtp.logits", "mtp.draft_tokens"]].concat();
    check_source(&card, &source, "v3-mtp-bf16", 64, &keys);
}

#[test]
fn heads_with_rotary_keys_of_their_own_and_averaged_shared_experts() {
    let Some(card) = card("devices=h100") else { return };
    let source = Source::File(folder("mini-untied").join("state_dict.pt"));
    // The third row's two best experts of the second mixture are 0.011 apart, and the card's probabilities of this row are
    // off by 0.026 at most; every other row has the reference's experts and its state within a third of the tolerance.
    assert_eq!(check_source(&card, &source, "mini-untied", 64, &KEYS), [2]);
}

/// What excuses near-ties between experts is looked up by these.
fn is_about_the_prompt(key: &str) -> bool {
    matches!(key, "routing_margin" | "input_ids")
}

#[test]
fn whole_numbers_are_multiplied_as_they_are_stored() {
    for (profile, target) in [("rtx5090", Target::Q8), ("a100", Target::Q4)] {
        let Some(card) = card(&format!("devices={profile}")) else { return };
        let source = Source::Directory(folder("v3-fp8"));
        let golden = compare::read(&folder("v3-fp8").join("golden.safetensors"));
        let ids: Vec<i64> = golden["input_ids"].floats.iter().map(|id| *id as i64).collect();
        let mut want = run(&source, &ids, 0, 64, (None, Some(target)));
        let made = run(&source, &ids, 0, 64, (Some(0), Some(target)));
        want.extend(golden.into_iter().filter(|(key, _)| is_about_the_prompt(key)));
        let wrong = compare::compare("logits", &want, &made["logits"], &compare::BF16);
        assert!(wrong.is_empty(), "{target:?}: {wrong:?}");
        assert_eq!(card.live_bytes(), 0);
    }
}
