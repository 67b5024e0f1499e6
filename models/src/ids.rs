//! Identities of cameras, tracks and participants.
//!
//! Numbers are what travels with every frame; names are what people and files see.

use std::fmt;
use std::str::FromStr;

/// Index of a camera in the session's configuration, from 0. Stable for the whole session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CameraId(pub u16);

/// One face followed from frame to frame in one camera. Never used again within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackId(pub u32);

/// A person of the session, seen by any camera. `P1` is number 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParticipantId(pub u16);

impl fmt::Display for CameraId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}", self.0)
    }
}

impl fmt::Display for ParticipantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.0)
    }
}

/// Why a text is not a participant's id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no participant: write P1, P2, …")]
pub struct ParticipantIdError(pub String);

impl FromStr for ParticipantId {
    type Err = ParticipantIdError;

    fn from_str(text: &str) -> Result<Self, ParticipantIdError> {
        let number = text.strip_prefix('P').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let id = number.and_then(|digits| digits.parse().ok()).filter(|&number| number > 0);
        id.map(Self).ok_or_else(|| ParticipantIdError(text.to_owned()))
    }
}

/// A camera's name: 1 to 32 of `a-z A-Z 0-9 _ -`, beginning with a letter, so that it can stand
/// in a file name, a path inside the session file and a stream name without escaping.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CameraName(String);

/// Why a text is not a camera's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a name: use 1 to 32 of a-z, A-Z, 0-9, _ and -, beginning with a letter")]
pub struct NameError(pub String);

impl CameraName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CameraName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let good = (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if good { Ok(Self(text.to_owned())) } else { Err(NameError(text.to_owned())) }
    }
}

impl fmt::Display for CameraName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn participants_are_read_as_they_are_written() {
        assert_eq!("P12".parse(), Ok(ParticipantId(12)));
        for bad in ["", "P", "P0", "p1", "P-1", "P+1", "P65536", "1"] {
            assert_eq!(bad.parse::<ParticipantId>(), Err(ParticipantIdError(bad.to_owned())));
        }
    }

    #[test]
    fn names_that_files_and_streams_can_carry() {
        for good in ["left", "Cam-1_b", "a"] {
            assert_eq!(good.parse::<CameraName>().unwrap().as_str(), good);
        }
        for bad in ["", "1st", "a b", "ä", "../x", &"x".repeat(33)] {
            assert_eq!(bad.parse::<CameraName>(), Err(NameError(bad.to_owned())));
        }
    }
}
