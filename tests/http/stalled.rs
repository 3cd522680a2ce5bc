//! HTTP/2 clients that open no window, and when a kept connection is idle.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hadal_server::HttpLimits;
use hadal_tests::client::{Call, read_until};
use hadal_tests::scripted::{Act, Gate, PATIENCE, Script};
use hadal_tests::server::{Server, Setup, eventually};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const IDLE: Duration = Duration::from_millis(500);

async fn over(acts: Vec<Act>, idle_timeout: Duration, head_timeout: Duration) -> Server {
    let http = HttpLimits { idle_timeout, head_timeout, ..HttpLimits::default() };
    let setup = Setup { http, ..Setup::default() };
    let server = Server::with(Script { acts, ..Script::default() }, setup).await;
    server.load("sft/demo").await;
    server
}

/// An HTTP/2 connection whose streams begin with so much window, and the task that ends with it.
async fn connect(
    server: &Server,
    window: u32,
) -> (http2::SendRequest<Full<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) =
        builder.initial_stream_window_size(window).handshake(io).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn ask(server: &Server, method: Method, path: &str) -> Request<Full<Bytes>> {
    let body = if method == Method::POST { "{\"message\": \"x\"}" } else { "" };
    let request = Request::builder().method(method).uri(format!("http://{}{path}", server.address));
    request.header("content-type", "application/json").body(Full::new(Bytes::from(body))).unwrap()
}

#[tokio::test]
async fn an_http2_client_that_opens_no_window_is_given_up() {
    let server = over(vec![Act::Say("a b"), Act::Wait(Gate::default())], IDLE, IDLE).await;
    for (method, path) in
        [(Method::GET, "/"), (Method::GET, "/api/models"), (Method::POST, "/api/generate")]
    {
        let (mut sender, connection) = connect(&server, 0).await;
        let answer = sender.send_request(ask(&server, method, path)).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        // Closed or reset: either ends it.
        let _ = tokio::time::timeout(PATIENCE, connection).await.expect(path);
    }
    eventually("the sequence ends", || server.script.abandoned.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn such_clients_do_not_hold_up_a_server_that_stops() {
    let mut server = over(Vec::new(), IDLE, IDLE).await;
    let (mut sender, _connection) = connect(&server, 0).await;
    let _answer = sender.send_request(ask(&server, Method::GET, "/")).await.unwrap();
    server.stop();
    let began = Instant::now();
    server.stopped().await;
    assert!(began.elapsed() < Duration::from_secs(4), "the drain timeout is 5 seconds");
}

#[tokio::test]
async fn a_stream_that_stalls_is_reset_and_the_one_beside_it_goes_on() {
    let gate = Gate::default();
    let acts = vec![
        Act::Say("so many words that a small window does not hold the events they come in"),
        Act::Wait(gate.clone()),
        Act::Say(" at the end"),
    ];
    let server = over(acts, IDLE, IDLE).await;
    let (mut sender, _connection) = connect(&server, 200).await;
    let generate = || ask(&server, Method::POST, "/api/generate");
    let mut stalled = sender.send_request(generate()).await.unwrap();
    let staying = sender.send_request(generate()).await.unwrap();
    let reading = tokio::spawn(staying.into_body().collect());
    eventually("one is given up", || server.script.abandoned.load(Ordering::SeqCst) == 1).await;
    gate.open();
    let text = reading.await.unwrap().expect("the other one is whole").to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("\"finish_reason\":\"stop\""), "{text}");
    let cut = loop {
        match stalled.body_mut().frame().await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(cut, Some(Err(_))), "what its client did not take is cut off, not ended");
}

#[tokio::test]
async fn a_kept_connection_is_idle_from_its_answers_end() {
    let second = Duration::from_secs(1);
    let gate = Gate::default();
    let server = over(vec![Act::Say("a"), Act::Wait(gate.clone())], second, second).await;
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    let call = Call::new("POST", "/api/generate").json(&json!({ "message": "x" }));
    call.keep_alive().send_on(&mut kept).await;
    read_until(&mut kept, "\"a\"").await;
    gate.open();
    read_until(&mut kept, "\"done\":true").await;
    let ended = Instant::now();
    let mut rest = Vec::new();
    // Closed or reset: either ends it.
    let _ = tokio::time::timeout(PATIENCE, kept.read_to_end(&mut rest)).await.unwrap();
    let idle = ended.elapsed();
    assert!(idle > second / 2 && idle < second * 8 / 5, "closed after {idle:?}, wanted {second:?}");
}
