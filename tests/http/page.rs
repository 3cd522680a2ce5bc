//! The page and its assets, and what operators ask.

use hadal_tests::client::Call;
use hadal_tests::scripted::Script;
use hadal_tests::server::{Server, Setup};
use serde_json::json;

#[tokio::test]
async fn the_page_comes_with_a_strict_policy_and_from_the_binary_alone() {
    let server = Server::scripted(Script::default()).await;
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.headers["content-type"].starts_with("text/html"));
    let policy = &page.headers["content-security-policy"];
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    let mut assets = 0;
    for name in page.body.split('"').filter(|part| part.starts_with("assets/")) {
        assert_eq!(server.get(&format!("/{name}")).await.status, 200, "{name}");
        assets += 1;
    }
    assert!(assets >= 2, "the page names its script and its style");
    assert_eq!(server.get("/assets/none.js").await.status, 404);
    assert_eq!(server.get("/assets/..%2fCargo.toml").await.status, 404);
}

#[tokio::test]
async fn a_known_asset_is_not_sent_again() {
    let server = Server::scripted(Script::default()).await;
    let page = server.get("/").await;
    let again = Call::new("GET", "/")
        .header("if-none-match", &page.headers["etag"])
        .send(server.address)
        .await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
}

#[tokio::test]
async fn wrong_methods_and_routes_say_so() {
    let server = Server::scripted(Script::default()).await;
    for (method, path, allow) in [
        ("POST", "/api/models", "GET, HEAD, OPTIONS"),
        ("GET", "/api/generate", "POST, OPTIONS"),
        ("DELETE", "/api/chat/clear", "POST, OPTIONS"),
        ("PUT", "/v1/chat/completions", "POST, OPTIONS"),
    ] {
        let answer = Call::new(method, path).send(server.address).await;
        assert_eq!(
            (answer.status, answer.headers["allow"].as_str()),
            (405, allow),
            "{method} {path}"
        );
        let options = Call::new("OPTIONS", path).send(server.address).await;
        assert_eq!(
            (options.status, options.headers["allow"].as_str()),
            (204, allow),
            "OPTIONS {path}"
        );
    }
    let answer = server.get("/api/nothing").await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("not_found")));
    let head = Call::new("HEAD", "/api/models").send(server.address).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn health_ready_version_and_metrics() {
    let server = Server::scripted(Script::default()).await;
    assert_eq!(server.get("/health").await.status, 200);
    let ready = server.get("/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("not loaded"), "{}", ready.body);
    server.load("sft/demo").await;
    assert_eq!(server.get("/ready").await.status, 200);
    assert_eq!(server.get("/version").await.json()["version"], env!("CARGO_PKG_VERSION"));
    let answer = server.post("/api/generate", &json!({ "message": "hi" })).await;
    assert_eq!(answer.status, 200);
    let metrics = server.get("/metrics").await.body;
    for name in [
        "hadal_requests_running",
        "hadal_requests_waiting",
        "hadal_prompt_tokens_total",
        "hadal_generation_tokens_total",
        "hadal_time_to_first_token_seconds",
        "hadal_inter_token_seconds",
        "hadal_request_seconds",
        "hadal_cache_pages_used",
        "hadal_models_loaded 1",
        "hadal_requests_total{route=\"/api/generate\",status=\"200\"} 1",
    ] {
        assert!(metrics.contains(name), "no {name} in\n{metrics}");
    }
}

#[tokio::test]
async fn keys_guard_everything_but_the_page_and_health() {
    let setup = Setup { keys: vec!["secret".into()], ..Setup::default() };
    let server = Server::with(Script::default(), setup).await;
    for open in ["/", "/health"] {
        assert_eq!(server.get(open).await.status, 200, "{open}");
    }
    for path in ["/api/models", "/metrics", "/version", "/v1/models", "/api/models/sft/demo/status"]
    {
        assert_eq!(server.get(path).await.status, 401, "{path}");
        let with = |name, value| Call::new("GET", path).header(name, value);
        assert_eq!(
            with("authorization", "Bearer secret").send(server.address).await.status,
            200,
            "{path}"
        );
        assert_eq!(with("x-api-key", "secret").send(server.address).await.status, 200, "{path}");
        assert_eq!(with("x-api-key", "secre").send(server.address).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn other_origins_need_leave() {
    let setup = Setup { origins: vec!["https://ok.example".into()], ..Setup::default() };
    let server = Server::with(Script::default(), setup).await;
    let from = |origin| Call::new("POST", "/api/chat/clear").header("origin", origin);
    let allowed = from("https://ok.example").send(server.address).await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.headers["access-control-allow-origin"], "https://ok.example");
    let foreign = from("https://evil.example").send(server.address).await;
    assert_eq!(
        (foreign.status, foreign.headers.contains_key("access-control-allow-origin")),
        (403, false)
    );
    let rebound = Call::new("GET", "/api/models")
        .header("host", "rebound.example")
        .send(server.address)
        .await;
    assert_eq!(rebound.status, 403);
}
