//! JSON schema of the file format, for editors.

use serde_json::{Value as Json, json};

use crate::format::tables_schema;

/// The schema (JSON Schema 2020-12) of a configuration's file; `config/youquanti.schema.json` is a copy.
/// It knows every key, type, range and default, but not the rules that tie several keys together.
pub fn schema() -> Json {
    let mut schema = tables_schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("YouQuanti configuration");
    schema
}
