//! What is found where.
//!
//! Owns the paths and the form of requests; what is answered is made elsewhere.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, web};
use serde_json::{Value as Json, json};
use tokio::time::timeout;
use youquanti_actors::control::{Control, Phase};

use super::guard::BODY_WITHIN;
use super::views::{self, problem};
use super::{Shared, commands, files, gpus, metrics, openapi, pictures, socket, ui};

/// Longest body of a request, bytes.
const LONGEST_BODY: usize = 16 * 1024;

pub(crate) fn configure(app: &mut web::ServiceConfig) {
    app.service(get("/healthz", health))
        .service(get("/readyz", ready))
        .service(get("/metrics", show_metrics))
        .service(get("/api/v1/openapi.json", document))
        .service(get("/api/v1/state", state))
        .service(get("/api/v1/cameras", |shared: Of| async move { of_session(&shared, views::cameras) }))
        .service(get("/api/v1/cameras/{name}/preview", pictures::preview))
        .service(get("/api/v1/cameras/{name}/preview.jpg", pictures::jpeg))
        .service(get(
            "/api/v1/participants",
            |shared: Of| async move { of_session(&shared, views::participants) },
        ))
        .service(get("/api/v1/ledger", |shared: Of| async move { of_session(&shared, views::ledger) }))
        .service(get("/api/v1/latency", |shared: Of| async move { of_session(&shared, views::latency) }))
        .service(get("/api/v1/gpus", gpus::gpus))
        .service(get("/api/v1/config", config))
        .service(get("/api/v1/sessions", sessions))
        .service(get("/api/v1/sessions/{name:.*}", session))
        .service(get("/api/v1/live", socket::open))
        .service(
            web::resource("/api/v1/commands")
                .route(web::post().to(command))
                .default_service(web::to(|| async { wrong_method("POST") })),
        )
        .service(get("/", ui::page))
        .service(get("/ui/{name}", ui::part))
        .default_service(web::to(|| async { nothing_here() }));
}

pub(crate) fn nothing_here() -> HttpResponse {
    let words = "there is nothing here; /api/v1/openapi.json says what there is";
    problem(StatusCode::NOT_FOUND, "unknown", words)
}

type Of = web::Data<Shared>;

/// A resource that is only read.
fn get<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path)
        .route(web::get().to(handler.clone()))
        .route(web::head().to(handler))
        .default_service(web::to(|| async { wrong_method("GET, HEAD") }))
}

fn wrong_method(allowed: &'static str) -> HttpResponse {
    let words = format!("only {allowed} is possible here");
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "method", &words);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

fn not_yet() -> HttpResponse {
    problem(StatusCode::SERVICE_UNAVAILABLE, "arming", "the session is still being started")
}

/// What can be said of a session once there is one.
fn of_session(shared: &Shared, view: impl FnOnce(&Control) -> Json) -> HttpResponse {
    shared.session.get().map_or_else(not_yet, |session| HttpResponse::Ok().json(view(session)))
}

/// Whether the program is alive, whatever its session does.
async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "alive": true }))
}

/// Whether the session runs.
async fn ready(shared: Of) -> HttpResponse {
    let phase = shared.session.get().map(|session| session.status().phase).unwrap_or_default();
    let status = if phase == Phase::Running { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::build(status).json(json!({ "ready": phase == Phase::Running, "state": phase }))
}

async fn show_metrics(shared: Of) -> HttpResponse {
    HttpResponse::Ok().content_type(metrics::CONTENT_TYPE).body(metrics::page(&shared).await)
}

async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(openapi::DOCUMENT)
}

async fn state(shared: Of) -> HttpResponse {
    HttpResponse::Ok().json(views::state(&shared))
}

async fn config(shared: Of) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "toml": without_credentials(&shared.options.config_text) }))
}

/// A configuration without what stands for name and password in addresses (`rtsp://name:password@camera`).
fn without_credentials(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        shown.push_str(before);
        let end =
            after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'')).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                shown.push('…');
                &after[at..]
            }
            None => after,
        };
    }
    shown + rest
}

async fn sessions(shared: Of) -> HttpResponse {
    let root = shared.options.recordings.clone();
    match web::block(move || files::list(&root)).await {
        Ok(list) => HttpResponse::Ok().json(list),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, "busy", &error.to_string()),
    }
}

async fn session(shared: Of, name: web::Path<String>) -> HttpResponse {
    files::inspect(shared, &name).await
}

/// Has a command carried out.
async fn command(request: HttpRequest, shared: Of, body: web::Payload) -> HttpResponse {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    // A form of another site cannot send this type.
    if !kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json") {
        let words = "a command is sent as Content-Type: application/json";
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", words);
    }
    let body = match timeout(BODY_WITHIN, body.to_bytes_limited(LONGEST_BODY)).await {
        Ok(Ok(Ok(body))) => body,
        Ok(Ok(Err(error))) => return problem(StatusCode::BAD_REQUEST, "body", &error.to_string()),
        Ok(Err(_)) => {
            let words = format!("a command has at most {LONGEST_BODY} bytes");
            return problem(StatusCode::PAYLOAD_TOO_LARGE, "length", &words);
        }
        Err(_) => return problem(StatusCode::REQUEST_TIMEOUT, "slow", "the command did not come in time"),
    };
    let json: Json = match serde_json::from_slice(&body) {
        Ok(json) => json,
        Err(error) => return problem(StatusCode::BAD_REQUEST, "json", &format!("no JSON: {error}")),
    };
    let answer = match commands::Request::read(json) {
        Err(refusal) => refusal,
        Ok(request) => match shared.session.get() {
            Some(session) => shared.commands.carry_out(session, request).await,
            None => return not_yet(),
        },
    };
    HttpResponse::build(answer.status).json(answer.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_cameras_are_not_shown() {
        for (text, shown) in [
            ("path = \"rtsp://ann:s3cr@t@cam/1\" # x", "path = \"rtsp://…@cam/1\" # x"),
            ("a = \"http://cam/a@b\"\nb = 'rtsp://u@h'", "a = \"http://cam/a@b\"\nb = 'rtsp://…@h'"),
            ("no address", "no address"),
            ("://", "://"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }
}
