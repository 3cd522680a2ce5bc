//! Prompts that take their time: the queue first, then turns, and nobody is encoded for who has gone. And what a token
//! took, whenever it was read.

use std::time::Duration;

use hadal_tests::client::{Call, read_to_end, read_until};
use hadal_tests::scripted::{Act, Gate, Script};
use hadal_tests::server::{Server, copy_model, eventually};
use serde_json::json;

/// A template that compares two values that hold others many times over: it takes its time, and then it renders.
fn slow(server: &Server) {
    copy_model(server.root.path(), "slow/one");
    let template = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(18) %}{% set ns.x = [ns.x, ns.x] %}\
        {% set ns.y = [ns.y, ns.y] %}{% endfor %}{% if ns.x == ns.y %}yes{% endif %}";
    let file = server.root.path().join("slow/one/chat_template.jinja");
    std::fs::write(file, template).unwrap();
}

#[tokio::test]
async fn who_finds_the_queue_full_is_told_before_any_prompt_is_encoded() {
    let script = Script { queue_max: Some(1), acts: vec![Act::Say("hi")], ..Script::default() };
    let server = Server::scripted(script).await;
    slow(&server);
    server.load("slow/one").await;
    let body = json!({ "message": "x", "model": "slow/one" });
    let mut first = Call::new("POST", "/api/generate").json(&body).open(server.address).await;
    read_until(&mut first, "x-task-id").await;
    assert_eq!(server.post("/api/generate", &body).await.status, 429);
    let chat = json!({ "model": "slow/one", "messages": [{ "role": "user", "content": "x" }] });
    assert_eq!(server.post("/v1/chat/completions", &chat).await.status, 429);
    assert!(server.script.seen.lock().unwrap().is_empty(), "the first is still encoded");
    let rest = String::from_utf8(read_to_end(&mut first).await).unwrap();
    assert!(rest.contains("\"finish_reason\":\"stop\""), "{rest}");
    assert_eq!(server.post("/api/generate", &body).await.status, 200, "its place is free again");
}

#[tokio::test]
async fn a_prompt_that_is_cancelled_while_it_is_encoded_never_reaches_the_model() {
    let server = Server::scripted(Script { queue_max: Some(1), ..Script::default() }).await;
    slow(&server);
    server.load("slow/one").await;
    let call =
        Call::new("POST", "/api/generate").json(&json!({ "message": "x", "model": "slow/one" }));
    let mut stream = call.open(server.address).await;
    let head = read_until(&mut stream, "\r\n\r\n").await;
    let id = head.lines().find_map(|line| line.strip_prefix("x-task-id: ")).unwrap();
    let task = json!({ "task_id": id });
    assert_eq!(server.post("/api/generate/cancel", &task).await.status, 200);
    let rest = String::from_utf8(read_to_end(&mut stream).await).unwrap();
    assert!(rest.contains("\"finish_reason\":\"cancelled\""), "{rest}");
    // Its place is free at once.
    let unloaded = server.post("/api/models/slow/one/unload?force=true", &json!({})).await;
    assert_eq!(unloaded.json()["success"], true);
    assert!(server.script.seen.lock().unwrap().is_empty(), "nobody was left to compute for");
}

#[tokio::test]
async fn a_token_took_what_the_model_took_not_what_its_reader_took() {
    let rest = Duration::from_millis(60);
    let mut acts = Vec::new();
    for word in ["a", " b", " c", " d"] {
        acts.extend([Act::Rest(rest), Act::Say(word)]);
    }
    acts.push(Act::Wait(Gate::default()));
    let server = Server::scripted(Script { acts, ..Script::default() }).await;
    server.load("sft/demo").await;
    let body = json!({ "message": "x", "stop": " d" });
    let mut stream = Call::new("POST", "/api/generate").json(&body).open(server.address).await;
    eventually("the request runs", || !server.script.seen.lock().unwrap().is_empty()).await;
    // Server and client share this thread: all that the model says meanwhile is read at once.
    std::thread::sleep(rest * 8);
    let answer = String::from_utf8(read_to_end(&mut stream).await).unwrap();
    let last = answer.split("data: ").last().unwrap().split("\n\n").next().unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    let speed = last["timings"]["tokens_per_second"].as_f64().unwrap();
    let most = 1.0 / rest.as_secs_f64() * 4.0;
    assert!(
        speed > 0.0 && speed < most,
        "{speed} tokens a second, at most {most} were said: {last}"
    );
    assert!(last["timings"]["first_token_ms"].as_f64().unwrap() < (rest * 6).as_secs_f64() * 1e3);
    let metrics = server.get("/metrics").await.body;
    let sum = metrics.lines().find_map(|line| line.strip_prefix("hadal_inter_token_seconds_sum "));
    assert!(sum.unwrap().parse::<f64>().unwrap() >= (rest * 3).as_secs_f64(), "{sum:?}");
}
