//! A `.pt` file served by the real engine under its own name.

use std::sync::Arc;

use hadal_engine::backend::cpu::{Activations, CpuOptions};
use hadal_engine::{DeviceChoice, Limits};
use hadal_server::models::EngineLoader;
use hadal_tests::scripted::{Script, golden};
use hadal_tests::server::{Server, Setup};
use serde_json::{Value, json};

async fn server(texts: &[&str]) -> Server {
    let cpu = CpuOptions {
        threads: Some(2),
        activations: Some(Activations::F32),
        ..CpuOptions::default()
    };
    let loader =
        Arc::new(EngineLoader { limits: Limits::default(), cpu, device: DeviceChoice::Cpu });
    let server = Server::start(loader, Arc::new(Script::default()), Setup::default()).await;
    let to = server.root.path().join("pretrain");
    for (from, name) in [("pretrain_final.pt", "best.pt"), ("config.yaml", "config.yaml")]
        .into_iter()
        .chain(texts.iter().map(|name| (*name, *name)))
    {
        std::fs::create_dir_all(&to).unwrap();
        std::fs::copy(golden("mini-tied").join(from), to.join(name)).unwrap();
    }
    server
}

fn notes() -> Value {
    serde_json::from_slice(&std::fs::read(golden("mini-tied").join("golden.json")).unwrap())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_answers_under_its_own_name_as_the_reference_does() {
    for texts in [&["tokenizer.json", "tokenizer_config.json"][..], &["vocab.json", "merges.txt"]] {
        let server = server(texts).await;
        let model = server.get("/api/models").await.json()["models"]["pretrain/best.pt"].clone();
        let field = |name: &str| model[name].as_str().map(str::to_owned);
        assert_eq!(field("type").as_deref(), Some("Pretrained"), "{model}");
        assert_eq!(
            (field("format").as_deref(), field("dtype").as_deref()),
            (Some("pt"), Some("float32"))
        );
        assert_eq!(field("architecture").as_deref(), Some("mini_deepseek"));
        let (path, notes) = (field("path").unwrap(), notes());
        assert!(path.ends_with("pretrain/best.pt"), "{path}");
        for name in ["pretrain/best.pt", "pretrain%2Fbest.pt"] {
            let status = server.get(&format!("/api/models/{name}/status")).await;
            assert_eq!(
                (status.status, status.json()["name"].as_str()),
                (200, Some("pretrain/best.pt"))
            );
        }
        // Raw text in, greedy text out, far beyond the 48 positions of its settings.
        let request = json!({
            "checkpoint_path": path, "prompt": notes["prompt_text"], "max_new_tokens": 32, "temperature": 0,
            "repetition_penalty": 1.0
        });
        let answer = server.post("/api/generate", &request).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let pieces = answer.events();
        let text: String = pieces.iter().filter_map(|piece| piece["content"].as_str()).collect();
        assert_eq!(text, notes["decode_text"].as_str().unwrap(), "{}", answer.body);
        let message = json!({ "model": "pretrain/best.pt", "message": "Hi", "max_new_tokens": 8 });
        let answer = server.post("/api/generate", &message).await;
        assert_eq!(
            (answer.status, answer.last()["done"].as_bool()),
            (200, Some(true)),
            "{}",
            answer.body
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_tokenizer_says_what_is_missing() {
    let server = server(&[]).await;
    let message = json!({ "model": "pretrain/best.pt", "message": "Hi" });
    let answer = server.post("/api/generate", &message).await;
    let error = answer.last()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("no `tokenizer.json`") && error.contains("`vocab.json`"), "{error}");
}
