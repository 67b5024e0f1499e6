//! What lines mean, and how a recording is named by them.
//!
//! Pure but for a look at which files exist. Whatever is said, a name stays below the folder of recordings. Orders, placeholders and the
//! template by default are LabRecorder's (its README, "Remote Control", and its settings `PathTemplate` and BIDS).

use std::path::{Component, Path, PathBuf};

/// Longest line, bytes.
const LONGEST_LINE: usize = 4096;

/// Longest value of one part of a name, characters.
const LONGEST_PART: usize = 64;

/// What a file is called when parts of its name are given and no template.
const TEMPLATE: &str = "sub-%p/ses-%s/%m/sub-%p_ses-%s_task-%b_acq-%a_run-%r_%m";

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Record all streams, which is so in any case.
    SelectAll,
    /// Select no stream: is taken, and changes nothing.
    SelectNone,
    /// Look for streams again: is taken, and changes nothing.
    Update,
    /// Begin to record.
    Start,
    /// End the recording.
    Stop,
    /// How the next file is named: keys and values.
    Filename(Vec<(Part, String)>),
}

/// A part of a file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Root,
    Template,
    Participant,
    Session,
    Task,
    Run,
    Acquisition,
    Modality,
}

impl Part {
    const ALL: [(&'static str, Part); 8] = [
        ("root", Part::Root),
        ("template", Part::Template),
        ("participant", Part::Participant),
        ("session", Part::Session),
        ("task", Part::Task),
        ("run", Part::Run),
        ("acquisition", Part::Acquisition),
        ("modality", Part::Modality),
    ];

    fn of(name: &str) -> Option<Part> {
        Self::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, part)| part)
    }
}

/// Why a line is no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// What is wrong, and what may be said.
    pub(crate) words: String,
    /// Whether a browser speaks: some web page tries to steer us.
    pub(crate) is_web: bool,
}

impl From<String> for Mistake {
    fn from(words: String) -> Self {
        Self { words, is_web: false }
    }
}

/// Bytes as they come, taken apart into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    /// Takes bytes that have come; beyond a line's greatest length only as many are kept as show that it is too long.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether the beginning of a line is there without its end.
    pub(crate) fn is_within_one(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next whole line without its end, if there is one; a line that is too long, or no text, is a mistake.
    pub(crate) fn next(&mut self) -> Option<Result<String, Mistake>> {
        let Some(end) = self.bytes.iter().position(|&byte| byte == b'\n') else {
            if self.bytes.len() <= LONGEST_LINE {
                return None;
            }
            self.bytes.clear();
            return Some(Err(format!("a line has at most {LONGEST_LINE} bytes").into()));
        };
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        if line.len() > LONGEST_LINE {
            return Some(Err(format!("a line has at most {LONGEST_LINE} bytes").into()));
        }
        let text = String::from_utf8(line).map_err(|_| Mistake::from("a line is text in UTF-8".to_owned()));
        Some(text.map(|text| text.trim().to_owned()))
    }
}

/// What a line says.
pub(crate) fn read(line: &str) -> Result<Order, Mistake> {
    let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let rest = rest.trim();
    match (word.to_ascii_lowercase().as_str(), rest.to_ascii_lowercase().as_str()) {
        ("select", "all") => Ok(Order::SelectAll),
        ("select", "none") => Ok(Order::SelectNone),
        ("select", _) => {
            Err("streams cannot be chosen here: `select all` or `select none`".to_owned().into())
        }
        ("update", "") => Ok(Order::Update),
        ("start", "") => Ok(Order::Start),
        ("stop", "") => Ok(Order::Stop),
        ("filename", _) => parts(rest).map(Order::Filename).map_err(Mistake::from),
        _ => Err(Mistake {
            words: "unknown: select all, select none, update, start, stop, filename {root:…} {template:…} \
                    {participant:…} {session:…} {task:…} {run:…} {acquisition:…} {modality:…}"
                .to_owned(),
            is_web: line.contains("HTTP/"),
        }),
    }
}

/// Takes `{key:value} {key:value}` apart. Values have no braces.
fn parts(text: &str) -> Result<Vec<(Part, String)>, String> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let Some((inside, after)) = inside else {
            return Err("filename: write {key:value} for each part".to_owned());
        };
        let Some((key, value)) = inside.split_once(':').filter(|(_, value)| !value.contains('{')) else {
            return Err(format!("filename: {{{inside}}} is not {{key:value}}"));
        };
        let Some(part) = Part::of(key.trim()) else {
            let known: Vec<_> = Part::ALL.iter().map(|(name, _)| *name).collect();
            return Err(format!("filename: there is no {:?}; there are {}", key.trim(), known.join(", ")));
        };
        parts.push((part, value.trim().to_owned()));
        rest = after.trim_start();
    }
    Ok(parts)
}

/// How the next file is named. With nothing said, after session and time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Naming {
    /// Below the folder of recordings.
    root: PathBuf,
    parts: std::collections::BTreeMap<Part, String>,
}

impl Naming {
    /// Takes what a client says; all of it, or nothing where something is wrong.
    pub(crate) fn take(&mut self, parts: Vec<(Part, String)>, recordings: &Path) -> Result<(), String> {
        let mut taken = self.clone();
        for (part, value) in parts {
            match part {
                Part::Root => taken.root = below(recordings, &value)?,
                Part::Template if value.is_empty() => drop(taken.parts.remove(&part)),
                Part::Template => {
                    if template(&value).is_empty() {
                        return Err(format!("template: {value:?} names no file"));
                    }
                    taken.parts.insert(part, value);
                }
                _ if value.is_empty() => drop(taken.parts.remove(&part)),
                _ => drop(taken.parts.insert(part, plain(&value))),
            }
        }
        *self = taken;
        Ok(())
    }

    /// The file's name without its ending, below the folder of recordings; nothing where nothing was said.
    pub(crate) fn name(&self, recordings: &Path) -> Option<String> {
        if self.parts.is_empty() && self.root.as_os_str().is_empty() {
            return None;
        }
        let named = |part, usual: &str| self.parts.get(&part).map_or(usual, String::as_str).to_owned();
        let run = named(Part::Run, "1");
        let run = run.parse().map_or(run, |number: u32| format!("{number:03}"));
        let acquisition = self.parts.get(&Part::Acquisition);
        let given = self.parts.get(&Part::Template);
        let usual = match acquisition {
            Some(_) => TEMPLATE.to_owned(),
            None => TEMPLATE.replace("_acq-%a", ""),
        };
        let filled = given
            .unwrap_or(&usual)
            .replace("%p", &named(Part::Participant, "P001"))
            .replace("%s", &named(Part::Session, "S001"))
            .replace("%b", &named(Part::Task, "Default"))
            .replace("%a", acquisition.map_or("", String::as_str))
            .replace("%m", &named(Part::Modality, "beh"))
            .replace("%r", &run);
        let place = |filled: &str| self.root.join(template(filled)).to_string_lossy().into_owned();
        if !filled.contains("%n") {
            return Some(place(&filled));
        }
        // The first number that no file has.
        let numbered = (1..10_000).map(|number| place(&filled.replace("%n", &number.to_string())));
        let mut numbered = numbered.skip_while(|name| recordings.join(format!("{name}.h5")).exists());
        numbered.next()
    }
}

/// A folder below that of the recordings, as a relative path.
fn below(recordings: &Path, root: &str) -> Result<PathBuf, String> {
    let outside = || format!("root: {root:?} is not in {}, where recordings go", recordings.display());
    let given = Path::new(root);
    let relative = if given.is_absolute() {
        let absolute = std::path::absolute(recordings).map_err(|_| outside())?;
        given.strip_prefix(&absolute).map_err(|_| outside())?.to_owned()
    } else {
        given.to_owned()
    };
    let mut clean = PathBuf::new();
    for part in relative.components() {
        match part {
            Component::Normal(name) => clean.push(plain(&name.to_string_lossy())),
            Component::CurDir => {}
            _ => return Err(outside()),
        }
    }
    Ok(clean)
}

/// A template as a path: folders and a name without odd characters, none of them hidden, and without the ending.
fn template(text: &str) -> String {
    let text = [".xdf", ".h5", ".hdf5"].iter().find_map(|ending| text.strip_suffix(ending)).unwrap_or(text);
    let parts = text.split(['/', '\\']).map(|part| {
        let clean: String =
            part.chars().map(|c| if is_plain(c) || matches!(c, '.' | '%') { c } else { '_' }).collect();
        clean.trim_matches('.').chars().take(2 * LONGEST_PART).collect::<String>()
    });
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// A value that can stand in a name: letters, digits, - and _.
fn plain(value: &str) -> String {
    value.chars().take(LONGEST_PART).map(|c| if is_plain(c) { c } else { '_' }).collect()
}

fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(lines: &[&str], recordings: &Path) -> Result<Option<String>, String> {
        let mut naming = Naming::default();
        for line in lines {
            let Order::Filename(parts) =
                read(&format!("filename {line}")).map_err(|mistake| mistake.words)?
            else {
                panic!()
            };
            naming.take(parts, recordings)?;
        }
        Ok(naming.name(recordings))
    }

    #[test]
    fn orders_are_those_of_labrecorder() {
        for (line, order) in [
            ("select all", Order::SelectAll),
            ("select none", Order::SelectNone),
            ("update", Order::Update),
            ("start", Order::Start),
            ("Stop", Order::Stop),
            ("filename", Order::Filename(vec![])),
        ] {
            assert_eq!(read(line), Ok(order), "{line}");
        }
        for wrong in [
            "",
            "startle",
            "start now",
            "select",
            "select EEG",
            "filename x",
            "filename {a}",
            "filename {run:1",
        ] {
            assert!(!read(wrong).unwrap_err().is_web, "{wrong}");
        }
        assert!(read("POST / HTTP/1.1").unwrap_err().is_web);
    }

    #[test]
    fn files_are_named_as_labrecorder_names_them() {
        let root = tempfile::tempdir().unwrap();
        let check = |lines: &[&str], expected: Option<&str>| {
            assert_eq!(named(lines, root.path()), Ok(expected.map(str::to_owned)), "{lines:?}");
        };
        check(&[""], None);
        check(
            &["{participant:P003} {task:Rest} {run:2}"],
            Some("sub-P003/ses-S001/beh/sub-P003_ses-S001_task-Rest_run-002_beh"),
        );
        check(
            &["{participant:P003}", "{acquisition:left}{session:S9}{modality:eeg}"],
            Some("sub-P003/ses-S9/eeg/sub-P003_ses-S9_task-Default_acq-left_run-001_eeg"),
        );
        check(&["{root:study 1} {template:exp%n/block_%b.xdf} {task:a b}"], Some("study_1/exp1/block_a_b"));
        let inside = format!("{{root:{}/inside}}{{template:x}}", root.path().display());
        check(&[&inside], Some("inside/x"));
        std::fs::create_dir_all(root.path().join("exp1")).unwrap();
        std::fs::write(root.path().join("exp1/block_Default.h5"), "").unwrap();
        check(&["{template:exp%n/block_%b.xdf}"], Some("exp2/block_Default"));
        for outside in ["{root:/etc}", "{root:../x}", "{root:a/../../b}", "{template:..}", "{template:/}"] {
            assert!(named(&[outside], root.path()).is_err(), "{outside}");
        }
    }

    #[test]
    fn lines_are_whole_whatever_pieces_they_come_in() {
        let mut lines = Lines::default();
        for byte in b"sta" {
            lines.push(&[*byte]);
            assert_eq!((lines.next(), lines.is_within_one()), (None, true));
        }
        lines.push(b"rt\r\nstop\n\xff\n");
        assert_eq!(lines.next(), Some(Ok("start".to_owned())));
        assert_eq!(lines.next(), Some(Ok("stop".to_owned())));
        assert!(matches!(lines.next(), Some(Err(_))));
        assert_eq!((lines.next(), lines.is_within_one()), (None, false));
        lines.push(&[b'x'; LONGEST_LINE + 1]);
        assert!(matches!(lines.next(), Some(Err(_))));
        assert!(!lines.is_within_one(), "what is too long is not kept");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_are_lines_orders_or_mistakes(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 0..8)) {
            let mut lines = Lines::default();
            for piece in &pieces {
                lines.push(piece);
                while let Some(line) = lines.next() {
                    if let Ok(line) = line {
                        read(&line).ok();
                    }
                }
                prop_assert!(lines.bytes.len() <= LONGEST_LINE);
            }
        }

        #[test]
        fn no_name_leads_out_of_the_folder(
            root in "[a-z./\\\\~ %:]{0,12}",
            template in "\\PC{0,40}|[a-z./\\\\%pbn]{0,30}",
            value in "\\PC{0,80}|[./\\\\]{1,8}",
        ) {
            let recordings = Path::new("/nonexistent/recordings");
            let mut naming = Naming::default();
            let parts = vec![
                (Part::Root, root), (Part::Template, template), (Part::Participant, value.clone()), (Part::Task, value),
            ];
            if naming.take(parts, recordings).is_ok() && let Some(name) = naming.name(recordings) {
                prop_assert!(!name.is_empty());
                for part in Path::new(&name).components() {
                    let Component::Normal(part) = part else { panic!("{name:?}") };
                    let part = part.to_str().unwrap();
                    prop_assert!(!part.starts_with('.') && !part.contains('\\') && !part.chars().any(char::is_control));
                }
            }
        }
    }
}
