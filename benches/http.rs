//! The server over the demo model, by a client on the same machine: what HTTP costs beside the answer.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench fails by panicking; its entry is a macro's"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hadal_benches::quick;
use hadal_engine::Limits;
use hadal_engine::backend::cpu::CpuOptions;
use hadal_server::models::EngineLoader;
use hadal_server::{App, AppOptions, HttpLimits};
use tokio::net::TcpListener;

const CHECKPOINTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../checkpoints");
/// Tokens of an answer.
const TOKENS: u64 = 64;

/// Serves until the process ends.
fn serve() -> SocketAddr {
    let (address, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            let app = App::new(AppOptions {
                root: CHECKPOINTS.into(),
                default_model: "sft/demo".into(),
                embedded: None,
                beside: None,
                loader: Arc::new(EngineLoader {
                    limits: Limits::default(),
                    cpu: CpuOptions::default(),
                    device: hadal_engine::DeviceChoice::Cpu,
                }),
                api_keys: Vec::new(),
                cors_origins: Vec::new(),
                http: HttpLimits::default(),
                drain_timeout: Duration::from_secs(1),
            });
            hadal_server::run(listener, app, std::future::pending()).await.unwrap();
        });
    });
    bound.recv().unwrap()
}

/// Asks on a connection that stays, and reads the whole answer.
fn ask(connection: &mut BufReader<TcpStream>, request: &str) -> Vec<u8> {
    connection.get_mut().write_all(request.as_bytes()).unwrap();
    let (mut length, mut is_chunked, mut line) = (0, false, String::new());
    loop {
        line.clear();
        connection.read_line(&mut line).unwrap();
        let lower = line.trim().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        is_chunked |= lower == "transfer-encoding: chunked";
    }
    let mut body = Vec::new();
    if !is_chunked {
        body.resize(length, 0);
        connection.read_exact(&mut body).unwrap();
        return body;
    }
    loop {
        line.clear();
        connection.read_line(&mut line).unwrap();
        let n = usize::from_str_radix(line.trim(), 16).unwrap();
        let begin = body.len();
        body.resize(begin + n + 2, 0);
        connection.read_exact(&mut body[begin..]).unwrap();
        body.truncate(begin + n);
        if n == 0 {
            return body;
        }
    }
}

fn http(c: &mut Criterion) {
    let address = serve();
    let mut connection = BufReader::new(TcpStream::connect(address).unwrap());
    connection.get_ref().set_nodelay(true).unwrap();
    let mut group = c.benchmark_group("http");
    group.throughput(Throughput::Elements(1));
    let health = format!("GET /health HTTP/1.1\r\nhost: {address}\r\n\r\n");
    group.bench_function("health", |b| b.iter(|| ask(&mut connection, &health)));
    // No token of the demo model ends this before its length: what ends an answer is made unlikely.
    let body = format!(
        r#"{{"messages": [{{"role": "user", "content": "Tell me a story."}}], "max_tokens": {TOKENS}, "stream": true,
            "seed": 1, "logit_bias": {{"0": -100, "1": -100, "2": -100}}}}"#
    );
    let chat = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = String::from_utf8(ask(&mut connection, &chat)).unwrap();
    assert!(answer.contains("\"finish_reason\":\"length\""), "{answer}");
    group.throughput(Throughput::Elements(TOKENS));
    group
        .bench_function("streamed answer of 64 tokens", |b| b.iter(|| ask(&mut connection, &chat)));
    group.finish();
}

criterion_group! {
    name = requests;
    config = quick();
    targets = http
}
criterion_main!(requests);
