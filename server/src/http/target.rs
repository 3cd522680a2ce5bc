//! What a path means: the routes, their methods and their names.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::reply::{Refusal, Reply};
use crate::api::openai;

/// What a path means, whatever the method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Page,
    Asset(String),
    Models,
    ModelStatus(Option<String>),
    ModelLoad(Option<String>),
    ModelUnload(Option<String>),
    Generate,
    GenerateCancel,
    ChatClear,
    OlderCheckpoints,
    OlderLoad,
    OlderStatus,
    OlderCancel,
    OpenAiModels,
    OpenAiModel(String),
    OpenAiChat,
    Health,
    Ready,
    Version,
    Metrics,
    /// `OPTIONS *`.
    Server,
    Unknown,
    UnknownOpenAi,
}

impl Target {
    /// The path's meaning; names of models may stand raw or percent-encoded, decoded once.
    pub(super) fn of(path: &str) -> Self {
        match path {
            "/" => Self::Page,
            "*" => Self::Server,
            "/api/models" => Self::Models,
            "/api/models/status" => Self::ModelStatus(None),
            "/api/models/load" => Self::ModelLoad(None),
            "/api/models/unload" => Self::ModelUnload(None),
            "/api/generate" => Self::Generate,
            "/api/generate/cancel" => Self::GenerateCancel,
            "/api/chat/clear" => Self::ChatClear,
            "/api/checkpoints" => Self::OlderCheckpoints,
            "/api/load_model" => Self::OlderLoad,
            "/api/model_status" => Self::OlderStatus,
            "/api/cancel" => Self::OlderCancel,
            "/v1/models" => Self::OpenAiModels,
            "/v1/chat/completions" => Self::OpenAiChat,
            "/health" => Self::Health,
            "/ready" => Self::Ready,
            "/version" => Self::Version,
            "/metrics" => Self::Metrics,
            _ if path.starts_with("/v1/") => Self::with_name(path).unwrap_or(Self::UnknownOpenAi),
            _ => Self::with_name(path).unwrap_or(Self::Unknown),
        }
    }

    pub(super) fn with_name(path: &str) -> Option<Self> {
        let decoded = |name: &str| percent_decode_str(name).decode_utf8().ok().map(Cow::into_owned);
        if let Some(name) = path.strip_prefix("/assets/") {
            return decoded(name).map(Self::Asset);
        }
        if let Some(name) = path.strip_prefix("/v1/models/") {
            return decoded(name).map(Self::OpenAiModel);
        }
        let (name, action) = path.strip_prefix("/api/models/")?.rsplit_once('/')?;
        let name = decoded(name)?;
        match action {
            "status" => Some(Self::ModelStatus(Some(name))),
            "load" => Some(Self::ModelLoad(Some(name))),
            "unload" => Some(Self::ModelUnload(Some(name))),
            _ => None,
        }
    }

    /// The route as metrics name it: without names, so that their number is bounded.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Page => "/",
            Self::Asset(_) => "/assets/*",
            Self::Models => "/api/models",
            Self::ModelStatus(_) => "/api/models/*/status",
            Self::ModelLoad(_) => "/api/models/*/load",
            Self::ModelUnload(_) => "/api/models/*/unload",
            Self::Generate => "/api/generate",
            Self::GenerateCancel => "/api/generate/cancel",
            Self::ChatClear => "/api/chat/clear",
            Self::OlderCheckpoints => "/api/checkpoints",
            Self::OlderLoad => "/api/load_model",
            Self::OlderStatus => "/api/model_status",
            Self::OlderCancel => "/api/cancel",
            Self::OpenAiModels => "/v1/models",
            Self::OpenAiModel(_) => "/v1/models/*",
            Self::OpenAiChat => "/v1/chat/completions",
            Self::Health => "/health",
            Self::Ready => "/ready",
            Self::Version => "/version",
            Self::Metrics => "/metrics",
            Self::Server => "*",
            Self::Unknown | Self::UnknownOpenAi => "unknown",
        }
    }

    pub(super) fn is_post(&self) -> bool {
        matches!(
            self,
            Self::ModelLoad(_)
                | Self::ModelUnload(_)
                | Self::Generate
                | Self::GenerateCancel
                | Self::ChatClear
                | Self::OlderLoad
                | Self::OlderCancel
                | Self::OpenAiChat
        )
    }

    /// Methods of the route, as `Allow` lists them; `None`: there is no such route.
    pub(super) fn allow(&self) -> Option<&'static str> {
        match self {
            Self::Unknown | Self::UnknownOpenAi => None,
            Self::Server => Some("OPTIONS"),
            _ if self.is_post() => Some("POST, OPTIONS"),
            _ => Some("GET, HEAD, OPTIONS"),
        }
    }

    /// Routes that need no key: what a load balancer asks, and the page that asks for one.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Page | Self::Asset(_))
    }

    pub(super) fn is_openai(&self) -> bool {
        matches!(
            self,
            Self::OpenAiChat | Self::OpenAiModel(_) | Self::OpenAiModels | Self::UnknownOpenAi
        )
    }

    /// A refusal in the shape of this route's family.
    pub(super) fn refuse(&self, refusal: &Refusal) -> Reply {
        if self.is_openai() { openai::error::reply(refusal) } else { refusal.page() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_raw_or_encoded_once() {
        let status = |name: &str| Target::ModelStatus(Some(name.to_owned()));
        assert_eq!(Target::of("/api/models/pretrain/best.pt/status"), status("pretrain/best.pt"));
        assert_eq!(Target::of("/api/models/pretrain%2Fbest.pt/status"), status("pretrain/best.pt"));
        assert_eq!(
            Target::of("/api/models/pretrain%252Fbest.pt/status"),
            status("pretrain%2Fbest.pt")
        );
        assert_eq!(Target::of("/api/models/status"), Target::ModelStatus(None));
        assert_eq!(Target::of("/api/models/a/status/status"), status("a/status"));
        assert_eq!(Target::of("/api/models/%ff/status"), Target::Unknown);
        assert_eq!(Target::of("/api/nothing"), Target::Unknown);
        assert_eq!(Target::of("/v1/nothing"), Target::UnknownOpenAi);
    }
}
