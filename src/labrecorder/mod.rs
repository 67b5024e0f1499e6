//! The port for programs that steer LabRecorder: a line of text is an order, `OK` its answer, words where it was not carried out.
//!
//! Owns its thread and its connections; `protocol.rs` owns what lines mean. LabRecorder answers `OK` to everything; here `OK` means
//! that it was done. The protocol knows no token: whoever reaches the port can start and stop recordings, and nothing else.

mod protocol;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tracing::{info, warn};
use youquanti_actors::control::{Command, Control};

use protocol::{Lines, Naming, Order};

/// Connections at one time; further ones are closed at once.
const MOST_CONNECTIONS: usize = 16;

/// How long a line may take from its first byte to its last, and an answer to be taken.
const LINE_WITHIN: Duration = Duration::from_secs(10);

/// Lines that nobody understands, after which a client is let go.
const MOST_MISTAKES: u32 = 5;

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum LabRecorderError {
    /// The port is taken, or may not be used.
    #[error(
        "cannot listen at {at} as LabRecorder does: choose another `port` in [labrecorder], or close LabRecorder"
    )]
    Listen {
        /// Where.
        at: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is no thread for it.
    #[error("the port for LabRecorder's clients cannot be started")]
    Start(#[source] io::Error),
}

/// A port that listens. Dropped, it closes all connections.
pub struct LabRecorder {
    at: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What all connections share.
struct Shared {
    session: Control,
    /// The folder of recordings, beyond which nothing can be named.
    recordings: PathBuf,
    /// What was said of the next file's name; one for all clients, as in LabRecorder.
    naming: Mutex<Naming>,
}

impl LabRecorder {
    /// Begins to listen, on a thread of its own.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn start(
        address: IpAddr,
        port: u16,
        session: Control,
        recordings: PathBuf,
    ) -> Result<Self, LabRecorderError> {
        let at = SocketAddr::new(address, port);
        let listener = TcpListener::bind(at).map_err(|source| LabRecorderError::Listen { at, source })?;
        let at = listener.local_addr().map_err(LabRecorderError::Start)?;
        listener.set_nonblocking(true).map_err(LabRecorderError::Start)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(LabRecorderError::Start)?;
        let shared = Arc::new(Shared { session, recordings, naming: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("yq-labrecorder".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    tokio::select! {
                        ended = accept(listener, shared) => if let Err(error) = ended {
                            warn!(%error, "the port for LabRecorder's clients is closed");
                        },
                        // Stopped, or whoever could stop it is gone.
                        _ = stopped => {}
                    }
                });
            })
            .map_err(LabRecorderError::Start)?;
        info!(address = %at, "listening as LabRecorder does");
        Ok(Self { at, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.at
    }
}

impl Drop for LabRecorder {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread of the port for LabRecorder's clients panicked");
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let (stream, peer) = listener.accept().await?;
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            warn!(%peer, "too many LabRecorder clients");
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A client that has gone, or was let go, is no news.
            serve(stream, &shared).await.ok();
            drop(place);
        });
    }
}

/// Carries out a client's lines, one after the other, until it goes or is let go.
async fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut lines = Lines::default();
    let mut bytes = [0; 1024];
    let mut mistakes = 0;
    loop {
        let read = stream.read(&mut bytes);
        // A client may be silent for hours between two lines, but not within one.
        let count = if lines.is_within_one() { timeout(LINE_WITHIN, read).await?? } else { read.await? };
        if count == 0 {
            return Ok(());
        }
        lines.push(&bytes[..count]);
        while let Some(line) = lines.next() {
            let answer = match line.and_then(|line| protocol::read(&line)) {
                Ok(order) => carry_out(order, shared).await,
                Err(mistake) => {
                    mistakes += 1;
                    if mistake.is_web || mistakes >= MOST_MISTAKES {
                        return Ok(());
                    }
                    Err(mistake.words)
                }
            };
            let answer = answer.map_or_else(|words| format!("error: {words}\n"), |()| "OK".to_owned());
            timeout(LINE_WITHIN, stream.write_all(answer.as_bytes())).await??;
        }
    }
}

async fn carry_out(order: Order, shared: &Shared) -> Result<(), String> {
    let naming = || shared.naming.lock().unwrap_or_else(PoisonError::into_inner);
    let command = match order {
        // Everything is recorded in any case, as LabRecorder does when it is started from elsewhere.
        Order::SelectAll | Order::SelectNone | Order::Update => return Ok(()),
        Order::Filename(parts) => return naming().take(parts, &shared.recordings),
        Order::Start => Command::StartRecording {
            name: naming().name(&shared.recordings),
            notes: String::new(),
            by: "LabRecorder protocol".to_owned(),
            lsl_time: None,
            override_reason: None,
        },
        Order::Stop => Command::StopRecording,
    };
    shared.session.execute(command).await.map(drop).map_err(|error| error.to_string())
}
