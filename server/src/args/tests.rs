//! Command lines, right and wrong.

use super::*;
use clap::CommandFactory;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("hadal").chain(line.split_whitespace()))
}

#[track_caller]
fn refused(line: &str) {
    let problem = parse(line).unwrap_err();
    assert_eq!(problem.exit_code(), 2, "{problem}");
}

#[test]
fn the_description_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn a_bare_call_serves_with_the_defaults() {
    let cli = parse("").unwrap();
    assert!(cli.command.is_none());
    let http = &cli.serve.http;
    assert_eq!((http.host.as_str(), http.port), ("127.0.0.1", 5001));
    assert_eq!(
        (http.head_kib, http.head_timeout, http.body_mib, http.body_timeout),
        (64, 10, 8, 30)
    );
    assert_eq!((http.idle_timeout, http.connections, http.drain_timeout), (75, 1024, 30));
    assert_eq!(cli.serve.limits.limits(), Limits::default());
    assert_eq!(cli.serve.model.root(), Path::new("checkpoints"));
}

#[test]
fn the_flags_of_serve_work_without_its_name() {
    let bare = parse("--port 8080 --api-key a --api-key b").unwrap().serve;
    let Some(Command::Serve(named)) =
        parse("serve --port 8080 --api-key a --api-key b").unwrap().command
    else {
        panic!("another command")
    };
    for args in [bare, named] {
        assert_eq!((args.http.port, args.http.api_key.len()), (8080, 2));
    }
}

#[test]
fn limits_and_computing_reach_the_engine() {
    let line =
        "--context 4096 --sequences 4 --step-rows 16 --queue 8 --cache-mb 3 --isa avx2 --threads 2";
    let args = parse(line).unwrap().serve;
    let limits = args.limits.limits();
    assert_eq!((limits.context_tokens_max, limits.sequences_max), (4096, 4));
    assert_eq!(
        (limits.step_rows_max, limits.queue_max, limits.cache_bytes),
        (16, 8, Some(3 << 20))
    );
    assert_eq!(
        (args.compute.options().isa, args.compute.options().threads),
        (Some(Isa::Avx2), Some(2))
    );
    for (line, pin) in
        [("", None), ("--pin auto", None), ("--pin yes", Some(true)), ("--pin no", Some(false))]
    {
        assert_eq!(parse(line).unwrap().serve.compute.options().pin, pin, "{line}");
    }
}

#[test]
fn wrong_flags_and_values_are_usage_errors() {
    for line in [
        "--prot 1",
        "--port 70000",
        "--port x",
        "--isa sse",
        "--pin maybe",
        "--activations f16",
        "--weights here",
        "--head-kib 0",
        "--cors-origin junk",
        "bench --runs 0",
    ] {
        refused(line);
    }
    for line in ["run --temperature 9", "run --top-p 0", "run --top-p nan", "logits"] {
        refused(line);
    }
    for line in ["run --max-tokens 0", "frob", "--cache-mb 99999999999999"] {
        refused(line);
    }
}
