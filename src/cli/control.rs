//! `youquanti control`: tells a session that runs what to do, as every client of its port does.
//!
//! Owns one request and its answer. What commands there are, and what they mean, is the library's.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value as Json, json};
use youquanti::Command;
use youquanti::server::{Token, USUAL_PORT};

use super::doors::given_token;
use super::{Exit, fail};

pub(crate) const AFTER_HELP: &str = "\
Examples:
  youquanti control mark \"stimulus on\"
  youquanti control record P001/rest --notes \"eyes closed\"
  youquanti control pause-camera left
  youquanti control state

Exit codes: 0 done, 2 the command line is wrong, 3 no session answers, 4 the session refuses and says why";

/// A file may have to be closed on a slow disk.
const PATIENCE: Duration = Duration::from_secs(90);

/// Longest answer that is read, bytes.
const LONGEST: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the session listens.
    #[arg(long, value_name = "HOST:PORT", global = true)]
    at: Option<String>,
    /// File with the token, where one is needed; without it, YOUQUANTI_TOKEN.
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    #[command(subcommand)]
    wanted: Wanted,
}

#[derive(Clone, Debug, Subcommand)]
enum Wanted {
    /// Show where the session stands, as JSON.
    State,
    /// Set a marker.
    Mark {
        /// What it says.
        text: String,
        /// When it was, seconds of the session machine's monotonic clock; without it: now.
        #[arg(long, value_name = "SECONDS")]
        lsl_time: Option<f64>,
    },
    /// Give a participant a name.
    Rename {
        /// P1, P2, …
        participant: String,
        /// The name.
        name: String,
    },
    /// Close a camera until it is resumed.
    PauseCamera {
        /// Its name.
        camera: String,
    },
    /// Open a paused camera again.
    ResumeCamera {
        /// Its name.
        camera: String,
    },
    /// Close a camera and open it again.
    RestartCamera {
        /// Its name.
        camera: String,
    },
    /// Start a recording.
    Record {
        /// The file without its ending, below the session's folder; without it: session and time.
        name: Option<String>,
        /// What is to be known about it.
        #[arg(long, default_value = "")]
        notes: String,
        /// Who starts it.
        #[arg(long, default_value = "", value_name = "NAME")]
        by: String,
        /// When to begin, seconds of the session machine's monotonic clock; without it: now.
        #[arg(long, value_name = "SECONDS")]
        lsl_time: Option<f64>,
        /// Why to record although something that recordings require is missing. The file says so, with who decided it.
        #[arg(long = "override", value_name = "REASON", requires = "by")]
        override_reason: Option<String>,
    },
    /// Stop the recording; the session goes on.
    StopRecording,
    /// End the session in good order.
    Stop {
        /// Why, for its report.
        #[arg(default_value = "asked for")]
        reason: String,
    },
}

impl Wanted {
    /// The command, if something is to be done.
    fn command(self) -> Option<Command> {
        Some(match self {
            Wanted::State => return None,
            Wanted::Mark { text, lsl_time } => Command::Mark { text, lsl_time },
            Wanted::Rename { participant, name } => Command::RenameParticipant { participant, name },
            Wanted::PauseCamera { camera } => Command::PauseCamera { camera },
            Wanted::ResumeCamera { camera } => Command::ResumeCamera { camera },
            Wanted::RestartCamera { camera } => Command::RestartCamera { camera },
            Wanted::Record { name, notes, by, lsl_time, override_reason } => {
                Command::StartRecording { name, notes, by, lsl_time, override_reason }
            }
            Wanted::StopRecording => Command::StopRecording,
            Wanted::Stop { reason } => Command::Stop { reason },
        })
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error("no session answers at {at}: `youquanti run` says where it listens, name that with --at")]
    Nobody { at: String, source: io::Error },
    #[error("what answers at {at} is no session of this program")]
    Stranger { at: String },
}

pub(crate) fn execute(args: &Args) -> Exit {
    let at = args.at.clone().unwrap_or_else(|| format!("127.0.0.1:{USUAL_PORT}"));
    let token = match given_token(args.token_file.as_deref()) {
        Ok(token) => token,
        Err(error) => return fail(Exit::Usage, &error),
    };
    let asked = match args.wanted.clone().command() {
        None => ask(&at, token.as_ref(), "GET", "/api/v1/state", ""),
        Some(command) => ask(&at, token.as_ref(), "POST", "/api/v1/commands", &json!(command).to_string()),
    };
    match asked {
        Err(error) => fail(Exit::Missing, &error),
        Ok((200, answer)) => {
            outln!("{:#}", answer.get("ok").unwrap_or(&answer));
            Exit::Fine
        }
        Ok((status, answer)) => {
            let words =
                answer["error"]["message"].as_str().map_or_else(|| format!("status {status}"), str::to_owned);
            eprintln!("error: {words}");
            Exit::Degraded
        }
    }
}

/// Sends a request; the answer's status and content.
fn ask(
    at: &str,
    token: Option<&Token>,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, Json), ControlError> {
    let nobody = |source| ControlError::Nobody { at: at.to_owned(), source };
    let address = at.to_socket_addrs().map_err(nobody)?.next();
    let address = address.ok_or_else(|| nobody(io::Error::other("it has no address")))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(nobody)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(nobody)?;
    let token =
        token.map_or_else(String::new, |token| format!("Authorization: Bearer {}\r\n", token.reveal()));
    // 1.0, so that the answer ends with the connection.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {at}\r\n{token}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(nobody)?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer).map_err(nobody)?;
    let stranger = || ControlError::Stranger { at: at.to_owned() };
    let (head, content) = answer.split_once("\r\n\r\n").ok_or_else(stranger)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(stranger)?;
    let content = serde_json::from_str(content).map_err(|_| stranger())?;
    Ok((status, content))
}
