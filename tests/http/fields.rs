//! What requests say, field by field and route by route, and what reaches the model.

use hadal_tests::client::Call;
use hadal_tests::scripted::{Act, Script};
use hadal_tests::server::{Server, Setup, copy_model};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

async fn loaded(acts: Vec<Act>) -> Server {
    let server = Server::scripted(Script { acts, ..Script::default() }).await;
    server.load("sft/demo").await;
    server
}

/// A chat request with more fields.
fn chat(more: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "x" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn seen(server: &Server) -> String {
    server.script.seen.lock().unwrap().last().unwrap().clone()
}

#[tokio::test]
async fn a_refusal_names_field_value_and_range() {
    let server = loaded(vec![]).await;
    for (field, value, sentence) in [
        ("temperature", json!(7), "`temperature` is 7, wanted a number from 0 to 5"),
        ("top_p", json!(0), "`top_p` is 0, wanted a number above 0, up to 1"),
        ("seed", json!(-1), "`seed` is -1, wanted a whole number from 0 to 18446744073709551615"),
        (
            "history",
            json!([{ "role": "user", "content": "x" }, { "role": "robot" }]),
            "`history[1].role` is \"robot\", wanted system, user or assistant",
        ),
        ("history", json!([{ "role": "user" }]), "`history[0].content` is null, wanted a string"),
        ("history", json!(["x"]), "`history[0].role` is null, wanted system, user or assistant"),
        ("do_sample", json!("no"), "`do_sample` is \"no\", wanted true or false"),
    ] {
        let mut body = json!({ "message": "x" });
        body[field] = value;
        assert_eq!(server.post("/api/generate", &body).await.json()["error"], sentence);
    }
}

#[tokio::test]
async fn both_forms_at_once_are_refused() {
    let server = loaded(vec![]).await;
    for body in [
        json!({ "message": "a", "prompt": "b" }),
        json!({ "message": "a", "checkpoint_path": "sft/demo" }),
        json!({ "checkpoint_path": "sft/demo" }),
        json!({ "prompt": "a", "checkpoint_path": "sft/demo", "model": "sft/demo" }),
    ] {
        assert_eq!(server.post("/api/generate", &body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn a_raw_prompt_goes_to_the_model_it_names() {
    let server = loaded(vec![Act::Say("hi")]).await;
    let ask = async |model: &str| {
        server.post("/api/generate", &json!({ "prompt": "x", "model": model })).await
    };
    assert_eq!(ask("nonexistent").await.status, 404);
    let status = "/api/models/pretrain/base/status";
    assert_eq!(server.get(status).await.json()["loaded"], false);
    assert_eq!(ask("pretrain/base").await.text(), "hi");
    assert_eq!(server.get(status).await.json()["loaded"], true);
    assert_eq!(ask("").await.text(), "hi");
}

#[tokio::test]
async fn what_a_tool_says_is_never_left_out_in_silence() {
    let acts = vec![Act::Say("hi")];
    let server = Server::scripted(Script { acts, ..Script::default() }).await;
    copy_model(server.root.path(), "no/tools");
    let template =
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}";
    let file = server.root.path().join("no/tools/chat_template.jinja");
    std::fs::write(file, template).unwrap();
    let body = |model: &str| {
        json!({ "model": model, "messages": [
        { "role": "user", "content": "x" }, { "role": "tool", "content": "42" },
    ] })
    };
    let answer = server.post(CHAT, &body("no/tools")).await;
    let sentence = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(answer.status == 400 && sentence.contains("`tool`"), "{}", answer.body);
    assert_eq!(server.post(CHAT, &body("sft/demo")).await.status, 200);
}

#[tokio::test]
async fn a_stop_string_over_many_tokens_and_characters() {
    for (said, stop, want) in [
        ("今日本語", json!("日本"), "今"),
        ("one STOP two", json!(["STOPPED"]), "one STOP two"),
        ("one STOP two", json!(["zzz", " two"]), "one STOP"),
        ("go ST", json!("STOP"), "go ST"),
        ("one", json!("one"), ""),
        ("a🙂🙂b", json!("🙂b"), "a🙂"),
    ] {
        let server = loaded(vec![Act::Say(said)]).await;
        let answer = server.post("/api/generate", &json!({ "message": "x", "stop": stop })).await;
        assert_eq!(answer.text(), want, "{said} {stop}");
        assert_eq!(answer.last()["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn a_name_in_a_path_is_a_name_and_an_empty_one_is_none() {
    let server = Server::scripted(Script::default()).await;
    for (method, action) in [("GET", "status"), ("POST", "load"), ("POST", "unload")] {
        for name in ["", "sft", "%ff", "sft/../sft/demo", "sft%2Fdemo%00", "SFT/demo"] {
            let path = format!("/api/models/{name}/{action}");
            let answer = Call::new(method, &path).send(server.address).await;
            assert_eq!(answer.status, 404, "{method} {path}");
        }
    }
    assert_eq!(server.get("/api/models/status?model=").await.json()["name"], "sft/demo");
    assert_eq!(server.get("/v1/models/sft%2Fdemo").await.json()["id"], "sft/demo");
}

#[tokio::test]
async fn chat_defaults_are_the_checkpoints_then_openais() {
    let server = loaded(vec![Act::Say("a b c d")]).await;
    server.post(CHAT, &chat(&json!({ "temperature": null }))).await;
    // The checkpoint's own temperature and top-p; what it does not say is off.
    for part in ["temperature: 0.6", "top_p: 0.95", "top_k: 0", "min_p: 0.0", "repetition: 1.0"] {
        assert!(seen(&server).contains(part), "{part} is not in {}", seen(&server));
    }
    let fields = json!({
        "temperature": 2, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.3,
        "presence_penalty": -2, "frequency_penalty": 2, "seed": -1, "logit_bias": { "5": -100 },
        "max_tokens": 3, "max_completion_tokens": 2, "user": "u", "metadata": { "a": "b" }, "n": 1,
        "store": false, "tools": [], "tool_choice": "none", "response_format": { "type": "text" },
        "logprobs": false, "modalities": ["text"], "stream_options": null, "length_penalty": 1,
        "add_generation_prompt": true, "skip_special_tokens": true, "bad_words": [], "verbosity": "medium",
        "structured_outputs": null, "use_beam_search": false,
    });
    let answer = server.post(CHAT, &chat(&fields)).await.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 2, "the newer name of the limit counts");
    for part in [
        "temperature: 2.0",
        "top_p: 0.5",
        "top_k: 7",
        "min_p: 0.1",
        "repetition: 1.3",
        "presence: -2.0",
        "frequency: 2.0",
        "seed: 18446744073709551615",
        "biases: [(TokenId(5), -100.0)]",
    ] {
        assert!(seen(&server).contains(part), "{part} is not in {}", seen(&server));
    }
}

#[tokio::test]
async fn what_would_change_the_answer_and_is_not_done_is_refused_by_name() {
    let server = loaded(vec![]).await;
    for (field, value) in [
        ("tool_choice", json!("required")),
        ("functions", json!([{ "name": "f" }])),
        ("response_format", json!({ "type": "json_schema", "json_schema": {} })),
        ("top_logprobs", json!(3)),
        ("modalities", json!(["text", "audio"])),
        ("reasoning_effort", json!("high")),
        ("stop_token_ids", json!([1])),
        ("ignore_eos", json!(true)),
        ("min_tokens", json!(5)),
        ("structured_outputs", json!({ "choice": ["a"] })),
        ("allowed_token_ids", json!([1])),
        ("allowed_token_ids", json!([])),
        ("bad_words", json!(["x"])),
        ("add_generation_prompt", json!(false)),
        ("truncate_prompt_tokens", json!(4)),
        ("length_penalty", json!(1.5)),
        ("prediction", json!({ "type": "content", "content": "x" })),
        ("web_search_options", json!({})),
        ("verbosity", json!("low")),
        ("use_beam_search", json!(true)),
        ("skip_special_tokens", json!(false)),
        ("include_stop_str_in_output", json!(true)),
        ("temperature", json!(true)),
        ("top_p", json!(0)),
        ("max_tokens", json!(0)),
        ("max_completion_tokens", json!("7")),
        ("frequency_penalty", json!(-2.1)),
        ("logit_bias", json!({ "1": 101 })),
        ("stop", json!(7)),
        ("seed", json!("x")),
        ("stream", json!("yes")),
        ("stream_options", json!(7)),
        ("stream_options", json!({ "include_usage": "yes" })),
        ("messages", json!("x")),
        ("messages", json!([{ "role": "robot", "content": "x" }])),
        ("messages", json!([{ "role": "user" }])),
    ] {
        let mut more = json!({});
        more[field] = value.clone();
        let answer = server.post(CHAT, &chat(&more)).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["param"]), (400, &json!(field)), "{value}: {error}");
        assert!(error["message"].as_str().unwrap().contains(field), "{error}");
        assert!(error["code"].is_string() && error["type"] == "invalid_request_error", "{error}");
    }
    assert!(server.script.seen.lock().unwrap().is_empty(), "nothing of this reached the model");
}

#[tokio::test]
async fn a_stream_with_usage_says_in_each_chunk_whether_it_carries_it() {
    let server = loaded(vec![Act::Say("a b")]).await;
    for include_usage in [false, true] {
        let options =
            json!({ "stream": true, "stream_options": { "include_usage": include_usage } });
        let mut events = server.post(CHAT, &chat(&options)).await.events();
        assert_eq!(events.pop(), Some(json!("[DONE]")));
        if include_usage {
            let usage = events.pop().unwrap();
            assert_eq!(usage["choices"], json!([]));
            assert_eq!(usage["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
        }
        assert_eq!(events[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
        assert!(events.iter().all(|chunk| chunk["id"] == events[0]["id"]));
        assert!(events.iter().all(|chunk| chunk.get("usage").is_some() == include_usage));
    }
}

#[tokio::test]
async fn every_route_tells_its_methods_and_answers_head() {
    let server = Server::scripted(Script::default()).await;
    let (reads, writes) = ("GET, HEAD, OPTIONS", "POST, OPTIONS");
    for (path, allow) in [
        ("/", reads),
        ("/api/models", reads),
        ("/api/models/sft/demo/status", reads),
        ("/api/models/sft/demo/load", writes),
        ("/api/models/sft/demo/unload", writes),
        ("/api/generate", writes),
        ("/api/generate/cancel", writes),
        ("/api/chat/clear", writes),
        ("/api/checkpoints", reads),
        ("/api/load_model", writes),
        ("/api/model_status", reads),
        ("/api/cancel", writes),
        ("/v1/models", reads),
        ("/v1/models/sft/demo", reads),
        (CHAT, writes),
        ("/health", reads),
        ("/ready", reads),
        ("/version", reads),
    ] {
        let call = async |method| Call::new(method, path).send(server.address).await;
        let options = call("OPTIONS").await;
        assert_eq!((options.status, options.headers["allow"].as_str()), (204, allow), "{path}");
        for method in [if allow == reads { "POST" } else { "GET" }, "DELETE", "BREW"] {
            let answer = call(method).await;
            assert_eq!((answer.status, answer.headers["allow"].as_str()), (405, allow), "{path}");
        }
        if allow == reads {
            let (get, head) = (call("GET").await, call("HEAD").await);
            assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
            for name in ["content-type", "content-length"] {
                assert_eq!(head.headers.get(name), get.headers.get(name), "{path} {name}");
            }
        }
    }
    assert_eq!(server.get("/v1/nothing").await.json()["error"]["code"], "not_found");
}

#[tokio::test]
async fn pages_elsewhere_ask_first_and_read_only_what_they_may() {
    let setup = Setup { origins: vec!["https://ok.example".into()], ..Setup::default() };
    let server = Server::with(Script::default(), setup).await;
    let asking = Call::new("OPTIONS", CHAT)
        .header("origin", "https://ok.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type, x-stainless-os");
    let answer = asking.send(server.address).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.headers["access-control-allow-origin"], "https://ok.example");
    assert_eq!(answer.headers["access-control-allow-headers"], "content-type, x-stainless-os");
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    let foreign = Call::new("GET", "/api/models").header("origin", "https://evil.example");
    let answer = foreign.send(server.address).await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    assert_eq!(answer.headers["vary"], "Origin", "caches must not mix the two up");
    // A simple request needs no asking first, so it must not change anything.
    let unload = Call::new("POST", "/api/models/sft/demo/unload");
    let answer = unload.header("origin", "https://evil.example").send(server.address).await;
    assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("origin_not_allowed")));
}

#[tokio::test]
async fn tags_are_compared_weakly_and_metrics_come_in_both_formats() {
    let server = Server::scripted(Script::default()).await;
    let tag = server.get("/").await.headers["etag"].clone();
    for known in [format!("\"other\", W/{tag}"), "*".to_owned()] {
        let call = Call::new("GET", "/").header("if-none-match", &known);
        assert_eq!(call.send(server.address).await.status, 304, "{known}");
    }
    let plain = server.get("/metrics").await;
    assert_eq!(plain.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(plain.body.contains("# TYPE hadal_requests_total counter\n"), "{}", plain.body);
    let open = Call::new("GET", "/metrics").header("accept", "application/openmetrics-text");
    let open = open.send(server.address).await;
    assert!(open.headers["content-type"].starts_with("application/openmetrics-text"));
    assert!(open.body.ends_with("# EOF\n"), "{}", open.body);
}
