//! What is wrong with a configuration, where, and what to do about it.
//!
//! Owns [`Problem`] with its two renderings, text with the line underlined and JSON, and the
//! positions that both need. Decides nothing about what is a problem.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// A place in the file, as editors count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
}

/// One mistake, complete enough to be corrected without looking anything up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file's name as it was given.
    pub file: String,
    /// Where in the file; `None` when the file as a whole is meant.
    pub position: Option<Position>,
    /// Which table, e.g. `camera "left", scene`; empty outside of tables.
    pub table: String,
    /// Which key of the table; `None` when the table as a whole is meant.
    pub key: Option<String>,
    /// What stands there, as it was written; `None` when nothing does.
    pub value: Option<String>,
    /// What is wrong, one clause that begins with key and value.
    pub message: String,
    /// What the value may be, where that can be said in general.
    pub allowed: Option<String>,
    /// What to do about it, one clause.
    pub remedy: String,
    #[serde(skip)]
    snippet: Option<Snippet>,
}

/// The line of the file that a problem is about, ready to be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snippet {
    line: String,
    /// Characters of `line` before the mark.
    indent: usize,
    /// Characters under which the mark goes, at least 1.
    width: usize,
}

/// Everything that is wrong with a configuration, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl ConfigErrors {
    /// What was `made` of a configuration, if there was nothing wrong.
    ///
    /// # Errors
    /// All problems, in the order of the file. There must be some where nothing was made.
    pub fn check<T>(made: Option<T>, mut problems: Vec<Problem>) -> Result<T, Self> {
        match made {
            Some(made) if problems.is_empty() => Ok(made),
            _ => {
                problems.sort_by_key(|problem| problem.position);
                Err(Self { problems })
            }
        }
    }

    /// The problems, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// `{"problems": [{"file", "position": {"line", "column"}, "table", "key", "value", "message",
    /// "allowed", "remedy"}]}`, where all but `file`, `table`, `message` and `remedy` may be null.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "problems": self.problems })
    }
}

impl From<Problem> for ConfigErrors {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = if self.table.is_empty() { String::new() } else { format!("{}: ", self.table) };
        writeln!(f, "error: {table}{}", self.message)?;
        let number = self.position.map_or(String::new(), |at| at.line.to_string());
        let margin = " ".repeat(number.len());
        match self.position {
            Some(Position { line, column }) => writeln!(f, "{margin}--> {}:{line}:{column}", self.file)?,
            None => writeln!(f, "--> {}", self.file)?,
        }
        if let Some(Snippet { line, indent, width }) = &self.snippet {
            let (blank, mark) = (" ".repeat(*indent), "^".repeat(*width));
            writeln!(f, "{margin} |\n{number} | {line}\n{margin} | {blank}{mark}")?;
        }
        write!(f, "{margin} = remedy: {}", self.remedy)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            write!(f, "{problem}\n\n")?;
        }
        match self.problems.len() {
            1 => write!(f, "1 problem in the configuration"),
            count => write!(f, "{count} problems in the configuration"),
        }
    }
}

/// A configuration's text and the name it goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) file: String,
    pub(crate) text: String,
}

/// Longest value that a message repeats, in characters.
const LONGEST_VALUE: usize = 60;

impl Source {
    /// Position of a byte of the text. An offset inside a character means that character.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }

    /// What stands in a range of the text: its first line, shortened, without control characters.
    pub(crate) fn written(&self, span: &Range<usize>) -> String {
        let from = self.text.floor_char_boundary(span.start);
        let whole = &self.text[from..self.text.floor_char_boundary(span.end).max(from)];
        let first = printable(whole.lines().next().unwrap_or_default());
        if first.chars().count() > LONGEST_VALUE || whole.lines().nth(1).is_some() {
            first.chars().take(LONGEST_VALUE).chain("…".chars()).collect()
        } else {
            first
        }
    }

    /// A problem at a range of the text, or with the file as a whole.
    pub(crate) fn problem(&self, span: Option<&Range<usize>>, what: What) -> Problem {
        let position = span.map(|span| self.position(span.start));
        let snippet = span.zip(position).and_then(|(span, at)| {
            let line = printable(self.text.lines().nth(at.line - 1)?);
            let indent = at.column - 1;
            let room = line.chars().count().saturating_sub(indent).max(1);
            let width = self.text.get(span.clone()).map_or(1, |text| text.chars().count());
            Some(Snippet { line, indent, width: width.clamp(1, room) })
        });
        Problem {
            file: self.file.clone(),
            position,
            table: what.table,
            key: what.key,
            value: what.value,
            message: what.message,
            allowed: what.allowed,
            remedy: what.remedy,
            snippet,
        }
    }
}

/// A [`Problem`] without its place.
#[derive(Default)]
pub(crate) struct What {
    pub(crate) table: String,
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) message: String,
    pub(crate) allowed: Option<String>,
    pub(crate) remedy: String,
}

/// The text with every control character as one visible character, so that it neither moves the
/// mark below it nor talks to the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}
