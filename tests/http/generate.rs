//! `/api/generate`: the stream, its fields, cancelling, going away.

use std::sync::atomic::Ordering;

use hadal_engine::FinishReason;
use hadal_tests::client::{Call, read_to_end, read_until};
use hadal_tests::scripted::{Act, Gate, Script};
use hadal_tests::server::{Server, eventually};
use serde_json::{Value, json};

async fn loaded(acts: Vec<Act>) -> Server {
    let server = Server::scripted(Script { acts, ..Script::default() }).await;
    server.load("sft/demo").await;
    server
}

#[tokio::test]
async fn a_stream_is_tokens_and_one_last_event() {
    let server = loaded(vec![Act::Say("The mill is by the river.")]).await;
    let history = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Hello." }]);
    let answer = server
        .post("/api/generate", &json!({ "message": "Where?", "history": history, "unknown": 1 }))
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(answer.headers["cache-control"], "no-cache");
    assert_eq!(answer.headers["x-accel-buffering"], "no");
    assert!(!answer.headers["x-task-id"].is_empty());
    assert_eq!(answer.text(), "The mill is by the river.");
    let events = answer.events();
    let (last, tokens) = events.split_last().unwrap();
    assert!(
        tokens.len() > 3
            && tokens
                .iter()
                .all(|event| event["done"] == false && event.as_object().unwrap().len() == 2)
    );
    assert_eq!(
        (last["done"].as_bool(), last["finish_reason"].as_str(), last["token"].as_str()),
        (Some(true), Some("stop"), Some(""))
    );
    let usage = &last["usage"];
    assert_eq!(
        usage["completion_tokens"].as_u64().unwrap() + usage["prompt_tokens"].as_u64().unwrap(),
        usage["total_tokens"].as_u64().unwrap()
    );
    assert!(
        last["timings"]["total_ms"].as_f64().unwrap()
            >= last["timings"]["first_token_ms"].as_f64().unwrap()
    );
}

#[tokio::test]
async fn characters_are_never_cut() {
    // Each of these characters is several tokens in this small vocabulary.
    let server = loaded(vec![Act::Say("日本 🦀 naïve")]).await;
    let answer = server.post("/api/generate", &json!({ "message": "x" })).await;
    assert_eq!(answer.text(), "日本 🦀 naïve");
    assert!(!answer.body.contains('\u{fffd}'));
}

#[tokio::test]
async fn no_part_of_a_stop_string_is_shown_and_the_rest_is_never_made() {
    let server = loaded(vec![Act::Say("one two STOP three"), Act::Wait(Gate::default())]).await;
    let answer =
        server.post("/api/generate", &json!({ "message": "x", "stop": ["never", " STOP"] })).await;
    assert_eq!(
        (answer.text().as_str(), answer.last()["finish_reason"].as_str()),
        ("one two", Some("stop"))
    );
    eventually("the sequence ends", || server.script.abandoned.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn length_and_errors_have_their_reasons() {
    let server = loaded(vec![Act::Say("a b c d e f g h")]).await;
    let answer =
        server.post("/api/generate", &json!({ "message": "x", "max_new_tokens": 2 })).await;
    assert_eq!(
        (
            answer.last()["finish_reason"].as_str(),
            answer.last()["usage"]["completion_tokens"].as_u64()
        ),
        (Some("length"), Some(2))
    );
    for (act, words) in
        [(Act::Fail("the device was lost"), "device was lost"), (Act::Vanish, "no longer running")]
    {
        let server = loaded(vec![Act::Say("a"), act]).await;
        let last = server.post("/api/generate", &json!({ "message": "x" })).await.last();
        assert_eq!(
            (last["done"].as_bool(), last["finish_reason"].as_str()),
            (Some(true), Some("error"))
        );
        assert!(last["error"].as_str().unwrap().contains(words), "{last}");
        assert_eq!(last["code"], "generation_failed");
    }
}

#[tokio::test]
async fn a_prompt_over_the_context_says_so_to_people_and_to_programs() {
    // 400 tokens in a context of 256, asked of a model that is loaded and of one that is not.
    let long = "word ".repeat(400);
    let server = loaded(vec![]).await;
    for model in ["sft/demo", "rl/grpo"] {
        let body = json!({ "message": long, "model": model });
        let answer = server.post("/api/generate", &body).await;
        let last = answer.last();
        assert_eq!((answer.status, last["finish_reason"].as_str()), (200, Some("error")));
        let sentence = last["error"].as_str().unwrap();
        assert!(sentence.contains("over this model's 255: shorten it"), "{sentence}");
        assert_eq!(last["code"], "context_length_exceeded");
        let tokens = last["usage"]["prompt_tokens"].as_u64().unwrap();
        assert!(tokens > 255 && sentence.contains(&tokens.to_string()), "{last}");
        assert_eq!(last["usage"]["completion_tokens"], 0);
    }
    let older = server.post("/api/generate", &json!({ "prompt": long })).await;
    let events = older.events();
    assert_eq!(events.last().unwrap()["code"], "context_length_exceeded", "{}", older.body);
}

#[tokio::test]
async fn every_field_is_checked_and_named() {
    let server = loaded(vec![]).await;
    let wrong: Vec<(&str, Value)> = vec![
        ("max_new_tokens", json!(0)),
        ("max_new_tokens", json!(1_000_001)),
        ("max_new_tokens", json!(1.5)),
        ("max_new_tokens", json!(true)),
        ("temperature", json!(-0.1)),
        ("temperature", json!(5.1)),
        ("temperature", json!("hot")),
        ("temperature", json!(false)),
        ("top_p", json!(0)),
        ("top_p", json!(1.1)),
        ("top_k", json!(-2)),
        ("top_k", json!(1.5)),
        ("min_p", json!(1.5)),
        ("min_p", json!(-1)),
        ("do_sample", json!(1)),
        ("repetition_penalty", json!(0)),
        ("repetition_penalty", json!(11)),
        ("seed", json!(-1)),
        ("seed", json!(1.5)),
        ("stop", json!(5)),
        ("stop", json!([""])),
        ("stop", json!(vec!["x"; 17])),
        ("history", json!("x")),
        ("history", json!([{ "role": "robot", "content": "x" }])),
        ("history", json!([{ "role": "user", "content": 5 }])),
        ("model", json!(5)),
        ("message", json!("")),
        ("message", json!(["x"])),
    ];
    for (field, value) in wrong {
        let mut body = json!({ "message": "x" });
        body[field] = value.clone();
        let answer = server.post("/api/generate", &body).await;
        assert_eq!(answer.status, 422, "{field} = {value}: {}", answer.body);
        assert!(answer.json()["error"].as_str().unwrap().contains(field), "{}", answer.body);
        assert_eq!(answer.json()["code"], "invalid_value");
    }
    let missing = server.post("/api/generate", &json!({})).await;
    assert_eq!((missing.status, missing.json()["code"].as_str()), (400, Some("missing_field")));
    let nulls = json!({ "message": "x", "temperature": null, "stop": null, "history": null, "model": "", "top_k": -1, "seed": u64::MAX });
    assert_eq!(server.post("/api/generate", &nulls).await.status, 200);
}

#[tokio::test]
async fn the_defaults_are_the_contracts() {
    let server = loaded(vec![]).await;
    server.post("/api/generate", &json!({ "message": "x", "seed": 7 })).await;
    server.post("/api/generate", &json!({ "message": "x", "do_sample": false })).await;
    let seen = server.script.seen.lock().unwrap().clone();
    for part in [
        "temperature: 0.7",
        "top_k: 50",
        "top_p: 0.9",
        "min_p: 0.0",
        "repetition: 1.1",
        "seed: 7",
        "max_tokens: 512",
    ] {
        assert!(seen[0].contains(part), "{part} is not in {}", seen[0]);
    }
    assert!(seen[1].contains("temperature: 0.0"), "{}", seen[1]);
}

#[tokio::test]
async fn what_is_no_json_is_refused() {
    let server = loaded(vec![]).await;
    let call = || Call::new("POST", "/api/generate");
    let send = async |call: Call| call.send(server.address).await;
    assert_eq!(send(call().body("{}")).await.status, 415);
    assert_eq!(send(call().header("content-type", "text/plain").body("{}")).await.status, 415);
    for body in ["", "{", "[]", "\"x\"", "{\"message\": 1e999}", "nul"] {
        let answer =
            send(call().header("content-type", "application/json; charset=utf-8").body(body)).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (400, Some("bad_request")),
            "{body}: {}",
            answer.body
        );
    }
    let deep = format!("{{\"message\": {}}}", "[".repeat(100_000));
    assert_eq!(
        send(call().header("content-type", "application/json").body(&deep)).await.status,
        400
    );
}

#[tokio::test]
async fn cancelling_ends_an_answer_once() {
    let server = loaded(vec![Act::Say("a b"), Act::Wait(Gate::default())]).await;
    let call = Call::new("POST", "/api/generate").json(&json!({ "message": "x" }));
    let mut stream = call.open(server.address).await;
    let head = read_until(&mut stream, " b").await;
    let id = head.lines().find_map(|line| line.strip_prefix("x-task-id: ")).unwrap().to_owned();
    assert_eq!(
        server.post("/api/cancel", &json!({ "task_id": id })).await.status,
        404,
        "the older route ends only its own"
    );
    assert_eq!(
        server.post("/api/generate/cancel", &json!({ "task_id": id })).await.json()["success"],
        true
    );
    let rest = String::from_utf8(read_to_end(&mut stream).await).unwrap();
    assert!(rest.contains("\"finish_reason\":\"cancelled\""), "{rest}");
    eventually("the sequence ends", || server.script.abandoned.load(Ordering::SeqCst) == 1).await;
    assert_eq!(server.post("/api/generate/cancel", &json!({ "task_id": id })).await.status, 404);
    assert_eq!(server.post("/api/generate/cancel", &json!({})).await.status, 400);
    assert_eq!(server.post("/api/chat/clear", &json!({})).await.json()["success"], true);
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place() {
    for acts in
        [vec![Act::Say("a b"), Act::Wait(Gate::default())], vec![Act::Wait(Gate::default())]]
    {
        let server = loaded(acts).await;
        let stream = Call::new("POST", "/api/generate")
            .json(&json!({ "message": "x" }))
            .open(server.address)
            .await;
        eventually("the request runs", || !server.script.seen.lock().unwrap().is_empty()).await;
        drop(stream);
        eventually("the sequence ends", || server.script.abandoned.load(Ordering::SeqCst) == 1)
            .await;
    }
}

#[tokio::test]
async fn a_full_queue_is_429_before_the_stream_opens() {
    let gate = Gate::default();
    let script = Script {
        queue: Some(gate.clone()),
        queue_max: Some(1),
        acts: vec![Act::Done(FinishReason::Stop)],
        ..Script::default()
    };
    let server = Server::scripted(script).await;
    server.load("sft/demo").await;
    let waiting = Call::new("POST", "/api/generate").json(&json!({ "message": "x" }));
    let mut first = waiting.open(server.address).await;
    read_until(&mut first, "x-task-id").await;
    let refused = server.post("/api/generate", &json!({ "message": "x" })).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("queue_full")));
    assert!(refused.headers.contains_key("retry-after"));
    let refused = server
        .post("/v1/chat/completions", &json!({ "messages": [{ "role": "user", "content": "x" }] }))
        .await;
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str()),
        (429, Some("rate_limit_exceeded"))
    );
    gate.open();
    assert!(String::from_utf8(read_to_end(&mut first).await).unwrap().contains("\"done\":true"));
}

#[tokio::test]
async fn a_stream_opens_while_its_model_loads() {
    let loading = Gate::default();
    let script =
        Script { loading: Some(loading.clone()), acts: vec![Act::Say("hi")], ..Script::default() };
    let server = Server::scripted(script).await;
    let mut stream = Call::new("POST", "/api/generate")
        .json(&json!({ "message": "x" }))
        .open(server.address)
        .await;
    read_until(&mut stream, ": loading").await;
    loading.open();
    assert!(
        String::from_utf8(read_to_end(&mut stream).await)
            .unwrap()
            .contains("\"finish_reason\":\"stop\"")
    );
}
