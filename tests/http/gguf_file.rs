//! A GGUF model served by the real engine under its own name, tokenizer and template out of the file.

use std::sync::Arc;

use hadal_engine::backend::cpu::{Activations, CpuOptions};
use hadal_engine::{DeviceChoice, Limits};
use hadal_server::models::EngineLoader;
use hadal_tests::scripted::{Script, golden};
use hadal_tests::server::{Server, Setup};
use serde_json::{Value, json};

const FIRST: &str = "v3-yarn-bf16-00001-of-00002.gguf";
const FILES: [&str; 3] = ["v3-tied-bf16.gguf", FIRST, "v3-yarn-bf16-00002-of-00002.gguf"];

/// The files below `sft/`, and the folders they were made from beside them.
async fn server() -> Server {
    let cpu = CpuOptions {
        threads: Some(2),
        activations: Some(Activations::F32),
        ..CpuOptions::default()
    };
    let loader =
        Arc::new(EngineLoader { limits: Limits::default(), cpu, device: DeviceChoice::Cpu });
    let server = Server::start(loader, Arc::new(Script::default()), Setup::default()).await;
    let to = server.root.path().join("sft");
    std::fs::create_dir_all(&to).unwrap();
    for file in FILES {
        std::fs::copy(golden("gguf").join(file), to.join(file)).unwrap();
    }
    for case in ["v3-tied-bf16", "v3-yarn-bf16"] {
        let to = to.join(case);
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(golden(case)).unwrap() {
            let entry = entry.unwrap();
            if !entry.file_name().to_string_lossy().starts_with("golden.") {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
    server
}

/// A greedy answer: its words, and how many tokens prompt and answer were.
async fn answer(server: &Server, model: &str) -> (Value, Value) {
    let request = json!({
        "model": model, "messages": [{ "role": "user", "content": "Is <｜Assistant｜> a word?" }],
        "max_tokens": 12, "temperature": 0
    });
    let answer = server.post("/v1/chat/completions", &request).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    assert_eq!(answer["model"], model);
    (answer["choices"][0]["message"]["content"].clone(), answer["usage"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_listed_once_and_answer_as_the_folders_they_were_made_from() {
    let server = server().await;
    let models = server.get("/api/models").await.json()["models"].clone();
    let names: Vec<&String> = models.as_object().unwrap().keys().collect();
    assert!(!names.iter().any(|name| name.contains("00002-of")), "{names:?}");
    for (file, case) in [("v3-tied-bf16.gguf", "v3-tied-bf16"), (FIRST, "v3-yarn-bf16")] {
        let name = format!("sft/{file}");
        let model = &models[&name];
        assert_eq!((&model["format"], &model["type"]), (&json!("gguf"), &json!("SFT")), "{model}");
        assert_eq!(model["dtype"], "bfloat16", "{model}");
        let got = answer(&server, &name).await;
        assert_eq!(got, answer(&server, &format!("sft/{case}")).await, "{file}");
        assert!(got.1["completion_tokens"].as_u64() > Some(0), "{file}: {got:?}");
        let status = server.get(&format!("/api/models/{name}/status")).await;
        assert_eq!((status.status, &status.json()["name"]), (200, &json!(name)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_parts_without_one_of_them_says_which() {
    let server = server().await;
    std::fs::remove_file(server.root.path().join("sft").join(FILES[2])).unwrap();
    let request = json!({ "model": format!("sft/{FIRST}"), "message": "Hi" });
    let answer = server.post("/api/generate", &request).await;
    let error = match answer.status {
        200 => answer.last()["error"].clone(),
        _ => answer.json()["error"].clone(),
    };
    assert!(error.to_string().contains("00002-of-00002"), "{} {}", answer.status, answer.body);
}
