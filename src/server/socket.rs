//! The WebSocket: events, results at a rate that the client chooses, pictures one by one, and commands.
//!
//! Owns its messages and how much of them a client may leave waiting: of pictures, the one that it asked for. A client that takes nothing misses, is told how much once it
//! takes something again, and is let go when it takes nothing for long; nobody waits for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Session};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use youquanti_actors::clock::SystemClock;
use youquanti_actors::control::Control;
use youquanti_actors::live::Stream;
use youquanti_actors::messages::{Event, FacesNamed};
use youquanti_models::Clock;

use super::guard::{Allowance, SOCKET_PROTOCOL};
use super::pictures::{self, NoPicture};
use super::views::{self, Parts, problem};
use super::{Shared, commands};

/// Sockets at one time.
const MOST_SOCKETS: u64 = 256;

/// Longest message of a client, bytes.
const LONGEST_MESSAGE: usize = 16 * 1024;

/// Messages a second that a client may send for long, and at once.
const RATE: f64 = 100.0;
const BURST: f64 = 200.0;

/// Pictures a second of each camera that a client may ask for for long, and at once.
const PICTURES: f64 = 120.0;

/// Messages that a client may get wrong.
const MOST_MISTAKES: u32 = 20;

/// A client that takes nothing for so long is let go.
const TAKEN_WITHIN: Duration = Duration::from_secs(20);

/// How often a client is asked whether it is still there.
const PING: Duration = Duration::from_secs(10);

/// What all sockets have in common.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    open: AtomicU64,
    missed: AtomicU64,
    is_closing: AtomicBool,
    closing: Notify,
}

impl Sockets {
    /// Open sockets, and what all clients have missed so far.
    pub(crate) fn figures(&self) -> (u64, u64) {
        (self.open.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }

    /// Lets all clients go.
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.closing.notify_waiters();
    }
}

/// One open socket, as it is counted.
struct Counted(web::Data<Shared>);

impl Counted {
    fn enter(shared: &web::Data<Shared>) -> Option<Self> {
        let counted = Self(shared.clone());
        let before = shared.sockets.open.fetch_add(1, Ordering::Relaxed);
        (before < MOST_SOCKETS && !shared.sockets.is_closing.load(Ordering::Relaxed)).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.sockets.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a client may say. Commands are read apart: they are what `/api/v1/commands` takes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Wish {
    /// What to send from now on; takes the place of the wish before.
    Subscribe {
        #[serde(default = "yes")]
        events: bool,
        #[serde(default)]
        results: Option<ResultsWish>,
    },
    /// One picture of a camera, as soon as there is a newer one than that number. The one asked for before need not come any longer.
    Picture {
        camera: String,
        #[serde(default)]
        after: Option<i64>,
    },
    /// What time it is here; answered at once with the time on the client's clock at which it was sent.
    Clock { sent: f64 },
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResultsWish {
    /// Results a second of each camera, the newest ones; without it every one.
    #[serde(default)]
    rate: Option<f64>,
    /// Without it, all.
    #[serde(default)]
    cameras: Option<Vec<String>>,
    #[serde(default = "yes")]
    blendshapes: bool,
    #[serde(default = "yes")]
    head_pose: bool,
    #[serde(default)]
    landmarks: bool,
}

fn yes() -> bool {
    true
}

/// A client's message, understood.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Wish(Wish),
    Command(Result<commands::Request, commands::Answer>, Option<String>),
}

/// Reads a message; an error says in words what is wrong with it.
fn read(text: &str) -> Result<Said, String> {
    let mut message: Json = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let Some(fields) = message.as_object_mut() else { return Err("no JSON object".to_owned()) };
    if fields.get("type").and_then(Json::as_str) == Some("command") {
        fields.remove("type");
        let id = fields.get("id").and_then(Json::as_str).map(str::to_owned);
        return Ok(Said::Command(commands::Request::read(message), id));
    }
    let wish: Wish = serde_json::from_value(message).map_err(|error| error.to_string())?;
    if let Wish::Subscribe { results: Some(ResultsWish { rate: Some(rate), .. }), .. } = wish
        && !(0.1..=1000.0).contains(&rate)
    {
        return Err(format!("rate = {rate} is outside 0.1 to 1000 a second"));
    }
    Ok(Said::Wish(wish))
}

/// `/api/v1/live`.
pub(crate) async fn open(
    request: HttpRequest,
    body: web::Payload,
    shared: web::Data<Shared>,
) -> actix_web::Result<HttpResponse> {
    use actix_web::http::StatusCode;
    let Some(session) = shared.session.get().cloned() else {
        return Ok(problem(StatusCode::SERVICE_UNAVAILABLE, "arming", "the session is still being started"));
    };
    let Some(counted) = Counted::enter(&shared) else {
        return Ok(problem(StatusCode::SERVICE_UNAVAILABLE, "sockets", "too many WebSockets are open"));
    };
    let (response, socket, messages) = actix_ws::handle_with_protocols(&request, body, &[SOCKET_PROTOCOL])?;
    let messages = messages
        .max_frame_size(LONGEST_MESSAGE)
        .aggregate_continuations()
        .max_continuation_size(LONGEST_MESSAGE);
    actix_rt::spawn(serve(Client::new(counted, session, socket), messages));
    Ok(response)
}

/// Why a client is let go.
#[derive(Debug, PartialEq, Eq)]
enum Parting {
    /// It has gone.
    Gone,
    /// It takes nothing.
    TakesNothing,
    /// It says what nobody understands, or too much.
    Misbehaves,
    /// The session, or the server, has ended.
    Over,
}

/// One client, and what it wants.
struct Client {
    counted: Counted,
    session: Control,
    socket: Session,
    events: bool,
    results: Option<ResultsWish>,
    /// The newest result of each camera that has not been sent, where the client chose a rate.
    newest: Vec<Option<FacesNamed>>,
    names: Vec<String>,
    /// Whoever waits for the next picture of each camera.
    pictures: Vec<Option<JoinHandle<()>>>,
    allowance: Allowance,
    picture_allowance: Allowance,
    mistakes: u32,
    /// What the client has missed, as far as it was told.
    told: (u64, u64),
}

impl Client {
    fn new(counted: Counted, session: Control, socket: Session) -> Self {
        let names: Vec<_> = session.plane().camera_names().iter().map(ToString::to_string).collect();
        let (now, pictures) = (SystemClock.now(), PICTURES * names.len().max(1) as f64);
        Self {
            counted,
            session,
            socket,
            events: true,
            results: None,
            newest: names.iter().map(|_| None).collect(),
            pictures: names.iter().map(|_| None).collect(),
            allowance: Allowance::new(RATE, BURST, now),
            picture_allowance: Allowance::new(pictures, pictures, now),
            names,
            mistakes: 0,
            told: (0, 0),
        }
    }

    /// Sends a text.
    async fn send(&mut self, text: String) -> Result<(), Parting> {
        taken(self.socket.text(text)).await
    }

    /// Takes a message; what is wrong with it is said, a few times.
    async fn hear(&mut self, text: &str) -> Result<bool, Parting> {
        let said = read(text);
        let allowance = match said {
            Ok(Said::Wish(Wish::Picture { .. })) => &mut self.picture_allowance,
            _ => &mut self.allowance,
        };
        if !allowance.take(SystemClock.now()) {
            return Err(Parting::Misbehaves);
        }
        match said {
            Ok(Said::Wish(Wish::Picture { camera, after })) => {
                self.send_picture(camera, after).await?;
                Ok(false)
            }
            Ok(Said::Wish(Wish::Subscribe { events, results })) => {
                if let Some(unknown) = self.unknown_camera(results.as_ref()) {
                    let words =
                        format!("there is no camera {unknown:?}; there are {}", self.names.join(", "));
                    self.complain(&words).await?;
                    return Ok(false);
                }
                self.events = events;
                self.results = results;
                self.newest.iter_mut().for_each(|newest| *newest = None);
                self.send(json!({ "type": "subscribed" }).to_string()).await?;
                self.told.1 = 0;
                Ok(true)
            }
            Ok(Said::Wish(Wish::Clock { sent })) => {
                let now_s = views::seconds(SystemClock.now().0);
                self.send(json!({ "type": "clock", "sent": sent, "now_s": now_s }).to_string()).await?;
                Ok(false)
            }
            Ok(Said::Command(request, id)) => {
                let answer = match request {
                    Ok(request) => {
                        let shared = self.counted.0.clone();
                        shared.commands.carry_out(&self.session, request).await
                    }
                    Err(refusal) => refusal,
                };
                let status = answer.status.as_u16();
                let answer = json!({ "type": "answer", "id": id, "status": status, "body": answer.body });
                self.send(answer.to_string()).await?;
                Ok(false)
            }
            Err(words) => {
                self.complain(&words).await?;
                Ok(false)
            }
        }
    }

    /// Sends a picture once there is a newer one; everything else goes on meanwhile.
    async fn send_picture(&mut self, camera: String, after: Option<i64>) -> Result<(), Parting> {
        let Some(place) = self.names.iter().position(|name| *name == camera) else {
            return self.send(no_picture(&camera, &NoPicture::Unknown)).await;
        };
        let (shared, mut socket) = (self.counted.0.clone(), self.socket.clone());
        let sending = actix_rt::spawn(async move {
            let sent = match pictures::newer(&shared, &camera, after).await {
                Ok(picture) => timeout(TAKEN_WITHIN, socket.binary(picture.whole.clone())).await,
                Err(none) => timeout(TAKEN_WITHIN, socket.text(no_picture(&camera, &none))).await,
            };
            // That a client has gone is seen where its messages are waited for.
            drop(sent);
        });
        if let Some(before) = self.pictures[place].replace(sending) {
            before.abort();
        }
        Ok(())
    }

    async fn complain(&mut self, words: &str) -> Result<(), Parting> {
        self.mistakes += 1;
        self.send(json!({ "type": "error", "message": words }).to_string()).await?;
        if self.mistakes >= MOST_MISTAKES { Err(Parting::Misbehaves) } else { Ok(()) }
    }

    fn unknown_camera(&self, results: Option<&ResultsWish>) -> Option<String> {
        let wanted = results?.cameras.as_ref()?;
        wanted.iter().find(|wanted| !self.names.contains(wanted)).cloned()
    }

    async fn event(&mut self, event: Event) -> Result<(), Parting> {
        if !self.events {
            return Ok(());
        }
        let text = json!({
            "type": "event",
            "at_s": views::seconds(event.at.0),
            "source": event.source,
            "kind": event.kind.name(),
            "detail": event.detail,
        });
        self.send(text.to_string()).await
    }

    /// Takes a result: sends it, or keeps it until its time comes.
    async fn result(&mut self, named: FacesNamed) -> Result<(), Parting> {
        let Some(wish) = &self.results else { return Ok(()) };
        let camera = usize::from(named.faces.meta.camera.0);
        let is_wanted = wish.cameras.as_ref().is_none_or(|wanted| wanted.contains(&self.names[camera]));
        if !is_wanted {
            return Ok(());
        }
        if wish.rate.is_some() {
            self.newest[camera] = Some(named);
            return Ok(());
        }
        self.show(&named).await
    }

    /// Sends the newest result of each camera, where there is one that was not sent.
    async fn show_newest(&mut self) -> Result<(), Parting> {
        for camera in 0..self.newest.len() {
            if let Some(named) = self.newest[camera].take() {
                self.show(&named).await?;
            }
        }
        Ok(())
    }

    async fn show(&mut self, named: &FacesNamed) -> Result<(), Parting> {
        let Some(wish) = &self.results else { return Ok(()) };
        let parts =
            Parts { blendshapes: wish.blendshapes, head_pose: wish.head_pose, landmarks: wish.landmarks };
        let camera = &self.names[usize::from(named.faces.meta.camera.0)];
        let text = views::result(named, camera, &self.session.status(), parts);
        self.send(text).await
    }

    /// Tells a client that was too slow what it has missed.
    async fn tell_missed(&mut self, (events, results): (u64, u64)) -> Result<(), Parting> {
        if self.told == (events, results) {
            return Ok(());
        }
        self.count_missed((events, results));
        self.send(json!({ "type": "missed", "events": events, "results": results }).to_string()).await
    }

    /// Counts what has been missed since that was last counted.
    fn count_missed(&mut self, (events, results): (u64, u64)) {
        let more = events - self.told.0 + (results - self.told.1);
        self.counted.0.sockets.missed.fetch_add(more, Ordering::Relaxed);
        self.told = (events, results);
    }

    /// The times at which the newest results are sent.
    fn ticks(&self) -> Option<Interval> {
        let rate = self.results.as_ref()?.rate?;
        let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(ticks)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.pictures.iter().flatten().for_each(JoinHandle::abort);
    }
}

/// What a client gets, as it comes.
struct Incoming {
    events: Stream<Event>,
    results: Option<Stream<FacesNamed>>,
}

impl Incoming {
    /// Events and results, in that order, that its client has missed so far, as far as is noticed.
    fn missed(&self) -> (u64, u64) {
        (self.events.missed(), self.results.as_ref().map_or(0, Stream::missed))
    }

    /// The same when the client is let go: whoever takes nothing misses all that has come meanwhile.
    fn missed_at(&self, parting: &Parting) -> (u64, u64) {
        let (events, results) = self.missed();
        match parting {
            Parting::TakesNothing => {
                (events + self.events.behind(), results + self.results.as_ref().map_or(0, Stream::behind))
            }
            Parting::Gone | Parting::Misbehaves | Parting::Over => (events, results),
        }
    }
}

/// Waits until a client has taken something, but not for long.
async fn taken<E>(sending: impl Future<Output = Result<(), E>>) -> Result<(), Parting> {
    match timeout(TAKEN_WITHIN, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Parting::Gone),
        Err(_) => Err(Parting::TakesNothing),
    }
}

fn no_picture(camera: &str, why: &NoPicture) -> String {
    let (status, _) = why.status();
    let (status, message) = (status.as_u16(), why.to_string());
    json!({ "type": "no_picture", "camera": camera, "status": status, "message": message }).to_string()
}

/// Waits for the next tick, for ever if there is none.
async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Waits for the next result, for ever if none are wanted.
async fn next(results: &mut Option<Stream<FacesNamed>>) -> Option<FacesNamed> {
    match results {
        Some(results) => results.recv().await,
        None => std::future::pending().await,
    }
}

/// Serves a client until one of both parts.
async fn serve(mut client: Client, messages: AggregatedMessageStream) {
    let mut incoming = Incoming { events: client.session.events(), results: None };
    let parting = match attend(&mut client, &mut incoming, messages).await {
        Ok(()) => Parting::Gone,
        Err(parting) => parting,
    };
    client.count_missed(incoming.missed_at(&parting));
    let code = match parting {
        Parting::Gone | Parting::TakesNothing => CloseCode::Normal,
        Parting::Misbehaves => CloseCode::Policy,
        Parting::Over => CloseCode::Away,
    };
    // A client that takes nothing does not take this either.
    timeout(Duration::from_secs(1), client.socket.clone().close(Some(CloseReason::from(code)))).await.ok();
}

async fn attend(
    client: &mut Client,
    incoming: &mut Incoming,
    mut messages: AggregatedMessageStream,
) -> Result<(), Parting> {
    let shared = client.counted.0.clone();
    let closing = shared.sockets.closing.notified();
    tokio::pin!(closing);
    let mut pings = interval(PING);
    let mut unanswered = 0;
    let mut ticks = None;
    client.send(views::hello(&shared).to_string()).await?;
    loop {
        tokio::select! {
            () = &mut closing => return Err(Parting::Over),
            message = messages.recv() => match message {
                Some(Ok(AggregatedMessage::Text(text))) => {
                    unanswered = 0;
                    if client.hear(&text).await? {
                        ticks = client.ticks();
                        incoming.results = client.results.is_some().then(|| client.session.results());
                    }
                }
                Some(Ok(AggregatedMessage::Ping(bytes))) => {
                    taken(client.socket.pong(&bytes)).await?;
                }
                Some(Ok(AggregatedMessage::Pong(_))) => unanswered = 0,
                Some(Ok(AggregatedMessage::Close(_))) | None => return Err(Parting::Gone),
                Some(Ok(AggregatedMessage::Binary(_))) => client.complain("messages are text").await?,
                Some(Err(_)) => return Err(Parting::Misbehaves),
            },
            event = incoming.events.recv() => match event {
                Some(event) => client.event(event).await?,
                None => return Err(Parting::Over),
            },
            result = next(&mut incoming.results) => match result {
                Some(result) => client.result(result).await?,
                None => return Err(Parting::Over),
            },
            () = tick(&mut ticks) => client.show_newest().await?,
            _ = pings.tick() => {
                unanswered += 1;
                if unanswered > TAKEN_WITHIN.as_secs() / PING.as_secs() + 1 {
                    return Err(Parting::TakesNothing);
                }
                taken(client.socket.ping(b"")).await?;
            }
        }
        client.tell_missed(incoming.missed()).await?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_read_whole_or_refused_in_words() {
        let everything = r#"{"type":"subscribe","results":{}}"#;
        let wish =
            ResultsWish { rate: None, cameras: None, blendshapes: true, head_pose: true, landmarks: false };
        assert_eq!(read(everything), Ok(Said::Wish(Wish::Subscribe { events: true, results: Some(wish) })));
        assert!(matches!(
            read(r#"{"type":"command","id":"a","command":"stop"}"#),
            Ok(Said::Command(Ok(_), Some(_)))
        ));
        assert!(matches!(read(r#"{"type":"command","command":"fly"}"#), Ok(Said::Command(Err(_), None))));
        for (wrong, says) in [
            ("", "no JSON"),
            ("7", "no JSON object"),
            ("{}", "missing field `type`"),
            (r#"{"type":"sing"}"#, "unknown variant `sing`"),
            (r#"{"type":"subscribe","evnts":true}"#, "unknown field `evnts`"),
            (r#"{"type":"subscribe","results":{"rate":0}}"#, "outside 0.1 to 1000"),
            (r#"{"type":"subscribe","results":{"rate":1e999}}"#, "number out of range"),
            (r#"{"type":"picture","after":1}"#, "missing field `camera`"),
            (r#"{"type":"picture","camera":"a","after":1.5}"#, "expected i64"),
            (r#"{"type":"clock"}"#, "missing field `sent`"),
            (r#"{"type":"clock","sent":"noon"}"#, "expected f64"),
        ] {
            let words = read(wrong).unwrap_err();
            assert!(words.contains(says), "{wrong}: {words}");
        }
    }

    /// Messages that are understood.
    const GOOD: [&str; 6] = [
        r#"{"type":"subscribe","events":false,"results":{"rate":30,"cameras":["left"],"landmarks":true}}"#,
        r#"{"type":"picture","camera":"left","after":-9223372036854775808}"#,
        r#"{"type":"clock","sent":12345.678e-3}"#,
        r#"{"type":"command","id":"a","command":"mark","text":"\ud83d\ude00","lsl_time":1e3}"#,
        r#"{"type":"command","command":"start_recording","name":"a/b","notes":"","by":"me"}"#,
        r#"{"type":"command","command":"rename_participant","participant":"P1","name":"Ä"}"#,
    ];

    #[test]
    fn good_messages_are_understood() {
        for good in GOOD {
            let said = read(good);
            assert!(matches!(said, Ok(Said::Wish(_) | Said::Command(Ok(_), _))), "{good}: {said:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_says_makes_the_reader_panic(text in ".{0,300}") {
            read(&text).ok();
        }

        #[test]
        fn nor_does_a_good_message_with_a_piece_of_another(
            which in proptest::sample::select(&GOOD[..]),
            other in proptest::sample::select(&GOOD[..]),
            cuts in prop::array::uniform4(0..=90usize),
        ) {
            let piece = |text: &str, from: usize, to: usize| -> String {
                text.chars().skip(from).take(to.saturating_sub(from)).collect()
            };
            let [to, from, until, on] = cuts;
            read(&(piece(which, 0, to) + &piece(other, from, until) + &piece(which, on, usize::MAX))).ok();
        }

        #[test]
        fn no_rate_outside_its_range_is_taken(rate in proptest::num::f64::ANY) {
            let text = json!({ "type": "subscribe", "results": { "rate": rate } }).to_string();
            let taken = read(&text).is_ok();
            // JSON has no NaN and no infinity: they are written as null, which is no rate.
            prop_assert_eq!(taken, !rate.is_finite() || (0.1..=1000.0).contains(&rate));
        }
    }
}
