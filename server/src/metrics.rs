//! What the server counts, in Prometheus' text format.

use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use hadal_engine::Stats;

/// A route as `http::route` names it, and the status it answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    status: u16,
}

/// Counters of the whole server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RouteLabels, Counter>,
    pub(crate) prompt_tokens: Counter,
    pub(crate) generated_tokens: Counter,
    pub(crate) first_token: Histogram,
    pub(crate) inter_token: Histogram,
    pub(crate) end_to_end: Histogram,
    gauges: Gauges,
}

/// What the models' threads last reported, summed.
#[derive(Default)]
struct Gauges {
    running: Gauge,
    waiting: Gauge,
    pages_used: Gauge,
    pages_total: Gauge,
    models: Gauge,
    bytes: Gauge<i64>,
    preemptions: Gauge<u64, AtomicU64>,
    steps: Gauge<u64, AtomicU64>,
    /// One reading at a time: gauges are set, then written.
    reading: std::sync::Mutex<()>,
}

impl Default for Metrics {
    fn default() -> Self {
        let times = || {
            Histogram::new([
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
                60.0,
            ])
        };
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            prompt_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            first_token: times(),
            inter_token: times(),
            end_to_end: times(),
            gauges: Gauges::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let (r, g) = (&mut self.registry, &self.gauges);
        r.register("hadal_requests", "Requests by route and status", self.requests.clone());
        r.register("hadal_prompt_tokens", "Tokens of prompts taken", self.prompt_tokens.clone());
        r.register("hadal_generation_tokens", "Tokens generated", self.generated_tokens.clone());
        r.register(
            "hadal_time_to_first_token_seconds",
            "From request to first token",
            self.first_token.clone(),
        );
        r.register(
            "hadal_inter_token_seconds",
            "Between tokens of one answer",
            self.inter_token.clone(),
        );
        r.register(
            "hadal_request_seconds",
            "From request to the answer's end",
            self.end_to_end.clone(),
        );
        r.register("hadal_requests_running", "Sequences running", g.running.clone());
        r.register("hadal_requests_waiting", "Requests waiting", g.waiting.clone());
        r.register(
            "hadal_cache_pages_used",
            "Pages of the latent caches in use",
            g.pages_used.clone(),
        );
        r.register("hadal_cache_pages", "Pages of the latent caches", g.pages_total.clone());
        r.register("hadal_models_loaded", "Models loaded", g.models.clone());
        r.register(
            "hadal_models_bytes",
            "Bytes of weights, caches and scratch of loaded models",
            g.bytes.clone(),
        );
        r.register(
            "hadal_preemptions",
            "Sequences preempted, of the models loaded now",
            g.preemptions.clone(),
        );
        r.register("hadal_steps", "Forward passes, of the models loaded now", g.steps.clone());
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, route: &str, status: u16) {
        self.requests.get_or_create(&RouteLabels { route: route.to_owned(), status }).inc();
    }

    /// Everything as text; `models` are the loaded ones' counters and bytes.
    pub(crate) fn render(&self, models: &[(Stats, u64)]) -> String {
        let g = &self.gauges;
        let _one = g.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&Stats) -> u32| {
            models.iter().map(|(stats, _)| i64::from(of(stats))).sum::<i64>()
        };
        g.running.set(sum(|s| s.running));
        g.waiting.set(sum(|s| s.waiting));
        g.pages_used.set(sum(|s| s.pages_used));
        g.pages_total.set(sum(|s| s.pages_total));
        g.models.set(i64::try_from(models.len()).unwrap_or(i64::MAX));
        g.bytes
            .set(models.iter().map(|(_, bytes)| i64::try_from(*bytes).unwrap_or(i64::MAX)).sum());
        g.preemptions.set(models.iter().map(|(stats, _)| stats.preemptions_total).sum());
        g.steps.set(models.iter().map(|(stats, _)| stats.steps_total).sum());
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
