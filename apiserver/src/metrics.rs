//! Prometheus metrics under the names that Kubernetes dashboards know.
//!
//! Request metrics are counted as requests pass; what the cache and the process know about themselves is read when
//! somebody asks. The text is OpenMetrics.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::cache::{CacheStats, HistogramStats};
use crate::http::attributes::Attributes;

/// Upper bounds of request durations, in seconds: kube-apiserver's, thinned, with finer steps below 5 ms.
const DURATION_BOUNDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// What a request is counted under. Resources that are not served are counted as none, so that nobody can make
/// labels without bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestLabels {
    verb: &'static str,
    group: Arc<str>,
    version: Arc<str>,
    resource: Arc<str>,
    subresource: &'static str,
    scope: &'static str,
}

/// The subresources that have a label of their own.
const SUBRESOURCES: &[&str] = &["status", "scale", "finalize", "log"];

impl RequestLabels {
    /// The labels of a request; `is_served` says whether group, version and resource exist.
    pub fn of(attributes: &Attributes, is_served: impl Fn(&str, &str, &str) -> bool) -> Self {
        let verb = attributes.verb;
        match &attributes.resource {
            Some(resource) if is_served(&resource.group, &resource.version, &resource.resource) => {
                Self {
                    verb,
                    group: resource.group.as_str().into(),
                    version: resource.version.as_str().into(),
                    resource: resource.resource.as_str().into(),
                    subresource: SUBRESOURCES
                        .iter()
                        .find(|known| **known == resource.subresource)
                        .copied()
                        .unwrap_or(""),
                    scope: match (resource.name.is_empty(), resource.namespace.is_empty()) {
                        (false, _) => "resource",
                        (true, false) => "namespace",
                        (true, true) => "cluster",
                    },
                }
            }
            _ => Self {
                verb,
                group: "".into(),
                version: "".into(),
                resource: "".into(),
                subresource: "",
                scope: "",
            },
        }
    }

    fn pairs(&self) -> [(&'static str, &str); 6] {
        [
            ("verb", self.verb),
            ("group", &self.group),
            ("version", &self.version),
            ("resource", &self.resource),
            ("subresource", self.subresource),
            ("scope", self.scope),
        ]
    }
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.pairs().encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CodeLabels {
    request: RequestLabels,
    code: u16,
}

impl EncodeLabelSet for CodeLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.request.pairs().encode(encoder)?;
        [("component", "apiserver")].encode(encoder)?;
        [("code", u32::from(self.code))].encode(encoder)
    }
}

type Kind = [(&'static str, &'static str); 1];

/// The request metrics of one server.
pub struct Metrics {
    registry: Registry,
    requests: Family<CodeLabels, Counter>,
    durations: Family<RequestLabels, Histogram, fn() -> Histogram>,
    mutating: Gauge,
    read_only: Gauge,
    long_running: Family<RequestLabels, Gauge>,
    rejected: Counter,
    start_seconds: f64,
}

/// Counts one request as running until it is dropped.
#[derive(Debug)]
pub struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Empty metrics; `now` is when the server started.
    pub fn new(now: jiff::Timestamp) -> Self {
        let mut registry = Registry::default();
        let requests = Family::<CodeLabels, Counter>::default();
        let durations =
            Family::<RequestLabels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
                Histogram::new(DURATION_BOUNDS)
            });
        let inflight = Family::<Kind, Gauge>::default();
        let long_running = Family::<RequestLabels, Gauge>::default();
        let rejected: Counter<u64, AtomicU64> = Counter::default();
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Seconds until the answer began, long-running requests left out",
            durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests being handled",
            inflight.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and followed logs",
            long_running.clone(),
        );
        registry.register(
            "apiserver_dropped_requests",
            "Requests refused because too many were in flight",
            rejected.clone(),
        );
        let of_kind = |kind| inflight.get_or_create_owned(&[("request_kind", kind)]);
        Self {
            registry,
            requests,
            durations,
            mutating: of_kind("mutating"),
            read_only: of_kind("readOnly"),
            long_running,
            rejected,
            start_seconds: now.as_duration().as_secs_f64(),
        }
    }

    /// A request begins.
    pub fn begin(&self, is_mutating: bool) -> Running {
        let gauge = if is_mutating {
            &self.mutating
        } else {
            &self.read_only
        };
        gauge.inc();
        Running(gauge.clone())
    }

    /// A watch or a followed log begins.
    pub fn begin_long_running(&self, labels: &RequestLabels) -> Running {
        let gauge = self.long_running.get_or_create_owned(labels);
        gauge.inc();
        Running(gauge)
    }

    /// A request was answered; long-running ones have no duration.
    pub fn answered(&self, labels: RequestLabels, code: u16, took: Option<Duration>) {
        if let Some(took) = took {
            self.durations
                .get_or_create(&labels)
                .observe(took.as_secs_f64());
        }
        self.requests
            .get_or_create(&CodeLabels {
                request: labels,
                code,
            })
            .inc();
    }

    /// A request was refused because too many were in flight.
    pub fn rejected(&self) {
        self.rejected.inc();
    }

    /// Everything, as OpenMetrics text.
    pub fn text(&self, cache: &CacheStats) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        encode_registry(&mut out, &self.registry)?;
        write_cache(&mut out, cache)?;
        write_process(&mut out, self.start_seconds)?;
        encode_eof(&mut out)?;
        Ok(out)
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}")
}

fn write_cache(out: &mut String, stats: &CacheStats) -> std::fmt::Result {
    type Read = fn(&crate::cache::ResourceStats) -> u64;
    let by_resource: [(&str, &str, Read); 5] = [
        ("apiserver_storage_objects", "Current objects", |r| {
            r.objects as u64
        }),
        ("apiserver_resource_objects", "Current objects", |r| {
            r.objects as u64
        }),
        (
            "apiserver_resource_bytes",
            "Bytes of the JSON of current objects",
            |r| r.bytes as u64,
        ),
        (
            "apiserver_watch_history_bytes",
            "Bytes that history keeps beyond current objects",
            |r| r.history_bytes as u64,
        ),
        ("apiserver_registered_watchers", "Open watches", |r| {
            r.watchers as u64
        }),
    ];
    for (name, help, read) in by_resource {
        head(out, name, "gauge", help)?;
        for resource in &stats.resources {
            writeln!(
                out,
                "{name}{{resource=\"{}\"}} {}",
                resource.resource,
                read(resource)
            )?;
        }
    }
    for (name, help, value) in [
        (
            "apiserver_storage_size_bytes",
            "Bytes that the store takes on disk",
            stats.bytes_on_disk,
        ),
        (
            "apiserver_storage_revision",
            "The last published revision",
            stats.revision,
        ),
        (
            "apiserver_storage_queued_writes",
            "Writes that wait for the committer",
            stats.queued as u64,
        ),
    ] {
        head(out, name, "gauge", help)?;
        writeln!(out, "{name} {value}")?;
    }
    for (name, help, value) in [
        (
            "apiserver_watch_events",
            "Events handed to watchers",
            stats.events_delivered,
        ),
        (
            "apiserver_terminated_watchers",
            "Watches ended because their reader did not keep up",
            stats.watchers_lagged,
        ),
    ] {
        head(out, name, "counter", help)?;
        writeln!(out, "{name}_total {value}")?;
    }
    for (name, help, histogram) in [
        (
            "apiserver_storage_batch_size",
            "Changes a commit",
            &stats.batch_sizes,
        ),
        (
            "apiserver_storage_commit_duration_seconds",
            "Seconds a commit took",
            &stats.commit_seconds,
        ),
        (
            "apiserver_storage_sync_duration_seconds",
            "Seconds until a commit was durable",
            &stats.sync_seconds,
        ),
    ] {
        head(out, name, "histogram", help)?;
        write_histogram(out, name, histogram)?;
    }
    Ok(())
}

fn write_histogram(out: &mut String, name: &str, stats: &HistogramStats) -> std::fmt::Result {
    let bounds = stats
        .bounds
        .iter()
        .map(ToString::to_string)
        .chain(std::iter::once("+Inf".to_owned()));
    for (bound, count) in bounds.zip(&stats.cumulative) {
        writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}")?;
    }
    writeln!(
        out,
        "{name}_sum {}\n{name}_count {}",
        stats.sum, stats.count
    )
}

/// What the kernel says about this process; what cannot be read is left out, never zero.
fn write_process(out: &mut String, start_seconds: f64) -> std::fmt::Result {
    head(
        out,
        "process_start_time_seconds",
        "gauge",
        "When the server started",
    )?;
    writeln!(out, "process_start_time_seconds {start_seconds}")?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key: &str| -> Option<u64> {
        status.lines().find_map(|line| {
            line.strip_prefix(key)?
                .split_ascii_whitespace()
                .next()?
                .parse()
                .ok()
        })
    };
    if let Some(kib) = kib("VmRSS:") {
        head(
            out,
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory",
        )?;
        writeln!(out, "process_resident_memory_bytes {}", kib * 1024)?;
    }
    if let Some(kib) = kib("VmSize:") {
        head(
            out,
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory",
        )?;
        writeln!(out, "process_virtual_memory_bytes {}", kib * 1024)?;
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        head(out, "process_open_fds", "gauge", "Open file descriptors")?;
        writeln!(out, "process_open_fds {}", files.count())?;
    }
    if let Some(seconds) = cpu_seconds() {
        head(
            out,
            "process_cpu_seconds",
            "counter",
            "User and system CPU time",
        )?;
        writeln!(out, "process_cpu_seconds_total {seconds}")?;
    }
    Ok(())
}

/// CPU time from `/proc/self/schedstat`, whose first number is nanoseconds on the CPU of the main thread, summed
/// over all threads.
fn cpu_seconds() -> Option<f64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let mut nanos = 0u64;
    for thread in threads.flatten() {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        nanos += text
            .split_ascii_whitespace()
            .next()
            .and_then(|word| word.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Some(Duration::from_nanos(nanos).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::ResourceStats;
    use http::Method;

    #[test]
    fn requests_and_objects_appear_under_the_known_names() {
        let metrics = Metrics::new(jiff::Timestamp::UNIX_EPOCH);
        let attributes = Attributes::parse(
            &Method::GET,
            "/apis/gctl.dev/v1/namespaces/a/jobs/x/status",
            None,
        );
        let labels = RequestLabels::of(&attributes, |_, _, resource| resource == "jobs");
        let watching = metrics.begin_long_running(&labels);
        metrics.answered(labels, 200, Some(Duration::from_millis(3)));
        let stats = CacheStats {
            resources: vec![ResourceStats {
                resource: "jobs.gctl.dev".to_owned(),
                objects: 4,
                ..ResourceStats::default()
            }],
            ..CacheStats::default()
        };
        let text = metrics.text(&stats).unwrap();
        for line in [
            "apiserver_request_total{verb=\"get\",group=\"gctl.dev\",version=\"v1\",resource=\"jobs\",subresource=\"status\",scope=\"resource\",component=\"apiserver\",code=\"200\"} 1",
            "apiserver_storage_objects{resource=\"jobs.gctl.dev\"} 4",
            "process_start_time_seconds 0",
        ] {
            assert!(
                text.lines().any(|known| known == line),
                "{line} is missing in\n{text}"
            );
        }
        assert!(text.lines().any(
            |line| line.starts_with("apiserver_longrunning_requests{") && line.ends_with(" 1")
        ));
        assert!(text.ends_with("# EOF\n"));
        drop(watching);
        let text = metrics.text(&stats).unwrap();
        assert!(text.lines().any(
            |line| line.starts_with("apiserver_longrunning_requests{") && line.ends_with(" 0")
        ));
    }

    #[test]
    fn resources_that_are_not_served_make_no_labels() {
        let attributes = Attributes::parse(&Method::GET, "/apis/evil.dev/v1/things/x", None);
        let labels = RequestLabels::of(&attributes, |_, _, _| false);
        assert!(
            labels.pairs()[1..]
                .iter()
                .all(|(_, value)| value.is_empty())
        );
    }
}
