//! Markers of other programs: streams that the configuration names are found, followed and handed to the recorder.
//!
//! Owns a thread that looks for streams and one for each that was found. Every marker keeps both stamps: the sender's, and
//! the same instant on this machine's clock. Never makes anybody wait: markers that the recorder cannot take yet wait here,
//! and beyond a bound they are dropped and counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use tracing::{debug, warn};
use youquanti_lsl::{Correction, Inlet, Lsl, LslError as Error, Resolver, Sample, StreamInfo, Values};
use youquanti_models::{Clock, Timestamp, with_causes};

use super::{LslError, MarkerSinks, rows};
use crate::child::caught;
use crate::messages::{Event, EventKind, Markers};
use crate::stats::StreamCounts;

/// Streams with a rate are no markers.
const IRREGULAR: &str = "nominal_srate=0";

/// How long a stream that is not seen any more is remembered.
const FORGET_AFTER: Duration = Duration::from_secs(5);

/// How often it is looked for streams, and for samples.
const LOOK: Duration = Duration::from_millis(200);
const PULL: Duration = Duration::from_millis(5);

/// How long a sender may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long markers wait for the first estimate of the clocks' difference; without one they are recorded as they are.
const CORRECTION_WITHIN: Duration = Duration::from_secs(10);

/// Markers that may wait inside liblsl, and here for the recorder.
const BUFFERED: u32 = 65_536;
const MOST_WAITING: usize = 65_536;

/// Markers of one message to the recorder.
const BATCH: usize = 512;

/// Streams that are received at a time.
const MOST_STREAMS: usize = 64;

/// Longest text of a marker that is recorded, bytes.
const LONGEST: usize = 16 << 10;

/// Which streams are recorded as markers: all parts that are given must fit. `*` stands for any text, `?` for any character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerQuery {
    /// The stream's type.
    pub kind: String,
    /// Its name.
    pub name: Option<String>,
    /// Its `source_id`.
    pub source_id: Option<String>,
    /// Whether recordings begin only while there is such a stream.
    pub required: bool,
}

impl MarkerQuery {
    fn fits(&self, origin: &Origin) -> bool {
        let fits = |pattern: &Option<String>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| is_like(pattern, text))
        };
        is_like(&self.kind, &origin.kind)
            && fits(&self.name, &origin.name)
            && fits(&self.source_id, &origin.source_id)
    }
}

impl fmt::Display for MarkerQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {:?}", self.kind)?;
        for (what, pattern) in [("name", &self.name), ("source_id", &self.source_id)] {
            if let Some(pattern) = pattern {
                write!(f, ", {what} {pattern:?}")?;
            }
        }
        Ok(())
    }
}

/// Whether a text fits a pattern of `*` and `?`. Takes time in proportion to the product of both lengths at most.
fn is_like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on when a longer text must stand for the last star.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                (p, t) = (at + 1, from + 1);
                star = Some((at, from + 1));
            }
        }
    }
    pattern[p..].iter().all(|&rest| rest == '*')
}

/// What a stream says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    name: String,
    kind: String,
    source_id: String,
    host: String,
}

impl Origin {
    fn of(info: &StreamInfo) -> Self {
        Self { name: info.name(), kind: info.kind(), source_id: info.source_id(), host: info.hostname() }
    }

    /// As events and markers name it.
    fn source(&self) -> String {
        format!("lsl {}", self.name)
    }
}

/// Everything that receives markers. Dropped, it leaves all streams.
pub(super) struct MarkerInlets {
    stop: Arc<AtomicBool>,
    finder: Option<JoinHandle<()>>,
}

impl MarkerInlets {
    /// Looks for streams that fit any of the queries and are none of `own`, by `source_id`.
    pub(super) fn start(
        lsl: Lsl,
        queries: Vec<MarkerQuery>,
        own: Vec<String>,
        sinks: MarkerSinks,
        clock: Arc<dyn Clock>,
        counts: Arc<StreamCounts>,
    ) -> Result<Self, LslError> {
        let resolver = Resolver::new(lsl, IRREGULAR, FORGET_AFTER)
            .map_err(|source| LslError::Markers { source: Box::new(source) })?;
        let stop = Arc::new(AtomicBool::new(false));
        let context = Context { sinks, clock, counts, stop: Arc::clone(&stop) };
        let finder = std::thread::Builder::new()
            .name("yq-markers".to_owned())
            .spawn(move || find(&resolver, &queries, &own, &context))
            .map_err(|source| LslError::Markers { source: Box::new(source) })?;
        Ok(Self { stop, finder: Some(finder) })
    }
}

impl Drop for MarkerInlets {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(finder) = self.finder.take() {
            finder.thread().unpark();
            if finder.join().is_err() {
                warn!("the thread that looks for markers had panicked");
            }
        }
    }
}

/// What all threads of the inlets have.
#[derive(Clone)]
struct Context {
    sinks: MarkerSinks,
    clock: Arc<dyn Clock>,
    counts: Arc<StreamCounts>,
    stop: Arc<AtomicBool>,
}

impl Context {
    /// Says what became of a stream.
    #[allow(clippy::disallowed_methods, reason = "few, and none may be refused by a full mailbox")]
    fn say(&self, origin: &Origin, state: &str, more: serde_json::Value) {
        let mut detail = json!({
            "state": state,
            "stream": origin.name,
            "type": origin.kind,
            "source_id": origin.source_id,
            "host": origin.host,
        });
        if let (Some(detail), serde_json::Value::Object(more)) = (detail.as_object_mut(), more) {
            detail.extend(more);
        }
        let kind = EventKind::MarkerStream;
        self.sinks.events.do_send(Event { at: self.clock.now(), source: origin.source(), kind, detail });
    }

    fn is_over(&self) -> bool {
        self.stop.load(Relaxed)
    }
}

/// Finds streams until it is over, and follows each on a thread of its own.
fn find(resolver: &Resolver, queries: &[MarkerQuery], own: &[String], context: &Context) {
    let mut followed: BTreeMap<String, JoinHandle<()>> = BTreeMap::new();
    while !context.is_over() {
        let found = resolver.found();
        // A stream that cannot come back is done with, and is not to be taken for a new one while it is still remembered.
        followed
            .retain(|key, follower| !follower.is_finished() || found.iter().any(|info| key_of(info) == *key));
        let fits = |query: &MarkerQuery| found.iter().any(|info| query.fits(&Origin::of(info)));
        let there =
            (0..).zip(queries).filter(|(_, query)| fits(query)).map(|(place, _): (u32, _)| 1 << place);
        context.counts.marker_streams.store(there.sum(), Relaxed);
        for info in found {
            let (origin, key) = (Origin::of(&info), key_of(&info));
            let is_wanted =
                queries.iter().any(|query| query.fits(&origin)) && !own.contains(&origin.source_id);
            if !is_wanted || followed.contains_key(&key) {
                continue;
            }
            if followed.len() >= MOST_STREAMS {
                debug!(stream = origin.name, "not received: {MOST_STREAMS} streams of markers are");
                continue;
            }
            let (context, name) = (context.clone(), format!("yq-marks-{}", followed.len()));
            let follow = move || {
                if let Err(panic) = caught(|| follow(&info, &origin, &context)) {
                    context.say(&origin, "failed", json!({ "cause": panic }));
                }
            };
            match std::thread::Builder::new().name(name).spawn(follow) {
                Ok(follower) => drop(followed.insert(key, follower)),
                Err(error) => warn!(%error, "the system gives no thread for a stream of markers"),
            }
        }
        std::thread::park_timeout(LOOK);
    }
    for follower in followed.into_values() {
        if follower.join().is_err() {
            warn!("a thread that receives markers had panicked");
        }
    }
}

/// Tells streams apart. One with a `source_id` is the same after a restart, which liblsl follows by itself.
fn key_of(info: &StreamInfo) -> String {
    match info.source_id() {
        none if none.is_empty() => info.uid(),
        source_id => format!("{source_id}\n{}\n{}\n{}", info.name(), info.kind(), info.channels()),
    }
}

/// Receives one stream until it is lost or over.
fn follow(info: &StreamInfo, origin: &Origin, context: &Context) {
    let mut inlet = loop {
        match Inlet::open(info, BUFFERED, ANSWER_WITHIN) {
            Ok(inlet) => break inlet,
            Err(Error::TimedOut { .. }) if !context.is_over() => {}
            Err(_) if context.is_over() => return,
            Err(error) => return context.say(origin, "failed", json!({ "cause": with_causes(&error) })),
        }
    };
    context.say(origin, "connected", json!({ "channels": info.channels() }));
    let mut waiting = Waiting { pulled: Vec::new(), since: None, markers: Vec::new(), lost: 0 };
    while !context.is_over() {
        match inlet.pull() {
            Ok(samples) => waiting.pulled.extend(samples),
            Err(error) => {
                waiting.hand_on(origin, context, None, true);
                return context.say(origin, "lost", json!({ "cause": with_causes(&error) }));
            }
        }
        let correction = if waiting.pulled.is_empty() { None } else { inlet.correction(Duration::ZERO).ok() };
        waiting.hand_on(origin, context, correction, false);
        std::thread::park_timeout(PULL);
    }
    if let Ok(samples) = inlet.pull() {
        waiting.pulled.extend(samples);
    }
    let correction = inlet.correction(Duration::ZERO).ok();
    waiting.hand_on(origin, context, correction, true);
    waiting.report_lost(origin, context);
}

/// Markers of one stream on their way to the recorder.
struct Waiting {
    /// For the clocks' difference.
    pulled: Vec<Sample>,
    since: Option<Timestamp>,
    /// For the recorder.
    markers: Vec<Event>,
    /// Dropped since that was last said.
    lost: u64,
}

impl Waiting {
    /// Hands on what can be: with a correction all, without one what has waited long enough, or everything at the `end`.
    fn hand_on(&mut self, origin: &Origin, context: &Context, correction: Option<Correction>, end: bool) {
        if !self.pulled.is_empty() {
            let now = context.clock.now();
            let since = *self.since.get_or_insert(now);
            if correction.is_some() || end || now.saturating_since(since) > CORRECTION_WITHIN {
                self.since = None;
                let room = MOST_WAITING.saturating_sub(self.markers.len());
                self.lost += self.pulled.len().saturating_sub(room) as u64;
                let taken = self.pulled.drain(..).take(room);
                self.markers.extend(taken.map(|sample| marker(origin, sample, correction, now)));
            } else if self.pulled.len() > MOST_WAITING {
                self.lost += (self.pulled.len() - MOST_WAITING) as u64;
                self.pulled.truncate(MOST_WAITING);
            }
        }
        while !self.markers.is_empty() {
            let Some(recorder) = context.sinks.recorder.get() else { break };
            let rest = self.markers.split_off(self.markers.len().min(BATCH));
            let batch = std::mem::replace(&mut self.markers, rest);
            let count = batch.len() as u64;
            match recorder.try_send(Markers(batch)) {
                Ok(()) => drop(context.counts.markers.fetch_add(count, Relaxed)),
                Err(error) => {
                    // Full: the next time. Closed: the session is being stopped.
                    let Markers(mut batch) = error.into_inner();
                    batch.append(&mut self.markers);
                    self.markers = batch;
                    break;
                }
            }
        }
        if self.lost > 0 && self.markers.is_empty() {
            self.report_lost(origin, context);
        }
    }

    fn report_lost(&mut self, origin: &Origin, context: &Context) {
        let lost = std::mem::take(&mut self.lost) + self.markers.drain(..).count() as u64;
        if lost > 0 {
            context.counts.markers_lost.fetch_add(lost, Relaxed);
            context.say(origin, "overrun", json!({ "markers_lost": lost }));
        }
    }
}

/// A marker as the file has it.
fn marker(origin: &Origin, sample: Sample, correction: Option<Correction>, received_at: Timestamp) -> Event {
    let at = sample.at + correction.map_or(0.0, |correction| correction.offset);
    // Whatever a sender may stamp: a float becomes the nearest instant there is, NaN and what is before zero 0.
    let at = Timestamp((at * 1e9) as u64);
    let detail = json!({
        "value": value(sample.values),
        "stream": origin.name,
        "type": origin.kind,
        "source_id": origin.source_id,
        "host": origin.host,
        "remote_stamp_s": sample.at,
        "clock_offset_s": correction.map(|correction| correction.offset),
        "clock_uncertainty_s": correction.map(|correction| correction.uncertainty),
        "received_s": rows::seconds(received_at),
    });
    Event { at, source: origin.source(), kind: EventKind::Marker, detail }
}

/// One value as it is, several as a list; texts that are too long are cut.
fn value(values: Values) -> serde_json::Value {
    let cut = |mut text: String| {
        text.truncate(text.floor_char_boundary(LONGEST));
        json!(text)
    };
    let mut list: Vec<_> = match values {
        Values::Texts(texts) => texts.into_iter().map(cut).collect(),
        Values::Numbers(numbers) => numbers.into_iter().map(|number| json!(number)).collect(),
    };
    if list.len() == 1 { list.remove(0) } else { serde_json::Value::Array(list) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("Markers", "Markers", true),
            ("Markers", "markers", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("?", "ä", true),
            ("??", "ä", false),
            ("*aab", "aaaab", true),
        ] {
            assert_eq!(is_like(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_a_sender_may_stamp_and_send() {
        let origin =
            Origin { name: "s".into(), kind: "Markers".into(), source_id: String::new(), host: "h".into() };
        let at = |at, offset| {
            let correction = Some(Correction { offset, uncertainty: 0.0 });
            marker(&origin, Sample { at, values: Values::Numbers(vec![f64::NAN]) }, correction, Timestamp(0))
                .at
                .0
        };
        assert_eq!(at(2.0, 0.5), 2_500_000_000);
        assert_eq!((at(f64::NAN, 0.0), at(-1.0, 0.0), at(f64::INFINITY, 0.0)), (0, 0, u64::MAX));
        assert_eq!(value(Values::Numbers(vec![1.0, 2.0])), json!([1.0, 2.0]));
        assert_eq!(value(Values::Texts(vec!["x".repeat(LONGEST - 1) + "ä"])), json!("x".repeat(LONGEST - 1)));
    }

    proptest! {
        #[test]
        fn a_text_is_like_itself_with_parts_replaced_by_stars(text in "[a-c]{0,12}", from in 0usize..13, to in 0usize..13) {
            let (from, to) = (from.min(text.len()), to.min(text.len()));
            prop_assume!(from <= to);
            let pattern = format!("{}*{}", &text[..from], &text[to..]);
            prop_assert!(is_like(&pattern, &text));
            prop_assert!(is_like(&"?".repeat(text.len()), &text));
        }
    }
}
