//! A small HTTP/1.1 client that shows exactly what came over the wire.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scripted::PATIENCE;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body, chunks put together.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The `data:` events of a stream: JSON, or words as strings.
    pub fn events(&self) -> Vec<Value> {
        let data = self.body.split("\n\n").filter_map(|frame| frame.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| Value::String(data.into())))
            .collect()
    }

    /// The text of a page stream's tokens.
    pub fn text(&self) -> String {
        self.events()
            .iter()
            .filter_map(|event| {
                event["token"].as_str().or(event["content"].as_str()).map(String::from)
            })
            .collect()
    }

    /// The last event.
    #[track_caller]
    pub fn last(&self) -> Value {
        self.events().pop().expect("an event")
    }
}

/// A request that is sent as it stands.
pub struct Call {
    head: String,
    body: String,
}

impl Call {
    /// A request line; the connection is closed after the answer.
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            head: format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n"),
            body: String::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.head.extend([name, ": ", value, "\r\n"]);
        self
    }

    /// A JSON body.
    #[must_use]
    pub fn json(self, value: &Value) -> Self {
        self.header("content-type", "application/json").body(&value.to_string())
    }

    /// Any body.
    #[must_use]
    pub fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    /// The connection is kept after the answer.
    #[must_use]
    pub fn keep_alive(mut self) -> Self {
        self.head = self.head.replace("connection: close\r\n", "");
        self
    }

    /// Opens a connection and sends; the caller reads.
    pub async fn open(&self, address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        self.send_on(&mut stream).await;
        stream
    }

    /// Sends over a connection that is open already.
    pub async fn send_on(&self, stream: &mut TcpStream) {
        let address = stream.peer_addr().unwrap();
        let host = if self.head.contains("\r\nhost:") {
            String::new()
        } else {
            format!("host: {address}\r\n")
        };
        let length = self.body.len();
        let text = format!("{}{host}content-length: {length}\r\n\r\n{}", self.head, self.body);
        // A server that refuses early may close before everything is written.
        let _ = stream.write_all(text.as_bytes()).await;
    }

    /// Sends and reads the whole answer.
    pub async fn send(&self, address: SocketAddr) -> Answer {
        let mut stream = self.open(address).await;
        parse(&read_to_end(&mut stream).await)
    }
}

/// Reads until the server closes.
pub async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = async {
        let mut buffer = [0; 4096];
        // A reset after the answer is an end too.
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..n]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the server ends the answer in time");
    bytes
}

/// Reads until `text` has come.
pub async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = String::new();
    let reading = async {
        let mut buffer = [0; 1024];
        while !seen.contains(text) {
            let n = stream.read(&mut buffer).await.unwrap();
            assert!(n > 0, "ended without `{text}`: {seen}");
            seen += &String::from_utf8_lossy(&buffer[..n]);
        }
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap_or_else(|_| panic!("`{text}` did not come"));
    seen
}

/// Takes an answer apart.
#[track_caller]
pub fn parse(bytes: &[u8]) -> Answer {
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let at = at.unwrap_or_else(|| panic!("no HTTP head: {:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8(bytes[..at].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_lowercase(), value.trim().to_owned())
    };
    let headers: BTreeMap<String, String> = lines.map(header).collect();
    let body = &bytes[at + 4..];
    let body = if headers.get("transfer-encoding").is_some_and(|v| v == "chunked") {
        unchunk(body)
    } else {
        body.to_vec()
    };
    Answer { status, headers, body: String::from_utf8(body).expect("bodies are UTF-8") }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).unwrap();
        if size == 0 || bytes.len() < at + 2 + size {
            break;
        }
        body.extend_from_slice(&bytes[at + 2..at + 2 + size]);
        bytes = &bytes[(at + 4 + size).min(bytes.len())..];
    }
    body
}
