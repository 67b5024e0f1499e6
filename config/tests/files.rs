//! The files that are shipped: every example is read, and the schema for editors is current and
//! agrees with the reader.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use youquanti_config::{Config, Position, SourceConfig, schema};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(folder().join("examples")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert_eq!(paths.len(), 10);
    paths
}

#[test]
fn every_example_is_read() {
    for path in examples() {
        let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.source_text(), fs::read_to_string(&path).unwrap());
        assert!(path.file_stem().unwrap().to_str().unwrap().ends_with(config.session.name.as_str()));
    }
}

#[test]
fn the_demo_is_two_scenes() {
    let demo = Config::demo().unwrap();
    let scenes: Vec<_> = demo
        .cameras
        .iter()
        .map(|camera| match &camera.source {
            SourceConfig::Scene(scene) => (camera.name.as_str(), scene.faces.get(), scene.seed),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(scenes, [("left", 1, 1), ("right", 2, 2)]);
    assert_eq!(demo.session.duration.unwrap().get().as_secs(), 20);
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let errors = Config::load(&path).unwrap_err();
        assert!(errors.problems()[0].message.starts_with(expected), "{errors}");
        assert_eq!(errors.problems()[0].position, None);
    };
    check("long.toml", &vec![b'#'; (1 << 20) + 1], "is longer than 1 MiB");
    check("latin.toml", b"# \xe4 x", "is no text: invalid utf-8");
    let errors = Config::load(&folder.path().join("none.toml")).unwrap_err();
    assert!(errors.to_string().starts_with("error: cannot be read: No such file"), "{errors}");
    assert!(Config::load(folder.path()).is_err());
}

#[test]
fn later_checks_point_at_the_file() {
    let text = "version = 1\n[[camera]]\nname = \"door\"\n[camera.file]\npath = \"gone.mp4\"\n";
    let config = Config::from_toml(text, "a.toml").unwrap();
    assert_eq!(config.position_of("camera[0].file.path"), Some(Position { line: 5, column: 8 }));
    assert_eq!(config.position_of("camera[0].file.fps"), Some(Position { line: 4, column: 1 }));
    assert_eq!(config.position_of("pipeline.model_dir"), None);
    let expected = "\
error: camera \"door\", file: path = \"gone.mp4\" is not there
 --> a.toml:5:8
  |
5 | path = \"gone.mp4\"
  |        ^^^^^^^^^^
  = remedy: check the path";
    assert_eq!(config.problem("camera[0].file.path", "is not there", "check the path").to_string(), expected);
    let expected = "error: session: directory cannot be written\n--> a.toml\n = remedy: choose another";
    assert_eq!(
        config.problem("session.directory", "cannot be written", "choose another").to_string(),
        expected
    );
}

#[test]
fn the_schema_is_current() {
    let path = folder().join("youquanti.schema.json");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{:#}\n", schema())).unwrap();
    }
    let stored: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(stored == schema(), "out of date: run `UPDATE=1 cargo test -p youquanti-config`");
}

#[test]
fn the_schema_agrees_with_the_reader() {
    for path in examples() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(fits(&toml::from_str(&text).unwrap(), &schema()), "{}", path.display());
        // With any one value replaced by one that never fits, neither takes it.
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with(['#', '['])) {
            let Some((key, _)) = line.split_once(" = ") else { continue };
            let mut lines: Vec<_> = text.lines().collect();
            let damaged = format!("{key} = 1979-05-27");
            lines[number] = &damaged;
            let damaged = lines.join("\n");
            assert!(Config::from_toml(&damaged, "damaged").is_err(), "{damaged}");
            let table: toml::Table = damaged.parse().unwrap();
            assert!(!fits(&without_dates(toml::Value::Table(table)), &schema()), "{damaged}");
        }
    }
}

/// As JSON, a date as null, which no key takes.
fn without_dates(value: toml::Value) -> Json {
    match value {
        toml::Value::Datetime(_) => Json::Null,
        toml::Value::Array(list) => list.into_iter().map(without_dates).collect(),
        toml::Value::Table(table) => {
            Json::Object(table.into_iter().map(|(key, value)| (key, without_dates(value))).collect())
        }
        plain => serde_json::to_value(plain).unwrap(),
    }
}

/// Whether a value fits a schema, as far as this project's schema uses the language; patterns are left out.
fn fits(value: &Json, schema: &Json) -> bool {
    schema.as_object().unwrap().iter().all(|(word, rule)| match word.as_str() {
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            other => panic!("type {other}"),
        },
        "const" => value == rule,
        "enum" => rule.as_array().unwrap().contains(value),
        "anyOf" => rule.as_array().unwrap().iter().any(|one| fits(value, one)),
        "oneOf" => rule.as_array().unwrap().iter().filter(|one| fits(value, one)).count() == 1,
        "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
        "multipleOf" => value.as_u64().is_none_or(|number| number.is_multiple_of(rule.as_u64().unwrap())),
        "minLength" => {
            value.as_str().is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap())
        }
        "maxLength" => {
            value.as_str().is_none_or(|text| text.chars().count() as u64 <= rule.as_u64().unwrap())
        }
        "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= rule.as_u64().unwrap()),
        "maxItems" => value.as_array().is_none_or(|list| list.len() as u64 <= rule.as_u64().unwrap()),
        "items" => value.as_array().is_none_or(|list| list.iter().all(|item| fits(item, rule))),
        "required" => {
            let here = |key: &Json| value.get(key.as_str().unwrap()).is_some();
            !value.is_object() || rule.as_array().unwrap().iter().all(here)
        }
        "properties" => {
            let keys = rule.as_object().unwrap();
            keys.iter().all(|(key, schema)| value.get(key).is_none_or(|value| fits(value, schema)))
        }
        "minProperties" => value.as_object().is_none_or(|all| all.len() as u64 >= rule.as_u64().unwrap()),
        "maxProperties" => value.as_object().is_none_or(|all| all.len() as u64 <= rule.as_u64().unwrap()),
        "propertyNames" => {
            value.as_object().is_none_or(|all| all.keys().all(|key| fits(&Json::String(key.clone()), rule)))
        }
        "additionalProperties" => {
            let known = |key: &String| schema.get("properties").is_some_and(|known| known.get(key).is_some());
            let fits_as_other = |value: &Json| rule.is_object() && fits(value, rule);
            value
                .as_object()
                .is_none_or(|object| object.iter().all(|(key, value)| known(key) || fits_as_other(value)))
        }
        "$schema" | "title" | "description" | "default" | "pattern" | "uniqueItems" => true,
        other => panic!("the schema has learnt {other}: teach it here too"),
    })
}
