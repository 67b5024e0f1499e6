//! The shadow of a session file: beside it, a second copy of everything in it that is not rows.
//!
//! HDF5 changes what it knows of a table in place. A loss of power in the middle of that may leave half of a change, whose
//! checksum is wrong, and all rows of the table are out of reach. So after each flush the shadow is written, into two places in
//! turn, one of which is whole at any moment; put over a copy of the file it brings back that flush. Rows need none: a chunk
//! stays where it is, and the rows in it that were flushed are the same bytes in every later state of it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::SessionFileError;

/// Both places lie in one file, in stripes of so many bytes by turns, so that each may grow.
const STRIPE: usize = 64 << 10;

/// Bytes of a page of the session file.
pub(super) const PAGE: u64 = 4096;

const MAGIC: [u8; 8] = *b"yqshadow";

/// Magic, number, length of what follows, and the sum of all three.
const HEAD: usize = 32;

/// Where the shadow of a session file lies.
fn path_of(session: &Path) -> PathBuf {
    let mut name = session.as_os_str().to_owned();
    name.push(".shadow");
    PathBuf::from(name)
}

/// The shadow of a file that is being written.
pub(super) struct Shadow {
    file: fs::File,
    path: PathBuf,
    /// Counts what was written from 1.
    number: u64,
    /// Where rows are, or were.
    rows: Spans,
    /// What is in each place. Of a long session most stays the same: only pages that changed are written.
    images: [Vec<u8>; 2],
}

impl Shadow {
    /// An empty one. What is left of an earlier file of the same name goes.
    pub(super) fn create(session: &Path) -> Result<Self, SessionFileError> {
        let path = path_of(session);
        let opened = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
        let file = opened.map_err(|source| SessionFileError::Create { path: path.clone(), source })?;
        Ok(Self { file, path, number: 0, rows: Spans::default(), images: [Vec::new(), Vec::new()] })
    }

    /// Rows lie there. Where HDF5 keeps rows and everything else in pages of their own, nothing else ever lies in those pages.
    pub(super) fn note_rows(&mut self, at: u64, bytes: u64) {
        let end = at.saturating_add(bytes).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        self.rows.insert(at - at % PAGE, end);
    }

    /// Copies everything else of the session file, which is safe on its disk, and waits until the copy is, too.
    pub(super) fn write(&mut self, session: &fs::File) -> Result<(), SessionFileError> {
        self.number += 1;
        let place = (self.number % 2) as usize;
        let written = take_image(self.number, session, &self.rows).and_then(|image| {
            let before = std::mem::replace(&mut self.images[place], image);
            for (page, bytes) in self.images[place].chunks(PAGE as usize).enumerate() {
                let at = page * PAGE as usize;
                if before.get(at..at + bytes.len()) != Some(bytes) {
                    let stripe = 2 * (at / STRIPE) + place;
                    self.file.write_all_at(bytes, (stripe * STRIPE + at % STRIPE) as u64)?;
                }
            }
            self.file.sync_data()
        });
        written.map_err(|source| SessionFileError::Sync { path: self.path.clone(), source })
    }

    /// The session file is closed, and needs none any more.
    pub(super) fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a file that is not needed any more stays");
        }
    }
}

/// Head, the bytes of each span, each span's beginning and length, and their number: what a file grows by comes at the end.
fn take_image(number: u64, session: &fs::File, rows: &Spans) -> io::Result<Vec<u8>> {
    let spans = rows.between(session.metadata()?.len());
    let bytes: u64 = spans.iter().map(|(from, to)| to - from).sum();
    let mut image = Vec::with_capacity(HEAD + bytes as usize + 16 * spans.len() + 8);
    image.extend(MAGIC);
    image.extend(number.to_le_bytes());
    image.extend([0; 16]);
    for (from, to) in &spans {
        let start = image.len();
        image.resize(start + (to - from) as usize, 0);
        session.read_exact_at(&mut image[start..], *from)?;
    }
    for (from, to) in &spans {
        image.extend(from.to_le_bytes());
        image.extend((to - from).to_le_bytes());
    }
    image.extend((spans.len() as u64).to_le_bytes());
    let length = (image.len() - HEAD) as u64;
    image[16..24].copy_from_slice(&length.to_le_bytes());
    let sum = sum_of(&image);
    image[24..HEAD].copy_from_slice(&sum.to_le_bytes());
    Ok(image)
}

/// FNV-1a (Fowler, Noll and Vo) of everything but the sum itself, eight bytes at a time.
fn sum_of(image: &[u8]) -> u64 {
    let words = image[..24].chunks(8).chain(image[HEAD..].chunks(8));
    words.fold(0xcbf2_9ce4_8422_2325, |sum, part| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        let mixed = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        mixed ^ (mixed >> 32)
    })
}

/// What a session file was, but for its rows, at one of its last flushes.
pub(super) struct Image {
    number: u64,
    /// Where each part belongs.
    parts: Vec<(u64, Vec<u8>)>,
}

impl Image {
    /// The newest that is whole; none if there is no shadow, or nothing whole in it.
    pub(super) fn newest(session: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path_of(session)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let places = [0, 1].map(|place| {
            let stripes = bytes.chunks(STRIPE).skip(place).step_by(2);
            Self::read(&stripes.collect::<Vec<_>>().concat())
        });
        Ok(places.into_iter().flatten().max_by_key(|image| image.number))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?));
        let end = HEAD.checked_add(usize::try_from(word(16)?).ok()?)?;
        let image = bytes.get(..end)?;
        if image.get(..8)? != MAGIC || word(24)? != sum_of(image) {
            return None;
        }
        let count = usize::try_from(word(end.checked_sub(8)?)?).ok()?;
        let spans = (end - 8).checked_sub(count.checked_mul(16)?).filter(|&spans| spans >= HEAD)?;
        let (mut at, mut parts) = (HEAD, Vec::new());
        for span in 0..count {
            let of_span = spans + 16 * span;
            let length = usize::try_from(word(of_span + 8)?).ok()?;
            let part = image.get(at..at.checked_add(length)?)?;
            parts.push((word(of_span)?, part.to_vec()));
            at += length;
        }
        Some(Self { number: word(8)?, parts })
    }

    /// Makes a copy of the session file what it was then.
    pub(super) fn put_over(&self, copy: &Path) -> io::Result<()> {
        let copy = OpenOptions::new().write(true).open(copy)?;
        self.parts.iter().try_for_each(|(at, bytes)| copy.write_all_at(bytes, *at))
    }
}

/// Parts of a file, from beginning to end each; none touches another.
#[derive(Debug, Default)]
struct Spans(BTreeMap<u64, u64>);

impl Spans {
    fn insert(&mut self, mut from: u64, mut to: u64) {
        // Those that it touches become one with it.
        while let Some((&start, &end)) = self.0.range(..=to).next_back().filter(|(_, end)| **end >= from) {
            self.0.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.0.insert(from, to);
    }

    /// What is not in any, up to an end.
    fn between(&self, end: u64) -> Vec<(u64, u64)> {
        let starts = self.0.keys().copied().chain([end]).map(|start| start.min(end));
        let ends = [0].into_iter().chain(self.0.values().copied());
        ends.zip(starts).filter(|(from, to)| from < to).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_lies_between_spans_is_everything_else(
            inserted in prop::collection::vec((0..200_u64, 1..40_u64), 0..20),
            end in 0..300_u64,
        ) {
            let (mut spans, mut is_in) = (Spans::default(), [false; 300]);
            for (at, length) in inserted {
                spans.insert(at, at + length);
                is_in[at as usize..(at + length) as usize].fill(true);
            }
            let mut between = [false; 300];
            for (from, to) in spans.between(end) {
                between[from as usize..to as usize].fill(true);
            }
            for at in 0..300 {
                prop_assert_eq!(between[at], at < end as usize && !is_in[at], "{}", at);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), is_marked: bool) {
            let mut bytes = bytes;
            if is_marked && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&MAGIC);
            }
            prop_assert!(Image::read(&bytes).is_none());
        }

        /// Whatever happens to the place that is being written, the other one is whole.
        #[test]
        fn the_newest_whole_image_brings_back_its_moment(at in 0.0..1.0f64, bytes in 1..5000_usize, rows in 0..300_000_u64) {
            let folder = tempfile::tempdir().unwrap();
            let (session, copy) = (folder.path().join("x.h5"), folder.path().join("copy.h5"));
            let content: Vec<u8> = (0..400_000_u32).map(|k| (k * 7 % 251) as u8).collect();
            let moments = [1, 2, 3].map(|k| content.iter().map(|byte| byte ^ k).collect::<Vec<u8>>());
            let mut shadow = Shadow::create(&session).unwrap();
            shadow.note_rows(PAGE, rows);
            for moment in &moments {
                fs::write(&session, moment).unwrap();
                shadow.write(&fs::File::open(&session).unwrap()).unwrap();
            }
            let check = |expected: &[u8]| {
                fs::write(&copy, &content).unwrap();
                Image::newest(&session).unwrap().unwrap().put_over(&copy).unwrap();
                let found = fs::read(&copy).unwrap();
                let page = PAGE as usize;
            let is_row = |k: usize| (page..page + (rows as usize).next_multiple_of(page)).contains(&k);
                (0..content.len()).all(|k| found[k] == if is_row(k) { content[k] } else { expected[k] })
            };
            prop_assert!(check(&moments[2]));
            // A part of the third, which is in the odd place, is lost.
            let mut damaged = fs::read(&shadow.path).unwrap();
            let length = shadow.images[1].len();
            let start = (at * length as f64) as usize;
            for k in start..(start + bytes).min(length) {
                damaged[(2 * (k / STRIPE) + 1) * STRIPE + k % STRIPE] ^= 0x55;
            }
            fs::write(&shadow.path, damaged).unwrap();
            prop_assert!(check(&moments[1]));
            shadow.remove();
            prop_assert!(Image::newest(&session).unwrap().is_none());
        }
    }
}
