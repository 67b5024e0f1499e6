//! Matroska, as much of it as video of one track needs: written by hand, and read as it comes.
//!
//! Owns the bytes of the container (RFC 9559 over EBML, RFC 8794), for files, for frames on their way to FFmpeg, and for packets on
//! their way back. One cluster a frame, so that a file that is cut anywhere plays to its last whole frame. Knows no file, no
//! pipe and no clock.

use youquanti_models::{PictureLayout, PixelFormat};

const EBML: u32 = 0x1A45_DFA3;
const SEGMENT: u32 = 0x1853_8067;
const SEEK_HEAD: u32 = 0x114D_9B74;
const SEEK: u32 = 0x4DBB;
const SEEK_ID: u32 = 0x53AB;
const SEEK_POSITION: u32 = 0x53AC;
const VOID: u32 = 0xEC;
const INFO: u32 = 0x1549_A966;
const TIMESTAMP_SCALE: u32 = 0x002A_D7B1;
const DURATION: u32 = 0x4489;
const TITLE: u32 = 0x7BA9;
const MUXING_APP: u32 = 0x4D80;
const WRITING_APP: u32 = 0x5741;
const TRACKS: u32 = 0x1654_AE6B;
const TRACK_ENTRY: u32 = 0xAE;
const CLUSTER: u32 = 0x1F43_B675;
const TIMESTAMP: u32 = 0xE7;
const SIMPLE_BLOCK: u32 = 0xA3;
const BLOCK_GROUP: u32 = 0xA0;
const BLOCK: u32 = 0xA1;
const CUES: u32 = 0x1C53_BB6B;
const CUE_POINT: u32 = 0xBB;
const CUE_TIME: u32 = 0xB3;
const CUE_TRACK_POSITIONS: u32 = 0xB7;
const CUE_TRACK: u32 = 0xF7;
const CUE_CLUSTER_POSITION: u32 = 0xF1;

/// A size that nobody knows yet, in eight bytes: the element ends where its parent does.
const UNKNOWN_SIZE: [u8; 8] = [0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];

/// Bytes before a frame's own: a cluster's head, its time, a block's head.
pub(super) const FRAME_HEAD: usize = 4 + 8 + 1 + 1 + 8 + 1 + 8 + 4;

/// Room at a file's beginning for the place of its cues.
const SEEK_HEAD_ROOM: usize = 64;

/// Longest element that is kept whole while it is read: far more than a frame of any camera.
const LONGEST: u64 = 1 << 30;

fn put_id(out: &mut Vec<u8>, id: u32) {
    let bytes = id.to_be_bytes();
    out.extend_from_slice(&bytes[id.leading_zeros() as usize / 8..]);
}

/// A size in eight bytes, so that it can be known before and after.
fn put_size(out: &mut Vec<u8>, size: u64) {
    out.extend_from_slice(&(size | 1 << 56).to_be_bytes());
}

fn put(out: &mut Vec<u8>, id: u32, content: &[u8]) {
    put_id(out, id);
    put_size(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn put_number(out: &mut Vec<u8>, id: u32, value: u64) {
    put(out, id, &value.to_be_bytes());
}

/// An element made of others.
fn put_all(out: &mut Vec<u8>, id: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::new();
    fill(&mut content);
    put(out, id, &content);
}

/// The element of one video track, as it stands in a file or before frames on a pipe.
///
/// Uncompressed formats are named by their FourCC; an odd width of YUYV and NV12 is the even one that lines are padded to.
/// `period_ns` is the time from frame to frame as declared, nanoseconds.
pub(super) fn tracks(layout: &PictureLayout, period_ns: u64) -> Vec<u8> {
    let (codec, four_cc): (&str, &[u8]) = match layout.format {
        PixelFormat::Yuyv => ("V_UNCOMPRESSED", b"YUY2"),
        PixelFormat::Nv12 => ("V_UNCOMPRESSED", b"NV12"),
        PixelFormat::Rgb24 => ("V_UNCOMPRESSED", b"RGB\x18"),
        PixelFormat::Bgr24 => ("V_UNCOMPRESSED", b"BGR\x18"),
        PixelFormat::Grey => ("V_UNCOMPRESSED", b"Y800"),
        PixelFormat::Mjpg => ("V_MJPEG", b""),
    };
    let width = match layout.format {
        PixelFormat::Yuyv | PixelFormat::Nv12 => layout.width.next_multiple_of(2),
        _ => layout.width,
    };
    let mut out = Vec::new();
    put_all(&mut out, TRACKS, |tracks| {
        put_all(tracks, TRACK_ENTRY, |track| {
            put_number(track, 0xD7, 1); // TrackNumber
            put_number(track, 0x73C5, 1); // TrackUID
            put_number(track, 0x83, 1); // TrackType: video
            put_number(track, 0x9C, 0); // FlagLacing
            if period_ns > 0 {
                put_number(track, 0x0023_E383, period_ns); // DefaultDuration
            }
            put(track, 0x86, codec.as_bytes()); // CodecID
            put_all(track, 0xE0, |video| {
                put_number(video, 0xB0, width.into()); // PixelWidth
                put_number(video, 0xBA, layout.height.into()); // PixelHeight
                if !four_cc.is_empty() {
                    put(video, 0x002E_B524, four_cc); // UncompressedFourCC
                }
            });
        });
    });
    out
}

/// What stands before the first frame of a file.
pub(super) struct Head {
    /// All of it.
    pub(super) bytes: Vec<u8>,
    /// Where the segment's content begins; places in cues count from there.
    segment: u64,
    /// Where there is room for the place of the cues.
    seek_head: u64,
    /// Where the duration's eight bytes are.
    duration: u64,
}

/// The beginning of a file or stream whose times count `scale_ns` nanoseconds; `tracks` as [`tracks`] or a [`Parser`] gives it.
pub(super) fn head(tracks: &[u8], scale_ns: u64, title: &str) -> Head {
    let mut bytes = Vec::new();
    put_all(&mut bytes, EBML, |ebml| {
        put_number(ebml, 0x4286, 1); // EBMLVersion
        put_number(ebml, 0x42F7, 1); // EBMLReadVersion
        put_number(ebml, 0x42F2, 4); // EBMLMaxIDLength
        put_number(ebml, 0x42F3, 8); // EBMLMaxSizeLength
        put(ebml, 0x4282, b"matroska"); // DocType
        put_number(ebml, 0x4287, 4); // DocTypeVersion
        put_number(ebml, 0x4285, 2); // DocTypeReadVersion
    });
    put_id(&mut bytes, SEGMENT);
    bytes.extend_from_slice(&UNKNOWN_SIZE);
    let segment = bytes.len() as u64;
    put(&mut bytes, VOID, &[0; SEEK_HEAD_ROOM]);
    let mut duration = 0;
    let mut info = Vec::new();
    put_number(&mut info, TIMESTAMP_SCALE, scale_ns);
    put(&mut info, DURATION, &0f64.to_be_bytes());
    duration += info.len() - size_of::<f64>();
    put(&mut info, MUXING_APP, b"youquanti");
    put(&mut info, WRITING_APP, b"youquanti");
    if !title.is_empty() {
        put(&mut info, TITLE, title.as_bytes());
    }
    put(&mut bytes, INFO, &info);
    let duration = (bytes.len() - info.len() + duration) as u64;
    bytes.extend_from_slice(tracks);
    Head { bytes, segment, seek_head: segment, duration }
}

/// What stands before the `bytes` of a frame at `time`: a cluster of its own.
pub(super) fn frame_head(time: u64, bytes: usize, is_key: bool) -> [u8; FRAME_HEAD] {
    const IN_CLUSTER: usize = FRAME_HEAD - 12;
    const IN_BLOCK: usize = 4;
    let mut out = Vec::with_capacity(FRAME_HEAD);
    put_id(&mut out, CLUSTER);
    put_size(&mut out, (IN_CLUSTER + bytes) as u64);
    put_number_of_9(&mut out, time);
    put_id(&mut out, SIMPLE_BLOCK);
    put_size(&mut out, (IN_BLOCK + bytes) as u64);
    // Track 1, at the cluster's time.
    out.extend_from_slice(&[0x81, 0, 0, if is_key { 0x80 } else { 0 }]);
    let mut head = [0; FRAME_HEAD];
    head.copy_from_slice(&out);
    head
}

/// The cluster's time with a size of one byte.
fn put_number_of_9(out: &mut Vec<u8>, time: u64) {
    put_id(out, TIMESTAMP);
    out.push(0x88);
    out.extend_from_slice(&time.to_be_bytes());
}

/// Where a player may begin: the time of a key frame, and the place of its cluster in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cue {
    pub(super) time: u64,
    pub(super) at: u64,
}

/// What a file that is complete gets: bytes at its end, and patches of what was not known at its beginning.
pub(super) struct Tail {
    pub(super) bytes: Vec<u8>,
    /// Places and what to write there.
    pub(super) patches: [(u64, Vec<u8>); 2],
}

/// The end of a file that is `length` bytes long so far and lasts `duration` units of its scale.
pub(super) fn tail(head: &Head, cues: &[Cue], length: u64, duration: u64) -> Tail {
    let mut bytes = Vec::new();
    put_all(&mut bytes, CUES, |all| {
        for cue in cues {
            put_all(all, CUE_POINT, |point| {
                put_number(point, CUE_TIME, cue.time);
                put_all(point, CUE_TRACK_POSITIONS, |positions| {
                    put_number(positions, CUE_TRACK, 1);
                    put_number(positions, CUE_CLUSTER_POSITION, cue.at - head.segment);
                });
            });
        }
    });
    let mut seek_head = Vec::new();
    put_all(&mut seek_head, SEEK_HEAD, |all| {
        put_all(all, SEEK, |seek| {
            put(seek, SEEK_ID, &CUES.to_be_bytes());
            put_number(seek, SEEK_POSITION, length - head.segment);
        });
    });
    let room = 1 + 8 + SEEK_HEAD_ROOM;
    let rest = room - seek_head.len() - (1 + 8);
    put(&mut seek_head, VOID, &vec![0; rest]);
    let patches = [(head.seek_head, seek_head), (head.duration, (duration as f64).to_be_bytes().to_vec())];
    Tail { bytes, patches }
}

/// What a stream is made of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// Nanoseconds that the times of frames count.
    Scale(u64),
    /// The element of its tracks, whole, as [`head`] takes it.
    Tracks(&'a [u8]),
    /// A frame.
    Frame {
        /// In units of the scale.
        time: i64,
        is_key: bool,
        data: &'a [u8],
    },
}

/// What is no Matroska.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatroskaError {
    /// Bytes that begin no element, or an element that is too long to be true.
    #[error("no Matroska at byte {at}")]
    Malformed {
        /// Where.
        at: u64,
    },
}

/// Reads a stream as its bytes come.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// Bytes that wait for the rest of their element, from `begin` on.
    waiting: Vec<u8>,
    begin: usize,
    /// Bytes of an element without interest that are still to come.
    skip: u64,
    /// Bytes taken so far.
    taken: u64,
    cluster_time: u64,
}

impl Parser {
    /// Takes bytes as they come; [`next`](Self::next) then gives what became whole.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        self.taken += skipped;
        self.waiting.drain(..self.begin);
        self.begin = 0;
        self.waiting.extend_from_slice(&bytes[skipped as usize..]);
    }

    /// The next part, if it is whole.
    ///
    /// # Errors
    /// [`MatroskaError`]: nothing that follows can be understood.
    pub(crate) fn next(&mut self) -> Result<Option<Part<'_>>, MatroskaError> {
        let malformed = MatroskaError::Malformed { at: self.taken };
        loop {
            let rest = &self.waiting[self.begin..];
            let Some((id, id_bytes)) = number(rest, 4, false).map_err(|()| malformed)? else {
                return Ok(None);
            };
            let Some((size, size_bytes)) = number(&rest[id_bytes..], 8, true).map_err(|()| malformed)? else {
                return Ok(None);
            };
            let head = id_bytes + size_bytes;
            let is_unknown = size == (1 << (7 * size_bytes)) - 1;
            let id = id as u32;
            if matches!(id, SEGMENT | CLUSTER | BLOCK_GROUP | INFO) {
                self.advance(head);
                continue;
            }
            if is_unknown || size > LONGEST {
                return Err(malformed);
            }
            if !matches!(id, TRACKS | TIMESTAMP | TIMESTAMP_SCALE | SIMPLE_BLOCK | BLOCK) {
                let (there, whole) = (rest.len() as u64, head as u64 + size);
                self.skip = whole.saturating_sub(there);
                self.advance(whole.min(there) as usize);
                if self.skip > 0 {
                    return Ok(None);
                }
                continue;
            }
            let whole = head + size as usize;
            if rest.len() < whole {
                return Ok(None);
            }
            let (from, to) = (self.begin, self.begin + whole);
            self.advance(whole);
            if id == TIMESTAMP {
                self.cluster_time = unsigned(&self.waiting[from + head..to]);
                continue;
            }
            let content = &self.waiting[from + head..to];
            return match id {
                TRACKS => Ok(Some(Part::Tracks(&self.waiting[from..to]))),
                TIMESTAMP_SCALE => Ok(Some(Part::Scale(unsigned(content)))),
                _ => block(content, self.cluster_time, id == SIMPLE_BLOCK).map(Some).ok_or(malformed),
            };
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.begin += bytes;
        self.taken += bytes as u64;
    }
}

/// A frame from the content of a block, which says where in its cluster it is.
fn block(content: &[u8], cluster_time: u64, is_simple: bool) -> Option<Part<'_>> {
    let (_, track_bytes) = number(content, 8, true).ok()??;
    let (&[high, low, flags], data) = content.get(track_bytes..)?.split_first_chunk()?;
    let time = (cluster_time as i64).saturating_add(i16::from_be_bytes([high, low]).into());
    // In a block of a group the flag is not used; encoders here write none of key frames.
    Some(Part::Frame { time, is_key: is_simple && flags & 0x80 != 0, data })
}

/// A number of variable length at the beginning of `bytes`, with its marker bit or without, and its length; `None` if there
/// are too few bytes.
fn number(bytes: &[u8], longest: usize, without_marker: bool) -> Result<Option<(u64, usize)>, ()> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let length = first.leading_zeros() as usize + 1;
    if length > longest {
        return Err(());
    }
    let Some(all) = bytes.get(..length) else { return Ok(None) };
    let mut value = all.iter().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    if without_marker {
        value &= !(1 << (7 * length));
    }
    Ok(Some((value, length)))
}

fn unsigned(content: &[u8]) -> u64 {
    content.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Owned {
        Scale(u64),
        Tracks(Vec<u8>),
        Frame(i64, bool, Vec<u8>),
    }

    /// All parts of a stream that comes in pieces of these lengths, again and again.
    fn parse(stream: &[u8], pieces: &[usize]) -> Result<Vec<Owned>, MatroskaError> {
        let (mut parser, mut parts, mut rest) = (Parser::default(), Vec::new(), stream);
        for &piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at(piece.clamp(1, rest.len().max(1)).min(rest.len()));
            parser.feed(now);
            while let Some(part) = parser.next()? {
                parts.push(match part {
                    Part::Scale(scale) => Owned::Scale(scale),
                    Part::Tracks(bytes) => Owned::Tracks(bytes.to_vec()),
                    Part::Frame { time, is_key, data } => Owned::Frame(time, is_key, data.to_vec()),
                });
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        Ok(parts)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            frames in prop::collection::vec((0u64..1 << 40, any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            pieces in prop::collection::vec(1usize..500, 1..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let layout = PictureLayout::packed(64, 48, PixelFormat::Yuyv);
            let tracks = tracks(&layout, 33_333_333);
            let mut stream = head(&tracks, 1000, "title").bytes;
            let before = stream.len();
            let mut expected = vec![Owned::Scale(1000), Owned::Tracks(tracks)];
            let mut ends = Vec::new();
            for (time, is_key, data) in &frames {
                stream.extend(frame_head(*time, data.len(), *is_key));
                stream.extend(data);
                ends.push(stream.len());
                expected.push(Owned::Frame(*time as i64, *is_key, data.clone()));
            }
            prop_assert_eq!(&parse(&stream, &pieces).unwrap(), &expected);
            // A file that was cut anywhere gives all frames that are whole.
            let cut = before + cut.index(stream.len() - before + 1);
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            prop_assert_eq!(parse(&stream[..cut], &pieces).unwrap(), &expected[..2 + whole]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            pieces in prop::collection::vec(1usize..100, 1..4),
        ) {
            let layout = PictureLayout::packed(64, 48, PixelFormat::Mjpg);
            let mut stream = head(&tracks(&layout, 0), 1000, "").bytes;
            stream.extend(&bytes);
            parse(&bytes, &pieces).ok();
            parse(&stream, &pieces).ok();
        }
    }

    #[test]
    fn the_tail_fits_into_the_room_that_was_left_for_it() {
        let layout = PictureLayout::packed(64, 48, PixelFormat::Mjpg);
        let head = head(&tracks(&layout, 0), 1000, "");
        let before = head.bytes.clone();
        let cues = [Cue { time: 0, at: before.len() as u64 }];
        let tail = tail(&head, &cues, before.len() as u64 + 1000, 5);
        let mut patched = before.clone();
        for (at, bytes) in &tail.patches {
            patched[*at as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!(tail.patches[0].1.len(), 1 + 8 + SEEK_HEAD_ROOM);
        // All else is as before.
        assert_eq!(parse(&patched, &[7]).unwrap(), parse(&before, &[7]).unwrap());
        assert_eq!(parse(&tail.bytes, &[7]).unwrap(), []);
    }
}
