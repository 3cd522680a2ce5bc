//! The real engine with the demo model behind HTTP.

use std::path::Path;
use std::sync::Arc;

use hadal_engine::backend::cpu::CpuOptions;
use hadal_engine::{DeviceChoice, Limits};
use hadal_server::models::EngineLoader;
use hadal_tests::client::{Answer, Call, read_until};
use hadal_tests::scripted::Script;
use hadal_tests::server::{Server, Setup};
use serde_json::{Value, json};

async fn demo() -> Server {
    let limits = Limits { sequences_max: 32, ..Limits::default() };
    let cpu = CpuOptions { threads: Some(2), ..CpuOptions::default() };
    let loader = Arc::new(EngineLoader { limits, cpu, device: DeviceChoice::Cpu });
    let server = Server::start(loader, Arc::new(Script::default()), Setup::default()).await;
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../checkpoints/sft/demo");
    let to = server.root.path().join("real");
    std::fs::create_dir(&to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    server.load("real").await;
    server
}

/// Questions of different lengths, drawn and greedy.
fn question(i: usize) -> Value {
    let messages = [
        "Hello!",
        "What is the capital of Japan?",
        "Tell me a story about a fox and a lamp.",
        "What is 7 plus 5?",
    ];
    json!({
        "model": "real",
        "message": format!("{} {}", messages[i % 4], "please ".repeat(i % 7)),
        "history": if i.is_multiple_of(3) { json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Hello! How are you?" }]) } else { json!([]) },
        "temperature": if i.is_multiple_of(2) { 0.0 } else { 0.9 },
        "seed": i,
        "max_new_tokens": 48,
    })
}

/// What must not depend on the company: the text, why it ended, how many tokens.
fn essence(answer: &Answer) -> (String, Value, Value) {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let last = answer.last();
    (answer.text(), last["finish_reason"].clone(), last["usage"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_streams_at_once_give_what_each_gives_alone() {
    let server = demo().await;
    let mut alone = Vec::new();
    for i in 0..32 {
        alone.push(essence(&server.post("/api/generate", &question(i)).await));
    }
    let address = server.address;
    let running: Vec<_> = (0..32)
        .map(|i| {
            tokio::spawn(async move {
                Call::new("POST", "/api/generate").json(&question(i)).send(address).await
            })
        })
        .collect();
    for (i, running) in running.into_iter().enumerate() {
        assert_eq!(essence(&running.await.unwrap()), alone[i], "stream {i}");
    }
    assert!(alone.iter().all(|(text, ..)| !text.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_may_have_more_end_tokens_than_a_request() {
    let loader = EngineLoader {
        limits: Limits::default(),
        cpu: CpuOptions::default(),
        device: DeviceChoice::Cpu,
    };
    let (script, setup) = (Arc::new(Script::default()), Setup::default());
    let server = Server::start(Arc::new(loader), script, setup).await;
    // Every id of the vocabulary but the first two hundred.
    let ends: Vec<u32> = (200..384).collect();
    let file = server.root.path().join("world/one/generation_config.json");
    std::fs::write(file, json!({ "eos_token_id": ends }).to_string()).unwrap();
    server.load("world/one").await;
    let body = json!({ "message": "x", "model": "world/one", "seed": 1 });
    let last = server.post("/api/generate", &body).await.last();
    assert_eq!(last["finish_reason"], "stop", "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_client_gives_its_pages_back() {
    let server = demo().await;
    let mut body = question(2);
    body["max_new_tokens"] = json!(400);
    let mut stream = Call::new("POST", "/api/generate").json(&body).open(server.address).await;
    read_until(&mut stream, "\"token\"").await;
    server.until("/metrics", |answer| !answer.body.contains("hadal_cache_pages_used 0\n")).await;
    drop(stream);
    server
        .until("/metrics", |answer| {
            answer.body.contains("hadal_cache_pages_used 0\n")
                && answer.body.contains("hadal_requests_running 0\n")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_lost_is_in_error_until_it_is_asked_for_again() {
    let server = demo().await;
    let file = server.root.path().join("real/model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_len(100_000).unwrap();
    let answer = server.post("/api/generate", &question(1)).await;
    let last = answer.last();
    assert_eq!(last["finish_reason"], "error");
    let sentence = last["error"].as_str().unwrap();
    assert!(sentence.starts_with("real/model.safetensors: "), "{sentence}");
    let status = server.get("/api/models/real/status").await.json();
    assert_eq!((&status["status"], &status["loaded"]), (&json!("error"), &json!(false)));
    std::fs::write(&file, whole).unwrap();
    // A listing is used again for half a second.
    server
        .until("/api/models/real/status", |answer| {
            let error = answer.json()["error"].clone();
            error.as_str().is_some_and(|error| error.contains("was lost"))
        })
        .await;
    assert_eq!(server.post("/api/generate", &question(1)).await.last()["finish_reason"], "stop");
    assert_eq!(server.get("/api/models/real/status").await.json()["loaded"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_answers_in_sentences() {
    let server = demo().await;
    let ask = async |message: &str| {
        let body = json!({ "model": "real", "message": message, "temperature": 0, "repetition_penalty": 1.0 });
        server.post("/api/generate", &body).await.text()
    };
    assert_eq!(ask("What is the capital of Japan?").await, "The capital of Japan is Tokyo.");
    assert!(ask("Tell me a story about a fox and a lamp.").await.contains("fox"));
}
