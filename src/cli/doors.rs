//! The ports of `youquanti run`, as the configuration has them.
//!
//! Owns where the token comes from. Says where to find what is open.

use std::env;
use std::path::Path;

use youquanti::labrecorder::{LabRecorder, LabRecorderError};
use youquanti::server::{Port, Server, ServerError, ServerOptions, Token, TokenError};
use youquanti::{Config, Control};

/// Where a token may stand that is in no file.
const TOKEN_VARIABLE: &str = "YOUQUANTI_TOKEN";

/// Why a port is not open.
#[derive(Debug, thiserror::Error)]
pub(super) enum DoorError {
    /// See [`TokenError`].
    #[error(transparent)]
    Token(#[from] TokenError),
    /// See [`ServerError`].
    #[error(transparent)]
    Server(#[from] ServerError),
    /// See [`LabRecorderError`].
    #[error(transparent)]
    LabRecorder(#[from] LabRecorderError),
}

/// Opens the port for LabRecorder's clients, if it is wanted.
pub(super) fn open_labrecorder(config: &Config, session: Control) -> Result<Option<LabRecorder>, DoorError> {
    let wanted = &config.labrecorder;
    if !wanted.enabled {
        return Ok(None);
    }
    let (port, recordings) = (wanted.port.get() as u16, config.session.directory.clone());
    let opened = LabRecorder::start(wanted.address, port, session, recordings)?;
    eprintln!("LabRecorder's clients at {}", opened.address());
    Ok(Some(opened))
}

/// The token that stands in a file, or else in the environment.
pub(super) fn given_token(file: Option<&Path>) -> Result<Option<Token>, TokenError> {
    match (file, env::var(TOKEN_VARIABLE)) {
        (Some(file), _) => Token::load(file).map(Some),
        (None, Ok(text)) => Token::new(&text).map(Some),
        (None, Err(_)) => Ok(None),
    }
}

/// Opens what the configuration asks for, before anything else is started: a port that is taken is said at once.
pub(super) fn open(config: &Config) -> Result<Option<Server>, DoorError> {
    let wanted = &config.server;
    if !wanted.enabled {
        return Ok(None);
    }
    let is_beyond = !wanted.address.is_loopback();
    let token = match given_token(wanted.token_file.as_deref())? {
        Some(token) => Some(token),
        None if is_beyond => {
            let token = Token::random()?;
            eprintln!("token for everybody who connects, new each time: {}", token.reveal());
            Some(token)
        }
        None => None,
    };
    let server = Server::start(ServerOptions {
        address: wanted.address,
        port: Port::wanted(config),
        token,
        session: config.session.name.to_string(),
        config_text: config.source_text().to_owned(),
        recordings: config.session.directory.clone(),
        inspector: env::current_exe().ok(),
    })?;
    eprintln!("control and figures at {}", server.url());
    if is_beyond {
        eprintln!(
            "other machines can reach it, and whoever has the token can steer the session; connections are not encrypted"
        );
    }
    Ok(Some(server))
}
