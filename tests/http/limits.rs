//! Bounds on connections, heads and bodies; HTTP/2; stopping.

use std::time::Duration;

use bytes::Bytes;
use hadal_server::HttpLimits;
use hadal_tests::client::{Call, parse, read_to_end, read_until};
use hadal_tests::scripted::{Act, Gate, Script};
use hadal_tests::server::{Server, Setup, eventually};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

async fn limited(http: HttpLimits) -> Server {
    Server::with(Script::default(), Setup { http, ..Setup::default() }).await
}

#[tokio::test]
async fn a_slow_head_is_closed_and_silence_too() {
    let short = Duration::from_millis(60);
    let server = limited(HttpLimits {
        head_timeout: short,
        idle_timeout: 3 * short,
        ..HttpLimits::default()
    })
    .await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: localh").await.unwrap();
    assert_eq!(parse(&read_to_end(&mut slow).await).status, 408);
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(read_to_end(&mut silent).await, b"", "nothing was asked, nothing is answered");
    // A connection that is kept alive is idle after its answer.
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    kept.write_all(format!("GET /health HTTP/1.1\r\nhost: {}\r\n\r\n", server.address).as_bytes())
        .await
        .unwrap();
    assert_eq!(parse(&read_to_end(&mut kept).await).status, 200);
}

#[tokio::test]
async fn a_slow_body_is_408_and_a_large_one_413() {
    let limits = HttpLimits {
        body_timeout: Duration::from_millis(60),
        body_bytes: 1000,
        ..HttpLimits::default()
    };
    let server = limited(limits).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /api/generate HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{{",
        server.address
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(parse(&read_to_end(&mut slow).await).status, 408);
    let large = server.post("/api/generate", &json!({ "message": "x".repeat(2000) })).await;
    assert_eq!((large.status, large.json()["code"].as_str()), (413, Some("body_too_large")));
    let mut chunked = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /api/generate HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n",
        server.address,
        "x".repeat(2000)
    );
    chunked.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(parse(&read_to_end(&mut chunked).await).status, 413);
}

#[tokio::test]
async fn a_large_head_is_refused_and_nonsense_too() {
    let server = limited(HttpLimits::default()).await;
    let large = Call::new("GET", "/health")
        .header("x-padding", &"x".repeat(100_000))
        .send(server.address)
        .await;
    assert_eq!(large.status, 431);
    let fits = Call::new("GET", "/health")
        .header("x-padding", &"x".repeat(50_000))
        .send(server.address)
        .await;
    assert_eq!(fits.status, 200);
    let mut nonsense = TcpStream::connect(server.address).await.unwrap();
    nonsense.write_all(b"\x01\x02 nonsense\r\n\r\n").await.unwrap();
    assert_eq!(parse(&read_to_end(&mut nonsense).await).status, 400);
}

#[tokio::test]
async fn more_connections_than_the_limit_wait_their_turn() {
    let server = limited(HttpLimits { connections: 2, ..HttpLimits::default() }).await;
    let held: Vec<TcpStream> = vec![
        TcpStream::connect(server.address).await.unwrap(),
        TcpStream::connect(server.address).await.unwrap(),
    ];
    let address = server.address;
    let third = tokio::spawn(async move { Call::new("GET", "/health").send(address).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!third.is_finished(), "the third is not served beside two");
    drop(held);
    assert_eq!(third.await.unwrap().status, 200);
}

#[tokio::test]
async fn http2_by_prior_knowledge() {
    let server =
        Server::scripted(Script { acts: vec![Act::Say("two")], ..Script::default() }).await;
    server.load("sft/demo").await;
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://{}/api/generate", server.address))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(json!({ "message": "x" }).to_string())))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8(body.to_vec()).unwrap().contains("\"done\":true"));
}

#[tokio::test]
async fn stopping_lets_answers_finish_and_refuses_new_ones() {
    let gate = Gate::default();
    let acts = vec![Act::Say("a"), Act::Wait(gate.clone()), Act::Say(" b")];
    let mut server = Server::scripted(Script { acts, ..Script::default() }).await;
    server.load("sft/demo").await;
    let mut running = Call::new("POST", "/api/generate")
        .json(&json!({ "message": "x" }))
        .open(server.address)
        .await;
    read_until(&mut running, "\"a\"").await;
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    kept.write_all(ask("/health").as_bytes()).await.unwrap();
    read_until(&mut kept, "\"ok\"}").await;
    let ask = ask("/api/models");
    let address = server.address;
    server.stop();
    // New connections are refused by the system once the listener has gone.
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    kept.write_all(ask.as_bytes()).await.unwrap();
    let refused = parse(&read_to_end(&mut kept).await);
    assert_eq!((refused.status, refused.headers.contains_key("retry-after")), (503, true));
    gate.open();
    let rest = String::from_utf8(read_to_end(&mut running).await).unwrap();
    assert!(rest.contains("\"finish_reason\":\"stop\""), "{rest}");
    server.stopped().await;
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_ended_with_an_error() {
    let script =
        Script { acts: vec![Act::Say("a"), Act::Wait(Gate::default())], ..Script::default() };
    let mut server =
        Server::with(script, Setup { drain: Duration::from_millis(50), ..Setup::default() }).await;
    server.load("sft/demo").await;
    let mut running = Call::new("POST", "/api/generate")
        .json(&json!({ "message": "x" }))
        .open(server.address)
        .await;
    read_until(&mut running, "\"a\"").await;
    eventually("it runs", || !server.script.seen.lock().unwrap().is_empty()).await;
    server.stop();
    let rest = String::from_utf8(read_to_end(&mut running).await).unwrap();
    assert!(rest.contains("\"finish_reason\":\"error\"") && rest.contains("stopping"), "{rest}");
    server.stopped().await;
}
