//! The token that clients show.
//!
//! Owns how it is read, made and compared. Never shows it, except to the person who starts the program.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

const LENGTHS: std::ops::RangeInclusive<usize> = 16..=256;

/// A secret of 16 to 256 visible ASCII characters.
#[derive(Clone)]
pub struct Token {
    text: String,
    digest: [u8; 32],
}

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its file cannot be read.
    #[error("token file {path} cannot be read")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others could read it.
    #[error("token file {0} can be read by others: chmod 600 it")]
    Open(PathBuf),
    /// It is no token.
    #[error("a token has 16 to 256 visible ASCII characters")]
    Unfit,
    /// The system gives no random bytes.
    #[error("no random bytes for a token")]
    Random(#[source] rustix::io::Errno),
}

impl Token {
    /// A token that somebody chose.
    ///
    /// # Errors
    /// When it is too short, too long, or has other characters than visible ones of ASCII.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let good = LENGTHS.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !good {
            return Err(TokenError::Unfit);
        }
        Ok(Self { text: text.to_owned(), digest: digest(text) })
    }

    /// The token in a file that its owner alone can read.
    ///
    /// # Errors
    /// When it cannot be read, others can read it, or it holds no token.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Read { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(TokenError::Open(path.to_owned()));
        }
        Self::new(std::fs::read_to_string(path).map_err(unreadable)?.trim())
    }

    /// A new one, of 192 random bits.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> Result<Self, TokenError> {
        let mut bytes = [0; 24];
        let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
        match filled {
            Ok(count) if count == bytes.len() => {}
            Ok(_) => return Err(TokenError::Random(rustix::io::Errno::AGAIN)),
            Err(error) => return Err(TokenError::Random(error)),
        }
        Self::new(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Whether this is what a client shows. Takes the same time wherever the first difference is: digests are compared, whole.
    pub(crate) fn is(&self, shown: &str) -> bool {
        let difference = self.digest.iter().zip(digest(shown)).fold(0, |found, (a, b)| found | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_token_is_long_visible_and_never_printed() {
        for unfit in ["", "short", "fifteen letters", "sixteen letters é", &"x".repeat(257)] {
            assert!(Token::new(unfit).is_err(), "{unfit}");
        }
        let token = Token::new("0123456789abcdef").unwrap();
        assert!(token.is("0123456789abcdef"));
        for other in ["", "0123456789abcdeF", "0123456789abcdef0", "x"] {
            assert!(!token.is(other), "{other}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
        let [one, other] = [Token::random().unwrap(), Token::random().unwrap()];
        assert!(one.is(one.reveal()) && !one.is(other.reveal()) && one.reveal().len() == 48);
    }

    #[test]
    fn a_file_that_others_can_read_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Token::load(&path), Err(TokenError::Open(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Token::load(&path).unwrap().is("0123456789abcdef"));
        assert!(matches!(Token::load(&dir.path().join("none")), Err(TokenError::Read { .. })));
    }
}
