//! `/metrics`: the session's figures in the text format of Prometheus, version 0.0.4.
//!
//! Owns names and units of the figures, all with the prefix `youquanti_`. Reads what is counted anyway; counts nothing itself, but for
//! what clients cost.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use youquanti_actors::control::Control;
use youquanti_actors::ledger::{Consumer, DropReason};
use youquanti_actors::plane::DataPlane;
use youquanti_gpu::probe::GpuLoad;

use super::Shared;
use crate::preflight::free_space;

/// Content type of the answer.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Figures as they are written down, family by family.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) -> Family<'_> {
        // Writing into a text cannot fail.
        writeln!(self.0, "# HELP youquanti_{name} {help}\n# TYPE youquanti_{name} {kind}").ok();
        Family { page: self, name: format!("youquanti_{name}") }
    }
}

struct Family<'p> {
    page: &'p mut Page,
    name: String,
}

impl Family<'_> {
    fn value(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.with_suffix("", labels, value)
    }

    fn with_suffix(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) -> &mut Self {
        let text = &mut self.page.0;
        text.push_str(&self.name);
        text.push_str(suffix);
        for (place, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(text, "{}{label}=\"{value}\"", if place == 0 { '{' } else { ',' }).ok();
        }
        writeln!(text, "{} {value}", if labels.is_empty() { "" } else { "}" }).ok();
        self
    }
}

/// Everything there is to say now.
pub(crate) async fn page(shared: &Shared) -> String {
    let mut page = Page::default();
    let status = shared.session.get().map(Control::status).unwrap_or_default();
    let mut states = page.family("session_state", "gauge", "1 for the state that the session is in.");
    for state in ["arming", "running", "stopping", "ended"] {
        states.value(&[("state", state)], f64::from(u8::from(status.phase.name() == state)));
    }
    if let Some(session) = shared.session.get() {
        let reasons = session.plane().findings.of_session().reasons.len();
        page.family("session_degraded_reasons", "gauge", "Different things that went wrong so far.")
            .value(&[], reasons as f64);
        let recording = session.plane().recording();
        page.family("recording", "gauge", "1 while a file is being written.")
            .value(&[], f64::from(u8::from(recording.is_some())));
        if let Some(recording) = recording {
            page.family("recording_bytes", "gauge", "Size of the file that is being written.")
                .value(&[], recording.file_bytes as f64);
        }
    }
    if let Some(session) = shared.session.get() {
        of_cameras(&mut page, session);
    }
    if let Ok(free) = free_space(&shared.options.recordings) {
        page.family("disk_free_bytes", "gauge", "Free space where recordings go.").value(&[], free as f64);
    }
    if let Ok(free) = free_space(crate::wiring::RING_DIR.as_ref()) {
        page.family("shared_memory_free_bytes", "gauge", "Free space where frame rings are.")
            .value(&[], free as f64);
    }
    if let Ok(gpus) = shared.gpus.loads().await.as_ref() {
        of_gpus(&mut page, gpus);
    }
    let (open, missed) = shared.sockets.figures();
    page.family("websockets", "gauge", "Open WebSockets.").value(&[], open as f64);
    page.family("websocket_missed_total", "counter", "Results and events that slow clients missed.")
        .value(&[], missed as f64);
    page.0
}

fn of_gpus(page: &mut Page, gpus: &[GpuLoad]) {
    let labels: Vec<_> = gpus.iter().map(|gpu| [("uuid", &*gpu.uuid), ("name", &*gpu.name)]).collect();
    let mut family =
        page.family("gpu_memory_used_bytes", "gauge", "GPU memory that is taken, by all programs.");
    for (gpu, labels) in gpus.iter().zip(&labels) {
        family.value(labels, gpu.memory_used as f64);
    }
    let mut family = page.family("gpu_memory_total_bytes", "gauge", "GPU memory that there is.");
    for (gpu, labels) in gpus.iter().zip(&labels) {
        family.value(labels, gpu.memory_total as f64);
    }
    let mut family = page.family(
        "gpu_utilisation_ratio",
        "gauge",
        "Share of the last moment in which the GPU was at work.",
    );
    for (gpu, labels) in gpus.iter().zip(&labels) {
        if let Some(share) = gpu.utilisation {
            family.value(labels, share);
        }
    }
}

fn of_cameras(page: &mut Page, session: &Control) {
    let plane: &DataPlane = session.plane();
    let names: Vec<_> = plane.camera_names().iter().map(ToString::to_string).collect();
    let ledger = plane.ledger.snapshot();
    let status = session.status();

    let mut family = page.family("camera_state", "gauge", "1 for the state that a camera is in.");
    for (name, state) in names.iter().zip(&status.cameras) {
        family.value(&[("camera", name), ("state", state.name())], 1.0);
    }
    let mut family = page.family("frames_captured_total", "counter", "Frames that reached this program.");
    for (name, camera) in names.iter().zip(&ledger.cameras) {
        family.value(&[("camera", name)], camera.captured as f64);
    }
    let mut family = page.family("frames_driver_lost_total", "counter", "Frames that the driver lost.");
    for (name, camera) in names.iter().zip(&ledger.cameras) {
        family.value(&[("camera", name)], camera.driver_lost as f64);
    }
    let mut family =
        page.family("frames_delivered_total", "counter", "Frames that a consumer has dealt with.");
    for (name, camera) in names.iter().zip(&ledger.cameras) {
        for (consumer, counts) in Consumer::ALL.into_iter().zip(&camera.consumers) {
            family.value(&[("camera", name), ("consumer", consumer.name())], counts.delivered as f64);
        }
    }
    let mut family =
        page.family("frames_dropped_total", "counter", "Frames that a consumer did not get, and why.");
    for (name, camera) in names.iter().zip(&ledger.cameras) {
        for (consumer, counts) in Consumer::ALL.into_iter().zip(&camera.consumers) {
            for (reason, count) in DropReason::ALL.into_iter().zip(counts.dropped) {
                let labels = [("camera", &**name), ("consumer", consumer.name()), ("reason", reason.name())];
                family.value(&labels, count as f64);
            }
        }
    }
    let mut family =
        page.family("frames_under_way", "gauge", "Frames on their way to a consumer, or in its hands.");
    for (name, camera) in names.iter().zip(&ledger.cameras) {
        for (consumer, counts) in Consumer::ALL.into_iter().zip(&camera.consumers) {
            let under_way = camera.captured.saturating_sub(counts.delivered + counts.dropped_total());
            family.value(&[("camera", name), ("consumer", consumer.name())], under_way as f64);
        }
    }
    let mut family = page.family("index_queue_depth", "gauge", "Index entries that wait for the recorder.");
    for (name, line) in names.iter().zip(&plane.cameras) {
        family.value(&[("camera", name)], line.index.len() as f64);
    }
    let mut family = page.family("results_total", "counter", "Frames with a result.");
    for (name, stats) in names.iter().zip(plane.stats.iter()) {
        family.value(&[("camera", name)], stats.results.load(Relaxed) as f64);
    }
    let mut family = page.family("faces", "gauge", "Faces in the newest result.");
    for (name, stats) in names.iter().zip(plane.stats.iter()) {
        family.value(&[("camera", name)], f64::from(stats.faces.load(Relaxed)));
    }
    let mut family = page.family("faces_total", "counter", "Faces in all results together.");
    for (name, stats) in names.iter().zip(plane.stats.iter()) {
        family.value(&[("camera", name)], stats.face_rows.load(Relaxed) as f64);
    }
    let mut family = page.family("camera_restarts_total", "counter", "Times a camera was restarted.");
    for (name, stats) in names.iter().zip(plane.stats.iter()) {
        family.value(&[("camera", name)], f64::from(stats.restarts.load(Relaxed)));
    }
    let mut family = page.family(
        "latency_seconds",
        "histogram",
        "Capture to result; the sum is reckoned from buckets of 12 %.",
    );
    for (name, stats) in names.iter().zip(plane.stats.iter()) {
        let snapshot = stats.latency.snapshot();
        let (mut so_far, mut rest) = (0, snapshot.doublings().peekable());
        while let Some((bound, count)) = rest.next() {
            so_far += count;
            // The last bucket takes all that is longer, which is what +Inf says.
            if rest.peek().is_some() {
                let le = (bound.as_micros() as f64 / 1e6).to_string();
                family.with_suffix("_bucket", &[("camera", name), ("le", &le)], so_far as f64);
            }
        }
        family.with_suffix("_bucket", &[("camera", name), ("le", "+Inf")], so_far as f64);
        family.with_suffix("_sum", &[("camera", name)], snapshot.sum().as_secs_f64());
        family.with_suffix("_count", &[("camera", name)], so_far as f64);
    }
    let streams = plane.stream_counts.figures(&plane.ledger.snapshot());
    page.family("lsl_rows_total", "counter", "Rows of participants that were sent over LSL.")
        .value(&[], streams.rows as f64);
    let mut family =
        page.family("lsl_lost_total", "counter", "What the streams over LSL did not take, and why.");
    for (what, count) in [
        ("late_row", streams.late),
        ("frame", streams.frames_lost),
        ("result", streams.results_lost),
        ("event", streams.events_lost),
        ("marker_inlet", streams.markers_lost),
    ] {
        family.value(&[("what", what)], count as f64);
    }
    if let Some(backend) = plane.backend() {
        page.family("backend_info", "gauge", "1; what computes.").value(
            &[("backend", backend.backend), ("device", &backend.device), ("runtime", &backend.runtime)],
            1.0,
        );
    }
}
