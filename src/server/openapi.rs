//! The description of the interface for programs, OpenAPI 3.1.

/// As it is served at `/api/v1/openapi.json`.
pub(crate) const DOCUMENT: &str = include_str!("openapi.json");
