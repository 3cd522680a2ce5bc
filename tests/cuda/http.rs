//! The server over the simulated card: what a page asks for, and what it is told of the device.

use std::sync::Arc;

use hadal_engine::backend::cpu::CpuOptions;
use hadal_engine::{DeviceChoice, Limits};
use hadal_server::models::EngineLoader;
use hadal_tests::scripted::Script;
use hadal_tests::server::{Server, Setup};
use serde_json::json;

use super::card::card;

#[test]
fn a_page_chats_with_a_model_on_the_card_and_unloading_gives_its_memory_back() {
    let Some(card) = card("devices=h100") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let limits = Limits { sequences_max: 4, step_rows_max: 64, ..Limits::default() };
        let (cpu, device) = (CpuOptions::default(), DeviceChoice::Cuda(0));
        let loader = Arc::new(EngineLoader { limits, cpu, device });
        let mut server = Server::start(loader, Arc::new(Script::default()), Setup::default()).await;
        server.load("sft/demo").await;
        let status = server.get("/api/models/sft/demo/status").await.json();
        let device = status["device"].as_str().unwrap_or_else(|| panic!("{status}"));
        assert!(device.starts_with("cuda:0 (") && device.contains("H100"), "{status}");
        assert_eq!(status["device_why"], "asked for", "{status}");
        let question = json!({
            "model": "sft/demo", "message": "Hello!", "temperature": 0.0, "max_new_tokens": 5,
        });
        let answers = [
            server.post("/api/generate", &question).await,
            server.post("/api/generate", &question).await,
        ];
        for answer in &answers {
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert_eq!(answer.last()["usage"]["completion_tokens"], 5, "{}", answer.body);
        }
        assert_eq!(answers[0].text(), answers[1].text());
        assert!(card.live_bytes() > 0);
        let unloaded = server.post("/api/models/sft/demo/unload", &json!({})).await;
        assert_eq!(unloaded.status, 200, "{}", unloaded.body);
        server.stop();
        server.stopped().await;
    });
    assert_eq!(card.live_bytes(), 0, "an unloaded model leaves memory behind");
}
