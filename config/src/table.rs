//! Reading a TOML document into typed tables while collecting every problem.
//!
//! Owns the [`Value`] and [`Leaf`] traits and the [`table!`] macro, which makes a struct, its reader and its
//! schema from one declaration. Knows no key of the format.

use std::ops::Range;

use serde_json::{Map, Value as Json, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::problem::{Problem, Source, What};

/// A value in the document, and where it stands.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    /// The table that holds it, as people are told: `camera "left", scene`. Empty for the top level.
    pub(crate) table: &'a str,
    /// Its key in that table.
    pub(crate) key: &'a str,
    /// What was written.
    pub(crate) value: &'a Spanned<DeValue<'a>>,
}

impl At<'_> {
    /// What people are told when the value is itself a table.
    pub(crate) fn label(&self) -> String {
        if self.table.is_empty() { self.key.to_owned() } else { format!("{}, {}", self.table, self.key) }
    }
}

/// The problems found so far in one document.
pub(crate) struct Problems<'a> {
    source: &'a Source,
    found: Vec<Problem>,
    /// Lines that are no TOML. Where there are any, what seems to be missing may only have been misread.
    misread: Vec<usize>,
}

impl<'a> Problems<'a> {
    /// Begins with what the parser itself found.
    pub(crate) fn new(source: &'a Source, syntax: &[toml::de::Error]) -> Self {
        let mut problems = Self { source, found: Vec::new(), misread: Vec::new() };
        for error in syntax {
            let what = What {
                message: format!("not valid TOML: {}", error.message().replace('\n', "; ")),
                remedy: "correct the marked text; https://toml.io/en/v1.0.0 has the rules".to_owned(),
                ..What::default()
            };
            let span = error.span().unwrap_or_default();
            problems.push(&span, what);
            problems.misread.push(source.position(span.start).line);
        }
        problems
    }

    /// All problems, in the order in which they were found.
    pub(crate) fn into_inner(self) -> Vec<Problem> {
        self.found
    }

    /// A value that does not fit: the message begins with key and value, `phrase` ends it.
    pub(crate) fn misfit(&mut self, at: At<'_>, phrase: &str, allowed: Option<String>, remedy: String) {
        let span = at.value.span();
        let value = self.source.written(&span);
        let what = What {
            table: at.table.to_owned(),
            message: format!("{} = {value} {phrase}", at.key),
            key: Some(at.key.to_owned()),
            value: Some(value),
            allowed,
            remedy,
        };
        self.push(&span, what);
    }

    /// Something wrong with a table as a whole, or with one of its keys as such.
    pub(crate) fn wrong(
        &mut self,
        span: &Range<usize>,
        table: &str,
        key: Option<&str>,
        message: String,
        remedy: String,
    ) {
        let (table, key) = (table.to_owned(), key.map(str::to_owned));
        self.push(span, What { table, key, message, remedy, ..What::default() });
    }

    /// A key or table that has to be there.
    pub(crate) fn missing(
        &mut self,
        span: &Range<usize>,
        table: &str,
        key: Option<&str>,
        message: String,
        remedy: String,
    ) {
        if self.misread.is_empty() {
            self.wrong(span, table, key, message, remedy);
        }
    }

    /// The line of a value, for messages that point at a second place.
    pub(crate) fn line(&self, value: &Spanned<DeValue<'_>>) -> usize {
        self.source.position(value.span().start).line
    }

    /// A line that is no TOML is reported once: the parser's guess at the rest of it says nothing.
    fn push(&mut self, span: &Range<usize>, what: What) {
        let line = self.source.position(span.start).line;
        if !self.misread.contains(&line) {
            self.found.push(self.source.problem(Some(span), what));
        }
    }
}

/// Anything that can stand to the right of `=`, or be a table.
pub(crate) trait Value: Sized {
    /// Reads it, reporting whatever is wrong; `None` when something is.
    fn read(at: At<'_>, problems: &mut Problems<'_>) -> Option<Self>;

    /// Its JSON schema, without description and default.
    fn schema() -> Json;

    /// What an absent key without a default means: a mistake, unless the type says otherwise.
    fn absent() -> Option<Self> {
        None
    }
}

/// Why a text, number or switch is not a [`Leaf`].
pub(crate) enum Misfit {
    /// Another TOML type than any that could be meant.
    Type,
    /// Right type, wrong value: ends a sentence that begins with `key = value`.
    Value(String),
    /// Not one of the words allowed, but close to this one.
    Near(String),
}

/// A value without parts.
pub(crate) trait Leaf: Sized {
    /// The value, if it is one.
    fn parse(value: &DeValue<'_>) -> Result<Self, Misfit>;

    /// What may stand here, to follow "write": `a whole number from 1 to 16`.
    fn allowed() -> String;

    /// Its JSON schema.
    fn schema() -> Json;
}

impl<T: Leaf> Value for T {
    fn read(at: At<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let misfit = match T::parse(at.value.get_ref()) {
            Ok(value) => return Some(value),
            Err(misfit) => misfit,
        };
        let allowed = T::allowed();
        let (phrase, remedy) = match misfit {
            Misfit::Type => (format!("is {}, not {allowed}", type_name(at.value.get_ref())), None),
            Misfit::Value(phrase) => (phrase, None),
            Misfit::Near(word) => (format!("is not {allowed}"), Some(format!("did you mean {word:?}?"))),
        };
        problems.misfit(at, &phrase, Some(allowed.clone()), remedy.unwrap_or(format!("write {allowed}")));
        None
    }

    fn schema() -> Json {
        <T as Leaf>::schema()
    }
}

impl<T: Value> Value for Option<T> {
    fn read(at: At<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        T::read(at, problems).map(Some)
    }

    fn schema() -> Json {
        T::schema()
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// A key of a table, as the schema and the search for misspelt keys need it.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// The default as TOML; `None` when the key has to be there or its absence means something.
    pub(crate) default: Option<&'static str>,
    /// Whether the type itself says what the key's absence means.
    pub(crate) optional: fn() -> bool,
    pub(crate) doc: &'static str,
    pub(crate) schema: fn() -> Json,
}

/// The keys of one table of the document, while they are read.
pub(crate) struct Entries<'a> {
    label: &'a str,
    span: Range<usize>,
    entries: &'a DeTable<'a>,
    /// Keys that were probably meant by those that the table does not have.
    misspelt: Vec<&'static str>,
}

impl<'a> Entries<'a> {
    /// The entries of a value that should be a table; reports when it is not one, and reports keys
    /// that the table does not have.
    pub(crate) fn open(
        at: At<'a>,
        label: &'a str,
        keys: &[Key],
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        let Some(entries) = at.value.get_ref().as_table() else {
            let phrase = format!("is {}, not a table", type_name(at.value.get_ref()));
            problems.misfit(
                at,
                &phrase,
                Some("a table".to_owned()),
                format!("write [{}] on a line of its own, its keys below", at.key),
            );
            return None;
        };
        let mut misspelt = Vec::new();
        for key in entries.keys().filter(|key| keys.iter().all(|known| known.name != key.get_ref())) {
            let name = key.get_ref().as_ref();
            let absent = keys.iter().map(|key| key.name).filter(|name| !entries.contains_key(*name));
            let near = nearest(name, absent);
            misspelt.extend(near);
            let remedy = near.map_or_else(
                || {
                    let names: Vec<_> = keys.iter().map(|key| key.name).collect();
                    format!("remove it; the keys here are {}", names.join(", "))
                },
                |near| format!("did you mean {near}?"),
            );
            let message = format!("there is no key {}", printable_key(name));
            problems.wrong(&key.span(), label, Some(name), message, remedy);
        }
        Some(Self { label, span: at.value.span(), entries, misspelt })
    }

    /// The value of a key: as written, its default, or what its absence means.
    pub(crate) fn take<T: Value>(&self, key: &Key, problems: &mut Problems<'_>) -> Option<T> {
        if let Some(value) = self.entries.get(key.name) {
            return T::read(At { table: self.label, key: key.name, value }, problems);
        }
        if let Some(value) = key.default.and_then(|text| DeValue::parse(text).ok()) {
            return T::read(At { table: self.label, key: key.name, value: &value }, problems);
        }
        let absent = T::absent();
        if absent.is_none() && !self.misspelt.contains(&key.name) {
            let remedy = format!("add {} = …: {}", key.name, first_sentence(key.doc));
            problems.missing(
                &self.span,
                self.label,
                Some(key.name),
                format!("{} is missing", key.name),
                remedy,
            );
        }
        absent
    }
}

/// Declares a table: its struct, how it is read and its JSON schema. A field's type says what may stand
/// there; `= default` (a TOML value) makes the key optional, an `Option` optional without a default;
/// its comment is the description everywhere.
macro_rules! table {
    ($(#[doc = $about:literal])+ $vis:vis struct $table:ident {
        $($(#[doc = $doc:literal])+ $field:ident : $type:ty $(= $default:tt)?,)+
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $table {
            $($(#[doc = $doc])+ #[doc = ""] $(#[doc = concat!("Default: `", stringify!($default), "`.")])? $vis $field: $type,)+
        }

        impl $table {
            pub(crate) const KEYS: &[$crate::table::Key] = &[$($crate::table::Key {
                name: $crate::table::key_name(stringify!($field)),
                default: $crate::table::table!(@default $($default)?),
                doc: concat!($($doc),+),
                schema: <$type as $crate::table::Value>::schema,
                optional: || <$type as $crate::table::Value>::absent().is_some(),
            }),+];

            /// Reads the table under the name that people are told.
            pub(crate) fn read_as(
                label: &str,
                at: $crate::table::At<'_>,
                problems: &mut $crate::table::Problems<'_>,
            ) -> Option<Self> {
                let entries = $crate::table::Entries::open(at, label, Self::KEYS, problems)?;
                let mut keys = Self::KEYS.iter();
                $(let $field = keys.next().and_then(|key| entries.take::<$type>(key, problems));)+
                Some(Self { $($field: $field?),+ })
            }
        }

        impl $crate::table::Value for $table {
            fn read(
                at: $crate::table::At<'_>,
                problems: &mut $crate::table::Problems<'_>,
            ) -> Option<Self> {
                Self::read_as(&at.label(), at, problems)
            }

            fn schema() -> serde_json::Value {
                $crate::table::table_schema(Self::KEYS, concat!($($about),+))
            }
        }
    };
    (@default) => { None };
    (@default $default:tt) => { Some(stringify!($default)) };
}
pub(crate) use table;

/// Name of a field's key: the field's own, without the mark that lets a Rust keyword be a name.
pub(crate) const fn key_name(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// The schema of a table with these keys.
pub(crate) fn table_schema(keys: &[Key], about: &str) -> Json {
    let properties = keys.iter().map(|key| {
        let mut schema = (key.schema)();
        schema["description"] = json!(key.doc.trim());
        if let Some(default) = key.default.and_then(|text| DeValue::parse(text).ok()) {
            schema["default"] = plain(default.get_ref());
        }
        (key.name.to_owned(), schema)
    });
    let required: Vec<_> =
        keys.iter().filter(|key| key.default.is_none() && !(key.optional)()).map(|key| key.name).collect();
    json!({
        "type": "object",
        "description": about.trim(),
        "additionalProperties": false,
        "properties": properties.collect::<Map<_, _>>(),
        "required": required,
    })
}

/// A default as JSON; defaults are words, numbers, switches, and lists and tables of them.
fn plain(value: &DeValue<'_>) -> Json {
    match value {
        DeValue::String(text) => json!(text),
        DeValue::Boolean(switch) => json!(switch),
        DeValue::Integer(number) => json!(number.as_str().parse::<i64>().ok()),
        DeValue::Float(number) => json!(number.as_str().parse::<f64>().ok()),
        DeValue::Array(list) => list.iter().map(|value| plain(value.get_ref())).collect(),
        DeValue::Table(table) => table
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), plain(value.get_ref())))
            .collect::<Map<_, _>>()
            .into(),
        DeValue::Datetime(_) => Json::Null,
    }
}

/// The TOML type of a value, with its article.
pub(crate) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The candidate that `word` is most likely a misspelling of, if any is near enough.
pub(crate) fn nearest(word: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let word = word.to_lowercase();
    candidates
        .map(|candidate| (edits(&word, &candidate.to_lowercase()), candidate))
        .filter(|(edits, candidate)| *edits <= candidate.len().div_ceil(3))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Characters to insert, remove, replace or swap with their neighbour to make `b` from `a` (optimal string
/// alignment distance); beyond 40 characters as if cut off there.
fn edits(a: &str, b: &str) -> usize {
    let [a, b] = [a, b].map(|text| text.chars().take(40).collect::<Vec<_>>());
    let mut cost = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            cost[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = cost[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let swapped = if i > 1 && j > 1 && a[i - 2..i] == [b[j - 1], b[j - 2]] {
                    cost[i - 2][j - 2] + 1
                } else {
                    replaced
                };
                replaced.min(swapped).min(cost[i - 1][j] + 1).min(cost[i][j - 1] + 1)
            };
        }
    }
    cost[a.len()][b.len()]
}

/// A key as it has to be written: bare where TOML allows it.
fn printable_key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { name.to_owned() } else { format!("{:?}", name.chars().take(40).collect::<String>()) }
}

/// A description up to its first full stop.
fn first_sentence(doc: &str) -> &str {
    doc.trim().split_once(". ").map_or(doc.trim(), |(first, _)| first).trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings() {
        for (a, b, expected) in [
            ("", "abc", 3),
            ("fps", "fsp", 1),
            ("fps", "fp", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
            ("ö", "o", 1),
        ] {
            assert_eq!((edits(a, b), edits(b, a)), (expected, expected), "{a} {b}");
        }
        assert_eq!(nearest("REAL", ["fast", "real"].into_iter()), Some("real"));
        assert_eq!(nearest("x", ["fast", "real"].into_iter()), None);
    }
}
