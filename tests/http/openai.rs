//! `/v1/chat/completions` and `/v1/models` in their basic form.

use hadal_tests::scripted::{Act, Script};
use hadal_tests::server::Server;
use serde_json::{Value, json};

async fn loaded() -> Server {
    let server =
        Server::scripted(Script { acts: vec![Act::Say("By the river.")], ..Script::default() })
            .await;
    server.load("sft/demo").await;
    server
}

fn body() -> Value {
    json!({ "model": "sft/demo", "messages": [{ "role": "developer", "content": "Be brief." }, { "role": "user", "content": [{ "type": "text", "text": "Where?" }] }] })
}

#[tokio::test]
async fn a_whole_completion() {
    let server = loaded().await;
    let answer = server.post("/v1/chat/completions", &body()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let value = answer.json();
    assert_eq!(
        (value["object"].as_str(), value["model"].as_str()),
        (Some("chat.completion"), Some("sft/demo"))
    );
    let choice = &value["choices"][0];
    assert_eq!(
        (choice["message"]["role"].as_str(), choice["message"]["content"].as_str()),
        (Some("assistant"), Some("By the river."))
    );
    assert_eq!(
        (choice["finish_reason"].as_str(), choice["index"].as_u64()),
        (Some("stop"), Some(0))
    );
    assert!(value["usage"]["completion_tokens"].as_u64().unwrap() > 1);
}

#[tokio::test]
async fn a_streamed_completion() {
    let server = loaded().await;
    let mut body = body();
    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    let answer = server.post("/v1/chat/completions", &body).await;
    let events = answer.events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "By the river.");
    let [.., finish, usage, done] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        (usage["choices"].as_array().map(Vec::len), usage["usage"]["total_tokens"].is_u64()),
        (Some(0), true)
    );
    assert_eq!(done, "[DONE]");
    let ids: Vec<&Value> = events.iter().filter_map(|event| event.get("id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[tokio::test]
async fn refusals_have_openais_shape() {
    let server = loaded().await;
    let wrong: Vec<(&str, Value, &str)> = vec![
        ("temperature", json!(2.5), "invalid_value"),
        ("n", json!(2), "unsupported_parameter"),
        ("tools", json!([{ "type": "function" }]), "unsupported_parameter"),
        ("response_format", json!({ "type": "json_object" }), "unsupported_parameter"),
        ("logprobs", json!(true), "unsupported_parameter"),
        ("messages", json!([]), "bad_request"),
        (
            "messages",
            json!([{ "role": "user", "content": [{ "type": "image_url" }] }]),
            "bad_request",
        ),
        ("logit_bias", json!({ "x": 1 }), "invalid_value"),
        ("presence_penalty", json!(3), "invalid_value"),
    ];
    for (field, value, code) in wrong {
        let mut body = body();
        body[field] = value;
        let answer = server.post("/v1/chat/completions", &body).await;
        let error = answer.json()["error"].clone();
        assert_eq!(
            (answer.status, error["param"].as_str(), error["code"].as_str()),
            (400, Some(field), Some(code)),
            "{}",
            answer.body
        );
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().contains(field));
    }
    let mut unknown = body();
    unknown["model"] = json!("gpt");
    let answer = server.post("/v1/chat/completions", &unknown).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (404, Some("model_not_found"))
    );
    let mut long = body();
    long["messages"] = json!([{ "role": "user", "content": "word ".repeat(2000) }]);
    let answer = server.post("/v1/chat/completions", &long).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (400, Some("context_length_exceeded"))
    );
}

#[tokio::test]
async fn models_are_listed() {
    let server = loaded().await;
    let list = server.get("/v1/models").await.json();
    assert_eq!(
        (list["object"].as_str(), list["data"].as_array().map(Vec::len)),
        (Some("list"), Some(4))
    );
    assert_eq!(server.get("/v1/models/sft/demo").await.json()["id"], "sft/demo");
    assert_eq!(server.get("/v1/models/none").await.json()["error"]["code"], "model_not_found");
}
