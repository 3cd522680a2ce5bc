use std::time::Instant;

use clap::Parser;
use hadal_engine::checkpoint::{Checkpoint, Source};

use super::*;
use crate::commands::unfinished::Unfinished;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

fn args(line: &str) -> BenchArgs {
    Line::try_parse_from(std::iter::once("bench").chain(line.split_whitespace())).unwrap().bench
}

/// Measures a small model of three layers, two of them mixtures of 16 experts of which a row takes four.
fn with_bench(line: &str, check: impl Fn(&Bench<'_>)) {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/v3-moe-bf16");
    let source = Source::Directory(golden.into());
    let args = args(line);
    let sizes = Sizes::of(&Checkpoint::open(&source).unwrap(), &args.compute.options()).unwrap();
    let clock = Clock::Wall(Instant::now());
    let (log, limits) = (Log::new(clock), super::super::limits(&args));
    let (engine, _) =
        super::super::loaded(&args, &source, &limits, &log, &Unfinished::default()).unwrap();
    let bench = Bench { args: &args, engine, sizes, clock, log, limits, requests: Cell::default() };
    check(&bench);
    bench.engine.join();
}

#[test]
fn every_step_is_counted_and_touches_what_its_rows_can_choose() {
    let line = "--runs 2 --tokens 3 --batch 1,5 --context 0,20 --prompt-tokens 1,40 --step-rows 16 --threads 2";
    with_bench(line, |bench| {
        let prompts = bench.prompts().unwrap();
        assert_eq!(prompts.iter().map(|it| it.tokens).collect::<Vec<_>>(), [1, 40]);
        let one_row = bench.sizes.touched_if_uniform(1.0);
        assert_eq!(prompts[0].figure.touched, one_row, "one row, and nothing of earlier prompts");
        // Three steps.
        let all = bench.sizes.touched_if_uniform(1e9);
        assert!(prompts[1].figure.touched > one_row && prompts[1].figure.touched <= 3.0 * all);
        let decodes = bench.decodes().unwrap();
        let shapes: Vec<_> = decodes.iter().map(|it| (it.batch, it.context)).collect();
        assert_eq!(shapes, [(1, 0), (1, 20), (5, 0), (5, 20)]);
        for Decode { batch, figure, .. } in &decodes {
            let most = all.min(one_row * f64::from(*batch));
            assert!(figure.touched >= one_row && figure.touched <= most, "batch {batch}");
            assert!(figure.per_second.min > 0.0);
        }
        assert_eq!(decodes[0].figure.touched, one_row);
        // Twenty tokens more in the cache, or nineteen more than the one that an empty sequence begins with.
        let more = decodes[1].figure.work.bytes - decodes[0].figure.work.bytes;
        let latents = bench.sizes.decode_step(1.0, 19.0, 0.0).bytes
            - bench.sizes.decode_step(1.0, 0.0, 0.0).bytes;
        assert!((more - latents).abs() < 1.0, "{more} {latents}");
    });
}

#[test]
fn what_does_not_fit_is_left_out() {
    with_bench(
        "--runs 1 --tokens 2 --batch 1 --context 0,100000 --prompt-tokens 4,100000",
        |bench| {
            let tokens: Vec<u32> = bench.prompts().unwrap().iter().map(|it| it.tokens).collect();
            let contexts: Vec<u32> = bench.decodes().unwrap().iter().map(|it| it.context).collect();
            assert_eq!((tokens, contexts), (vec![4], vec![0]));
            let info = &bench.engine.info;
            let pages = u32::try_from(info.n_page).unwrap();
            assert!(misfit(info, pages + 1, 1).unwrap().contains("pages of latent cache"));
            assert!(misfit(info, 1, 1_000_000).unwrap().contains("context is"));
            assert_eq!(misfit(info, 1, 64), None);
        },
    );
}
