//! Clients that are slow, leave, or take nothing, and what they must not hold up.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hadal_server::HttpLimits;
use hadal_tests::client::{Call, parse, read_to_end, read_until};
use hadal_tests::scripted::{Act, Gate, Script};
use hadal_tests::server::{Server, Setup, eventually};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

const SHORT: Duration = Duration::from_millis(300);
/// Longer than any test takes.
const LONG: Duration = Duration::from_mins(1);

/// More text than any socket's buffers hold.
fn flood() -> Vec<Act> {
    let words: &'static str = "many words ".repeat(100).leak();
    vec![Act::Say(words); 2000]
}

/// One word, then nothing more.
fn hanging() -> Vec<Act> {
    vec![Act::Say("a"), Act::Wait(Gate::default())]
}

async fn flooding(http: HttpLimits) -> Server {
    let setup = Setup { http, ..Setup::default() };
    let server = Server::with(Script { acts: flood(), ..Script::default() }, setup).await;
    server.load("sft/demo").await;
    server
}

/// Opens a stream, reads its head and no more; the id of its task.
async fn stall(server: &Server) -> (TcpStream, String) {
    let socket = TcpSocket::new_v4().unwrap();
    // Few bytes on the way, so that the server notices soon.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let body = json!({ "message": "x", "max_new_tokens": 1_000_000 }).to_string();
    let head = format!(
        "POST /api/generate HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    let id = head.lines().find_map(|line| line.strip_prefix("x-task-id: ")).unwrap().to_owned();
    // The head comes before the prompt is encoded.
    eventually("the request runs", || !server.script.seen.lock().unwrap().is_empty()).await;
    (stream, id)
}

async fn abandoned(server: &Server) {
    eventually("the sequence ends", || server.script.abandoned.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_head_byte_by_byte_gets_no_more_time() {
    let limits = HttpLimits { head_timeout: SHORT, idle_timeout: LONG, ..HttpLimits::default() };
    let server = Server::with(Script::default(), Setup { http: limits, ..Setup::default() }).await;
    for head in ["GET /health HTTP/1.1\r\nx: ", "P"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let began = Instant::now();
        let dripping = async {
            loop {
                tokio::time::sleep(SHORT / 10).await;
                if stream.write_all(b"y").await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(SHORT / 2, dripping).await;
        assert_eq!(parse(&read_to_end(&mut stream).await).status, 408, "{head:?}");
        assert!(began.elapsed() < SHORT * 10, "the deadline is the head's, not the byte's");
    }
}

#[tokio::test]
async fn an_http2_connection_without_a_request_is_idle_whatever_it_sends() {
    let limits = HttpLimits { head_timeout: SHORT, idle_timeout: SHORT, ..HttpLimits::default() };
    let server = Server::with(Script::default(), Setup { http: limits, ..Setup::default() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(settings).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let pinging = tokio::spawn(async move {
        while writing.write_all(b"\0\0\x08\x06\0\0\0\0\0pingpong").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let mut sink = tokio::io::sink();
    let reading = tokio::io::copy(&mut reading, &mut sink);
    // Closed or reset: either ends it.
    let _ = tokio::time::timeout(LONG / 3, reading).await.expect("the server closes in time");
    pinging.await.unwrap();
}

#[tokio::test]
async fn a_kept_connection_waits_for_the_idle_limit_not_for_the_heads() {
    let limits = HttpLimits { head_timeout: SHORT, idle_timeout: LONG, ..HttpLimits::default() };
    let server = Server::with(Script::default(), Setup { http: limits, ..Setup::default() }).await;
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    let ask = format!("GET /health HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    for _ in 0..3 {
        kept.write_all(ask.as_bytes()).await.unwrap();
        let answer = read_until(&mut kept, "\"ok\"}").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        // Time is what this test is about.
        tokio::time::sleep(SHORT * 2).await;
    }
}

#[tokio::test]
async fn deadlines_do_not_cut_an_answer() {
    let limits = HttpLimits {
        head_timeout: SHORT,
        body_timeout: SHORT,
        idle_timeout: SHORT,
        ..HttpLimits::default()
    };
    let gate = Gate::default();
    let acts = vec![Act::Say("a"), Act::Wait(gate.clone()), Act::Say(" b")];
    let setup = Setup { http: limits, ..Setup::default() };
    let server = Server::with(Script { acts, ..Script::default() }, setup).await;
    server.load("sft/demo").await;
    let call = Call::new("POST", "/api/generate").json(&json!({ "message": "x" }));
    let mut stream = call.open(server.address).await;
    read_until(&mut stream, "\"a\"").await;
    // Time is what this test is about.
    tokio::time::sleep(SHORT * 3).await;
    gate.open();
    let rest = String::from_utf8(read_to_end(&mut stream).await).unwrap();
    assert!(rest.contains("\"finish_reason\":\"stop\""), "{rest}");
}

#[tokio::test]
async fn a_refusal_is_read_by_who_is_still_sending() {
    let limits = HttpLimits { body_bytes: 100_000, ..HttpLimits::default() };
    let server = Server::with(Script::default(), Setup { http: limits, ..Setup::default() }).await;
    let large = "x".repeat(390_000);
    for (method, path, kind, status) in [
        ("POST", "/api/generate", "application/json", 413),
        ("POST", "/v1/chat/completions", "application/json", 413),
        ("POST", "/api/generate", "text/plain", 415),
        ("POST", "/nothing", "application/json", 404),
        ("PUT", "/health", "application/json", 405),
    ] {
        let call = Call::new(method, path).header("content-type", kind).body(&large);
        let answer = call.send(server.address).await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn a_reader_that_stalls_can_be_cancelled() {
    let server = flooding(HttpLimits::default()).await;
    let (mut stream, id) = stall(&server).await;
    // Others are answered meanwhile.
    assert_eq!(server.get("/health").await.status, 200);
    let task = json!({ "task_id": id });
    assert_eq!(server.post("/api/generate/cancel", &task).await.status, 200);
    abandoned(&server).await;
    // The last event is there to read.
    read_until(&mut stream, "\"finish_reason\":\"cancelled\"").await;
}

#[tokio::test]
async fn a_reader_that_stalls_does_not_hold_a_forced_unload() {
    let server = flooding(HttpLimits::default()).await;
    let (_stream, _) = stall(&server).await;
    let unloaded = server.post("/api/models/sft/demo/unload?force=true", &json!({})).await;
    assert_eq!(unloaded.json()["success"], true);
    assert_eq!(server.script.ends.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_given_up() {
    let server = flooding(HttpLimits { idle_timeout: SHORT, ..HttpLimits::default() }).await;
    let (_stream, _) = stall(&server).await;
    abandoned(&server).await;
}

#[tokio::test]
async fn who_leaves_before_a_whole_answer_frees_its_place() {
    let server = Server::scripted(Script { acts: hanging(), ..Script::default() }).await;
    server.load("sft/demo").await;
    let body = json!({ "messages": [{ "role": "user", "content": "x" }] });
    let stream = Call::new("POST", "/v1/chat/completions").json(&body).open(server.address).await;
    eventually("the request runs", || !server.script.seen.lock().unwrap().is_empty()).await;
    drop(stream);
    abandoned(&server).await;
}

#[tokio::test]
async fn one_http2_stream_that_leaves_frees_its_place_and_no_other() {
    let server = Server::scripted(Script { acts: hanging(), ..Script::default() }).await;
    server.load("sft/demo").await;
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let ask = async |mut sender: http2::SendRequest<Full<Bytes>>| {
        let request = Request::post(format!("http://{}/api/generate", server.address))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(b"{\"message\": \"x\"}")))
            .unwrap();
        sender.send_request(request).await.unwrap()
    };
    let (leaving, mut staying) = (ask(sender.clone()).await, ask(sender.clone()).await);
    eventually("both run", || server.script.seen.lock().unwrap().len() == 2).await;
    drop(leaving);
    abandoned(&server).await;
    let task = json!({ "task_id": staying.headers()["x-task-id"].to_str().unwrap() });
    assert_eq!(server.post("/api/generate/cancel", &task).await.status, 200);
    let mut text = String::new();
    while let Some(frame) = staying.body_mut().frame().await {
        text += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
    }
    assert!(text.contains("\"finish_reason\":\"cancelled\""), "{text}");
}

#[tokio::test]
async fn who_leaves_while_a_model_loads_never_reaches_it() {
    let loading = Gate::default();
    let script = Script { loading: Some(loading.clone()), ..Script::default() };
    let server = Server::scripted(script).await;
    let call = Call::new("POST", "/api/generate").json(&json!({ "message": "x" }));
    let mut stream = call.open(server.address).await;
    read_until(&mut stream, ": loading").await;
    eventually("the load begins", || server.script.loads.load(Ordering::SeqCst) == 1).await;
    drop(stream);
    let mut other = call.open(server.address).await;
    let head = read_until(&mut other, ": loading").await;
    let id = head.lines().find_map(|line| line.strip_prefix("x-task-id: ")).unwrap();
    let task = json!({ "task_id": id });
    assert_eq!(server.post("/api/generate/cancel", &task).await.status, 200);
    read_until(&mut other, "\"finish_reason\":\"cancelled\"").await;
    loading.open();
    server.until("/api/models/sft/demo/status", |answer| answer.json()["loaded"] == true).await;
    assert!(server.script.seen.lock().unwrap().is_empty(), "nobody was left to compute for");
}

#[tokio::test]
async fn an_unload_goes_on_when_its_client_leaves() {
    let server = Server::scripted(Script { acts: hanging(), ..Script::default() }).await;
    server.load("sft/demo").await;
    let call = Call::new("POST", "/api/generate").json(&json!({ "message": "x" }));
    let mut running = call.open(server.address).await;
    read_until(&mut running, "\"a\"").await;
    let path = "/api/models/sft/demo/unload";
    let unloading = Call::new("POST", path).open(server.address).await;
    let status = "/api/models/sft/demo/status";
    server.until(status, |answer| answer.json()["status"] == "not_loaded").await;
    // A load that is asked for now comes after the unload.
    assert_eq!(server.post("/api/models/sft/demo/load", &json!({})).await.status, 202);
    drop(unloading);
    drop(running);
    eventually("the memory is back", || server.script.ends.load(Ordering::SeqCst) == 1).await;
    server.until(status, |answer| answer.json()["status"] == "loaded").await;
    assert_eq!(server.script.loads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_server_whose_places_are_all_taken_still_stops() {
    let limits = HttpLimits { connections: 2, ..HttpLimits::default() };
    let setup = Setup { http: limits, ..Setup::default() };
    let mut server = Server::with(Script::default(), setup).await;
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    let ask = format!("GET /health HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    kept.write_all(ask.as_bytes()).await.unwrap();
    read_until(&mut kept, "\"ok\"}").await;
    // One that never asks anything.
    let _silent = TcpStream::connect(server.address).await.unwrap();
    let _waiting = TcpStream::connect(server.address).await.unwrap();
    server.stop();
    server.stopped().await;
}
