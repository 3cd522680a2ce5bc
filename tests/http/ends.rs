//! Ends that are not the answer's own: a server that stops, a model that is lost or taken away, a load that fails.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hadal_tests::client::{Call, read_to_end, read_until};
use hadal_tests::scripted::{Act, Gate, PATIENCE, Script};
use hadal_tests::server::{Server, Setup, copy_model, eventually};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";

fn chat(stream: bool) -> Value {
    json!({ "stream": stream, "messages": [{ "role": "user", "content": "x" }] })
}

fn hanging() -> Vec<Act> {
    vec![Act::Say("a"), Act::Wait(Gate::default())]
}

async fn over(script: Script) -> Server {
    let server = Server::scripted(script).await;
    server.load("sft/demo").await;
    server
}

async fn runs(server: &Server) {
    eventually("the request runs", || !server.script.seen.lock().unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_load_that_panics_is_an_error_and_can_be_tried_again() {
    let server = Server::scripted(Script { panics_in_load: true, ..Script::default() }).await;
    for n in 1..=2 {
        let answer = server.post("/api/models/sft/demo/load", &json!({})).await;
        assert_eq!(answer.status, 202);
        let path = "/api/models/sft/demo/status";
        let body = server.until(path, |answer| answer.json()["status"] == "error").await.json();
        assert_eq!((&body["loaded"], body["error"].is_string()), (&json!(false), true));
        assert_eq!(server.script.loads.load(Ordering::SeqCst), n);
    }
    let last = server.post("/api/generate", &json!({ "message": "x" })).await.last();
    assert_eq!((&last["done"], &last["finish_reason"]), (&json!(true), &json!("error")));
    let answer = server.post(CHAT, &chat(true)).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("model_unusable")));
}

#[tokio::test]
async fn what_cannot_be_read_ends_in_its_status_and_the_last_event() {
    let server = Server::scripted(Script::default()).await;
    std::fs::write(server.root.path().join("best.pt"), "x").unwrap();
    assert_eq!(server.post("/api/models/best.pt/load", &json!({})).await.status, 503);
    let status = server.get("/api/models/best.pt/status").await.json();
    assert_eq!((&status["status"], &status["loaded"]), (&json!("error"), &json!(false)));
    let answer = server.post("/api/generate", &json!({ "message": "x", "model": "best.pt" })).await;
    assert_eq!((answer.status, &answer.last()["finish_reason"]), (200, &json!("error")));
    assert!(answer.last()["error"].as_str().unwrap().contains("best.pt"));
    assert_eq!(server.script.loads.load(Ordering::SeqCst), 0, "it was known to be broken");
}

#[tokio::test]
async fn an_answer_whose_model_is_taken_away_is_no_whole_answer() {
    let server = over(Script { acts: hanging(), ..Script::default() }).await;
    let address = server.address;
    let whole =
        tokio::spawn(async move { Call::new("POST", CHAT).json(&chat(false)).send(address).await });
    let mut streamed = Call::new("POST", CHAT).json(&chat(true)).open(address).await;
    read_until(&mut streamed, "\"content\":\"a\"").await;
    eventually("both run", || server.script.seen.lock().unwrap().len() == 2).await;
    server.post("/api/models/sft/demo/unload?force=true", &json!({})).await;
    let answer = whole.await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("model_unloaded")));
    let rest = String::from_utf8(read_to_end(&mut streamed).await).unwrap();
    assert!(rest.contains("model_unloaded") && rest.contains("data: [DONE]"), "{rest}");
}

#[tokio::test]
async fn a_model_without_its_files_is_served_and_unloaded() {
    let server = Server::scripted(Script { acts: vec![Act::Say("hi")], ..Script::default() }).await;
    copy_model(server.root.path(), "new/one");
    server.load("new/one").await;
    std::fs::remove_dir_all(server.root.path().join("new")).unwrap();
    let body = json!({ "message": "x", "model": "new/one" });
    assert_eq!(server.post("/api/generate", &body).await.text(), "hi");
    let unloaded = server.post("/api/models/unload", &json!({ "model": "new/one" })).await;
    assert_eq!(unloaded.json(), json!({ "success": true, "message": "Model new/one unloaded" }));
    server.until("/api/models", |answer| answer.json()["models"]["new/one"].is_null()).await;
    let unloaded = server.post("/api/models/unload", &json!({ "model": "new/one" })).await;
    assert_eq!(unloaded.status, 404, "neither loaded nor there");
}

#[tokio::test]
async fn a_server_that_stops_ends_each_stream_in_its_own_words() {
    let setup = Setup { drain: Duration::from_millis(50), ..Setup::default() };
    let mut server = Server::with(Script { acts: hanging(), ..Script::default() }, setup).await;
    server.load("sft/demo").await;
    let mut openai = Call::new("POST", CHAT).json(&chat(true)).open(server.address).await;
    read_until(&mut openai, "\"content\":\"a\"").await;
    let body = json!({ "prompt": "x" });
    let call = Call::new("POST", "/api/generate").json(&body);
    let mut older = call.open(server.address).await;
    read_until(&mut older, "\"content\":\"a\"").await;
    server.stop();
    let rest = String::from_utf8(read_to_end(&mut openai).await).unwrap();
    assert!(rest.contains("the server is stopping") && rest.contains("data: [DONE]"), "{rest}");
    let rest = String::from_utf8(read_to_end(&mut older).await).unwrap();
    assert!(rest.contains("\"type\":\"error\"") && rest.contains("stopping"), "{rest}");
    server.stopped().await;
}

#[tokio::test]
async fn a_server_that_stops_while_a_model_loads_finishes_what_was_begun() {
    let loading = Gate::default();
    let acts = vec![Act::Say("to the end")];
    let script = Script { loading: Some(loading.clone()), acts, ..Script::default() };
    let mut server = Server::scripted(script).await;
    let call = Call::new("POST", "/api/generate").json(&json!({ "message": "x" }));
    let mut stream = call.open(server.address).await;
    read_until(&mut stream, ": loading").await;
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    let (health, ready) = (ask("/health"), ask("/ready"));
    write(&mut kept, &health).await;
    read_until(&mut kept, "\"ok\"}").await;
    let address = server.address;
    server.stop();
    eventually("the listener has gone", || std::net::TcpStream::connect(address).is_err()).await;
    write(&mut kept, &ready).await;
    let answer = String::from_utf8(read_to_end(&mut kept).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("draining"), "{answer}");
    loading.open();
    let rest = String::from_utf8(read_to_end(&mut stream).await).unwrap();
    assert!(rest.contains("\"finish_reason\":\"stop\""), "{rest}");
    server.stopped().await;
}

async fn write(stream: &mut TcpStream, text: &str) {
    use tokio::io::AsyncWriteExt;
    stream.write_all(text.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn each_cancel_ends_only_its_own_form() {
    let server = over(Script { acts: hanging(), ..Script::default() }).await;
    let call = Call::new("POST", "/api/generate").json(&json!({ "prompt": "x" }));
    let mut stream = call.open(server.address).await;
    let head = read_until(&mut stream, "\"content\":\"a\"").await;
    runs(&server).await;
    let id = head.lines().find_map(|line| line.strip_prefix("x-task-id: ")).unwrap();
    let task = json!({ "task_id": id });
    assert_eq!(server.post("/api/generate/cancel", &task).await.status, 404);
    assert_eq!(server.post("/api/cancel", &task).await.json()["success"], true);
    let rest = String::from_utf8(read_to_end(&mut stream).await).unwrap();
    assert!(rest.contains("\"type\":\"cancelled\""), "{rest}");
    assert_eq!(server.post("/api/cancel", &task).await.status, 404);
}

#[test]
fn a_server_that_stops_does_not_wait_for_a_load() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let script = Script { loading: Some(Gate::default()), ..Script::default() };
    runtime.block_on(async {
        let mut server = Server::scripted(script).await;
        server.post("/api/models/sft/demo/load", &json!({})).await;
        let script = std::sync::Arc::clone(&server.script);
        eventually("the load begins", || script.loads.load(Ordering::SeqCst) == 1).await;
        server.stop();
        server.stopped().await;
    });
    let began = Instant::now();
    drop(runtime);
    assert!(began.elapsed() < PATIENCE / 2, "the process could not have ended");
}
