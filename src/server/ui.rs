//! The dashboard: static files in the program, without anything from elsewhere.
//!
//! Owns which files there are. They use the same interface as every other client.

use actix_web::{HttpResponse, web};

use super::routes::nothing_here;

/// The page itself.
pub(crate) async fn page() -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(include_str!("ui/index.html"))
}

/// What belongs to it.
pub(crate) async fn part(name: web::Path<String>) -> HttpResponse {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let (kind, body) = match name.as_str() {
        "style.css" => ("text/css; charset=utf-8", include_str!("ui/style.css")),
        "app.js" => (SCRIPT, include_str!("ui/app.js")),
        "api.js" => (SCRIPT, include_str!("ui/api.js")),
        "camera.js" => (SCRIPT, include_str!("ui/camera.js")),
        "people.js" => (SCRIPT, include_str!("ui/people.js")),
        _ => return nothing_here(),
    };
    HttpResponse::Ok().content_type(kind).body(body)
}
