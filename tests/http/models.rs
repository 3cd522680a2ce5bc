//! Models: listing, names, load, unload.

use std::sync::atomic::Ordering;

use hadal_engine::FinishReason;
use hadal_tests::client::Call;
use hadal_tests::scripted::{Act, Gate, Script};
use hadal_tests::server::{Server, copy_model, eventually};
use serde_json::json;

#[tokio::test]
async fn the_listing_shows_what_each_model_is() {
    let server = Server::scripted(Script::default()).await;
    std::fs::create_dir_all(server.root.path().join("half/copied")).unwrap();
    std::fs::write(server.root.path().join("half/copied/config.json"), "{").unwrap();
    std::fs::write(server.root.path().join("old.pt"), "x").unwrap();
    let list = server.get("/api/models").await.json();
    assert_eq!(list["count"], 6);
    let models = &list["models"];
    for (name, kind) in [
        ("sft/demo", "SFT"),
        ("pretrain/base", "Pretrained"),
        ("rl/grpo", "RL"),
        ("world/one", "Unknown"),
    ] {
        let model = &models[name];
        assert_eq!((model["type"].as_str(), model["name"].as_str()), (Some(kind), Some(name)));
        assert_eq!(
            (model["status"].as_str(), model["loaded"].as_bool()),
            (Some("not_loaded"), Some(false))
        );
        assert_eq!(
            (model["format"].as_str(), model["architecture"].as_str()),
            (Some("safetensors"), Some("deepseek_v3"))
        );
        assert!(
            model["path"].as_str().unwrap().ends_with(name)
                && model["size_mb"].as_f64().unwrap() > 0.0
        );
        assert_eq!(model["modified"].as_str().unwrap().len(), "2026-01-01 00:00:00".len());
        assert_eq!(model["default"].as_bool(), Some(name == "sft/demo"));
        assert_eq!(model["usable"], true);
    }
    for broken in ["half/copied", "old.pt"] {
        let model = &models[broken];
        assert_eq!(model["status"], "error", "{broken}");
        assert_eq!(model["usable"], false, "{broken}");
        assert!(
            !model["error"].as_str().unwrap().is_empty()
                && !model["error"].as_str().unwrap().contains("/tmp")
        );
    }
}

#[tokio::test]
async fn a_folder_that_comes_while_the_server_runs_serves_once_it_is_whole() {
    let acts = vec![Act::Say("here"), Act::Done(FinishReason::Stop)];
    let server = Server::scripted(Script { acts, ..Script::default() }).await;
    let status = "/api/models/new/one/status";
    assert_eq!(server.get(status).await.status, 404);
    copy_model(server.root.path(), "new/one");
    let weights = server.root.path().join("new/one/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let listed = server.until(status, |answer| answer.status == 200).await.json();
    assert_eq!(listed["status"], "error");
    let body = json!({ "message": "hi", "model": "new/one" });
    // Asked for too early, it says why, and the failure is not held against it later.
    let refused = server.post("/api/generate", &body).await;
    assert!(refused.last()["error"].as_str().unwrap().contains("model.safetensors"));
    std::fs::write(&weights, &whole).unwrap();
    let listed = server.until(status, |answer| answer.json()["status"] != "error").await.json();
    assert_eq!((&listed["status"], &listed["error"]), (&json!("not_loaded"), &json!(null)));
    assert_eq!(server.post("/api/generate", &body).await.text(), "here");
}

#[tokio::test]
async fn a_name_is_looked_up_and_never_joined_to_a_path() {
    let server = Server::scripted(Script::default()).await;
    for path in [
        "/api/models/sft/demo/status",
        "/api/models/sft%2Fdemo/status",
        "/api/models/status?model=sft/demo",
        "/api/models/status?model=sft%2Fdemo",
        "/api/models/status",
    ] {
        let answer = server.get(path).await;
        assert_eq!(
            (answer.status, answer.json()["name"].as_str()),
            (200, Some("sft/demo")),
            "{path}"
        );
    }
    for name in [
        "..",
        "../../etc/passwd",
        "%2e%2e%2fetc",
        "sft%252Fdemo",
        "%2Fetc%2Fpasswd",
        "a%00b",
        "sft%5Cdemo",
        "none",
    ] {
        let answer = server.get(&format!("/api/models/{name}/status")).await;
        assert_eq!(answer.status, 404, "{name}: {}", answer.body);
        assert_eq!(
            server.post(&format!("/api/models/{name}/load"), &json!({})).await.status,
            404,
            "{name}"
        );
        assert_eq!(
            server.post("/api/generate", &json!({ "message": "x", "model": name })).await.status,
            404,
            "{name}"
        );
    }
}

#[tokio::test]
async fn eight_requests_at_once_load_a_model_once() {
    let loading = Gate::default();
    let script = Script {
        loading: Some(loading.clone()),
        acts: vec![Act::Say("hello")],
        ..Script::default()
    };
    let server = Server::scripted(script).await;
    let accepted = server.post("/api/models/sft/demo/load", &json!({})).await;
    assert_eq!((accepted.status, accepted.json()["status"].as_str()), (202, Some("loading")));
    let status = server
        .until("/api/models/sft/demo/status", |answer| answer.json()["progress"] == 0.25)
        .await
        .json();
    assert_eq!(
        (status["loaded"].as_bool(), status["bytes_done"].as_u64()),
        (Some(false), Some(25))
    );
    let address = server.address;
    let asking: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                Call::new("POST", "/api/generate")
                    .json(&json!({ "message": "hi" }))
                    .send(address)
                    .await
            })
        })
        .collect();
    loading.open();
    for answer in asking {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{}", answer.body);
    }
    assert_eq!(server.script.loads.load(Ordering::SeqCst), 1);
    let again = server.post("/api/models/sft/demo/load", &json!({})).await;
    assert_eq!((again.status, again.json()["loaded"].as_bool()), (200, Some(true)));
}

#[tokio::test]
async fn of_eight_unloads_at_once_one_succeeds() {
    let server = Server::scripted(Script::default()).await;
    let never = server.post("/api/models/unload", &json!({ "model": "sft/demo" })).await;
    assert_eq!(
        never.json(),
        json!({ "success": false, "message": "Model sft/demo is not loaded" })
    );
    server.load("sft/demo").await;
    let address = server.address;
    let asking: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                Call::new("POST", "/api/models/sft/demo/unload").send(address).await
            })
        })
        .collect();
    let mut successes = 0;
    for answer in asking {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 200);
        if answer.json()["success"] == true {
            assert_eq!(answer.json()["message"], "Model sft/demo unloaded");
            successes += 1;
        }
    }
    assert_eq!((successes, server.script.ends.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(server.get("/api/models/sft/demo/status").await.json()["status"], "not_loaded");
}

#[tokio::test]
async fn an_unload_lets_answers_finish_unless_forced() {
    let gate = Gate::default();
    let acts = vec![Act::Say("a b"), Act::Wait(gate.clone()), Act::Say(" c")];
    let server = Server::scripted(Script { acts, ..Script::default() }).await;
    server.load("sft/demo").await;
    let address = server.address;
    let ask = move || {
        tokio::spawn(async move {
            Call::new("POST", "/api/generate").json(&json!({ "message": "hi" })).send(address).await
        })
    };
    let running = ask();
    eventually("the request runs", || !server.script.seen.lock().unwrap().is_empty()).await;
    let unload = tokio::spawn(async move {
        Call::new("POST", "/api/models/sft/demo/unload").send(address).await
    });
    server.until("/api/models/sft/demo/status", |answer| answer.json()["loaded"] == false).await;
    assert_eq!(server.script.ends.load(Ordering::SeqCst), 0, "it waits for the answer");
    gate.open();
    let answer = running.await.unwrap();
    assert_eq!(
        (answer.text().as_str(), answer.last()["finish_reason"].as_str()),
        ("a b c", Some("stop"))
    );
    assert_eq!(unload.await.unwrap().json()["success"], true);
}

#[tokio::test]
async fn a_forced_unload_ends_answers_as_cancelled() {
    let acts = vec![Act::Say("a b"), Act::Wait(Gate::default())];
    let server = Server::scripted(Script { acts, ..Script::default() }).await;
    server.load("sft/demo").await;
    let address = server.address;
    let running = tokio::spawn(async move {
        Call::new("POST", "/api/generate").json(&json!({ "message": "hi" })).send(address).await
    });
    eventually("the request runs", || !server.script.seen.lock().unwrap().is_empty()).await;
    let unloaded = server.post("/api/models/sft/demo/unload?force=true", &json!({})).await;
    assert_eq!(unloaded.json()["success"], true);
    assert_eq!(running.await.unwrap().last()["finish_reason"], "cancelled");
    assert_eq!(server.script.ends.load(Ordering::SeqCst), 1);
    assert_eq!(
        server.post("/api/models/sft/demo/unload?force=maybe", &json!({})).await.status,
        422
    );
}

#[tokio::test]
async fn what_cannot_be_loaded_says_why() {
    let server =
        Server::scripted(Script { missing_bytes: Some(123_456), ..Script::default() }).await;
    for path in ["/api/models/sft/demo/load", "/api/generate"] {
        let answer = server.post(path, &json!({ "message": "hi" })).await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.headers.contains_key("retry-after"), "{path}");
        let sentence = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(sentence.contains("needs 124 KB, 1 KB are free"), "{sentence}");
    }
    let server = Server::scripted(Script { fails_to_load: true, ..Script::default() }).await;
    let answer = server.post("/api/generate", &json!({ "message": "hi" })).await;
    assert_eq!((answer.status, answer.last()["finish_reason"].as_str()), (200, Some("error")));
    // A client learns which file it is, and not where on the disk the models are.
    let sentence = "model `sft/demo` cannot be loaded: engine failure: sft/demo/model.safetensors: the script says so";
    let root = server.root.path().canonicalize().unwrap();
    assert!(!answer.body.contains(root.to_str().unwrap()), "{}", answer.body);
    let status = server.get("/api/models/sft/demo/status").await.json();
    assert_eq!((&answer.last()["error"], &status["error"]), (&json!(sentence), &json!(sentence)));
    assert_eq!(
        (status["status"].as_str(), status["loaded"].as_bool()),
        (Some("error"), Some(false))
    );
    // It may be tried again, which what cannot be read may not.
    assert_eq!(status["usable"], true);
    assert_eq!(answer.last()["code"], "model_unusable");
}

#[tokio::test]
async fn a_model_that_is_known_to_be_broken_is_not_begun_to_load() {
    let server = Server::scripted(Script::default()).await;
    std::fs::create_dir_all(server.root.path().join("half/copied")).unwrap();
    std::fs::write(server.root.path().join("half/copied/config.json"), "{").unwrap();
    let answer = server.post("/api/models/half%2Fcopied/load", &json!({})).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("model_unusable")));
    assert!(!answer.headers.contains_key("retry-after"));
    let sentence = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(sentence.contains("`half/copied` cannot be served"), "{sentence}");
    assert_eq!(server.script.loads.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_older_routes_are_aliases() {
    let acts = vec![Act::Say("old"), Act::Done(FinishReason::Stop)];
    let server = Server::scripted(Script { acts, ..Script::default() }).await;
    let list = server.get("/api/checkpoints").await.json();
    let path = list["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["name"] == "sft/demo")
        .unwrap()["path"]
        .clone();
    assert_eq!(
        server.post("/api/load_model", &json!({ "checkpoint_path": "/etc/passwd" })).await.status,
        404
    );
    assert_eq!(
        server.post("/api/load_model", &json!({ "checkpoint_path": path })).await.status,
        202
    );
    server.until("/api/model_status", |answer| answer.json()["loaded"] == true).await;
    let body = json!({ "prompt": "x", "checkpoint_path": path });
    let answer = server.post("/api/generate", &body).await;
    let events = answer.events();
    assert_eq!(answer.text(), "old");
    assert_eq!(events[0]["type"], "token");
    assert_eq!(events.last().unwrap()["type"], "done");
    let both = server.post("/api/generate", &json!({ "prompt": "x", "message": "y" })).await;
    assert_eq!(both.status, 400);
}
