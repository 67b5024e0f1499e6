//! Who is let in, and what every answer carries.
//!
//! Owns the checks that come before any request: token, host, origin, rate. A web page of somebody else's must not steer a
//! session, be it by a form, a script, an image, a WebSocket, or a host name that resolves to this machine. Never looks at
//! what a request asks for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{StatusCode, Uri};
use actix_web::middleware::Next;
use actix_web::web;
use youquanti_actors::clock::SystemClock;
use youquanti_models::{Clock, Timestamp};

use super::Shared;
use super::views::problem;

/// Requests a second that one address may make for long, and at once.
const RATE: f64 = 500.0;
const BURST: f64 = 1000.0;

/// Wrong tokens a second that one address may show for long, and at once.
const WRONG_TOKENS: f64 = 0.5;
const WRONG_TOKENS_AT_ONCE: f64 = 10.0;

/// Addresses that are remembered.
const MOST_ADDRESSES: usize = 1024;

/// The WebSocket's protocol; a browser shows its token as another one, `bearer.TOKEN`, because it can set no header there.
pub(crate) const SOCKET_PROTOCOL: &str = "youquanti.v1";
const SOCKET_TOKEN: &str = "bearer.";

/// How much of something is left to somebody: refilled steadily, never beyond `most`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    left: f64,
    most: f64,
    per_second: f64,
    at: Timestamp,
}

impl Allowance {
    pub(crate) fn new(per_second: f64, most: f64, now: Timestamp) -> Self {
        Self { left: most, most, per_second, at: now }
    }

    fn refill(&mut self, now: Timestamp) {
        let gained = now.saturating_since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.most);
        self.at = self.at.max(now);
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Timestamp) -> bool {
        self.refill(now);
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }

    fn is_full(&mut self, now: Timestamp) -> bool {
        self.refill(now);
        self.left >= self.most
    }
}

#[derive(Debug)]
struct Client {
    requests: Allowance,
    wrong_tokens: Allowance,
}

/// What is remembered of clients.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    clients: Mutex<HashMap<IpAddr, Client>>,
}

impl Guard {
    /// Does `work` with what is known of a client; those with nothing against them are forgotten first when there are too many.
    fn of<T>(&self, address: IpAddr, now: Timestamp, work: impl FnOnce(&mut Client) -> T) -> T {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MOST_ADDRESSES && !clients.contains_key(&address) {
            clients.retain(|_, client| !client.requests.is_full(now) || !client.wrong_tokens.is_full(now));
            if clients.len() >= MOST_ADDRESSES {
                clients.clear();
            }
        }
        work(clients.entry(address).or_insert_with(|| Client {
            requests: Allowance::new(RATE, BURST, now),
            wrong_tokens: Allowance::new(WRONG_TOKENS, WRONG_TOKENS_AT_ONCE, now),
        }))
    }
}

/// Why a request is not let in.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// Its host is a name that is not this machine's own.
    Host,
    /// It comes from a web page of another site.
    Origin,
    /// It shows no token, or a wrong one.
    Token,
    /// There are too many.
    Rate,
}

impl Refusal {
    fn answer(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Refusal::Host => (
                StatusCode::FORBIDDEN,
                "host",
                "this server answers to 127.0.0.1, localhost and [::1] only, because other names may be an attack on this machine (DNS rebinding)",
            ),
            Refusal::Origin => {
                (StatusCode::FORBIDDEN, "origin", "requests from web pages of other sites are refused")
            }
            Refusal::Token => (
                StatusCode::UNAUTHORIZED,
                "token",
                "show the token that was printed at the start, as `Authorization: Bearer TOKEN`",
            ),
            Refusal::Rate => (StatusCode::TOO_MANY_REQUESTS, "rate", "too many requests: wait a second"),
        }
    }
}

/// The checks before a request is looked at.
pub(crate) async fn guard<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, actix_web::Error> {
    let refusal = request.app_data::<web::Data<Shared>>().and_then(|shared| {
        let peer = request.peer_addr().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip());
        let now = SystemClock.now();
        if !shared.guard.of(peer, now, |client| client.requests.take(now)) {
            return Some(Refusal::Rate);
        }
        let found = check(shared, request.headers(), request.uri());
        if found == Some(Refusal::Token)
            && !shared.guard.of(peer, now, |client| client.wrong_tokens.take(now))
        {
            return Some(Refusal::Rate);
        }
        found
    });
    let mut response = match refusal {
        None => next.call(request).await?.map_into_left_body(),
        Some(refusal) => {
            let (status, code, words) = refusal.answer();
            request.into_response(problem(status, code, words)).map_into_right_body()
        }
    };
    add_headers(response.headers_mut());
    Ok(response)
}

fn text(headers: &HeaderMap, name: impl Into<HeaderName>) -> Option<&str> {
    headers.get(name.into())?.to_str().ok()
}

/// What is open to everybody who reaches the port: whether the program is alive, and the page that asks for the token.
fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/" | "/favicon.ico") || path.starts_with("/ui/")
}

fn check(shared: &Shared, headers: &HeaderMap, uri: &Uri) -> Option<Refusal> {
    let host = text(headers, header::HOST).or_else(|| uri.authority().map(|authority| authority.as_str()));
    let token = shared.options.token.as_ref();
    // With a token, a page under another name has nothing to show; without one, only names that are surely this machine's are good.
    if token.is_none() && !host.is_some_and(is_loopback) {
        return Some(Refusal::Host);
    }
    let is_foreign = match (text(headers, header::ORIGIN), host) {
        (Some(origin), Some(host)) => origin.strip_prefix("http://") != Some(host),
        (Some(_), None) => true,
        (None, _) => false,
    };
    let site = text(headers, HeaderName::from_static("sec-fetch-site"));
    if is_foreign || site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Some(Refusal::Origin);
    }
    let token = token.filter(|_| !is_public(uri.path()))?;
    let is_shown = shown_token(headers).is_some_and(|shown| token.is(shown));
    (!is_shown).then_some(Refusal::Token)
}

fn shown_token(headers: &HeaderMap) -> Option<&str> {
    if let Some(credentials) = text(headers, header::AUTHORIZATION) {
        let (scheme, token) = credentials.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then_some(token.trim());
    }
    let protocols = text(headers, header::SEC_WEBSOCKET_PROTOCOL)?;
    protocols.split(',').find_map(|protocol| protocol.trim().strip_prefix(SOCKET_TOKEN))
}

/// Whether a `Host` names this machine itself, on whatever port.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// What keeps a browser from doing with our pages and answers what they are not for.
fn add_headers(headers: &mut HeaderMap) {
    const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; object-src 'none'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let all = [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-store"),
    ];
    for (name, value) in all {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// How long a client may take to send a request's body.
pub(crate) const BODY_WITHIN: Duration = super::REQUEST_WITHIN;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_surely_this_machine() {
        for good in
            ["127.0.0.1", "127.0.0.1:8478", "localhost:1", "LOCALHOST", "[::1]:8478", "[::1]", "127.8.9.1:2"]
        {
            assert!(is_loopback(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:8478",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0:1",
            "[::2]:1",
        ] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }

    #[test]
    fn an_allowance_is_used_up_and_comes_back() {
        let mut allowance = Allowance::new(2.0, 3.0, Timestamp(0));
        let taken = |allowance: &mut Allowance, ms: u64| {
            (0..10).filter(|_| allowance.take(Timestamp(ms * 1_000_000))).count()
        };
        assert_eq!(taken(&mut allowance, 0), 3);
        assert_eq!(taken(&mut allowance, 499), 0);
        assert_eq!(taken(&mut allowance, 500), 1);
        assert_eq!(taken(&mut allowance, 1_000_000), 3, "never more than at once");
        assert_eq!(taken(&mut allowance, 0), 0, "a clock that goes back gives nothing");
    }

    #[test]
    fn the_number_of_clients_that_are_remembered_is_bounded() {
        let guard = Guard::default();
        for number in 0..5000_u32 {
            guard.of(IpAddr::from(number.to_be_bytes()), Timestamp(0), |client| {
                client.requests.take(Timestamp(0))
            });
        }
        assert!(guard.clients.lock().unwrap().len() <= MOST_ADDRESSES);
    }
}
