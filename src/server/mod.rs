//! The port for programs and browsers: HTTP and WebSocket under `/api/v1`, health, figures for Prometheus.
//!
//! Owns its threads, which give way to everything else on this machine, and the socket. Shows a session and passes commands on to it;
//! what a client does, or fails to do, costs the session nothing: whatever is sent to clients is bounded, and dropped and
//! counted where a client does not take it. Never touches a file outside the recording root.

mod commands;
mod files;
mod gpus;
mod guard;
mod metrics;
mod openapi;
mod pictures;
mod routes;
mod socket;
mod token;
mod ui;
mod views;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use tracing::{info, warn};
use youquanti_actors::control::Control;
use youquanti_config::Config;

pub use token::{Token, TokenError};

/// The port that is taken when none is configured.
pub const USUAL_PORT: u16 = 8478;

/// Ports after [`USUAL_PORT`] that are tried when it is taken and none is configured.
const MORE_PORTS: u16 = 20;

/// Connections at one time; further ones wait in the system's queue.
const MOST_CONNECTIONS: usize = 512;

/// How long a client may take to say what it wants, and to send what belongs to it.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// How long answers under way, and clients that stay connected, are waited for at the end, seconds.
const CLOSING_WITHIN: u64 = 1;

/// How the server's threads rank beside the session's: 0 is a usual thread, 19 gives way to everything.
const NICE: i32 = 10;

/// Which port to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// [`USUAL_PORT`], or the next of the twenty after it that is free.
    Usual,
    /// This one; 0 is any that is free.
    Fixed(u16),
}

impl Port {
    /// The one that a configuration asks for.
    pub fn wanted(config: &Config) -> Self {
        config.server.port.map_or(Self::Usual, |port| Self::Fixed(port.get() as u16))
    }
}

/// What a server is made from.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The address to listen at.
    pub address: IpAddr,
    /// The port to listen at.
    pub port: Port,
    /// What clients have to show. Required beyond this machine.
    pub token: Option<Token>,
    /// Name of the session.
    pub session: String,
    /// The session's configuration, TOML.
    pub config_text: String,
    /// The folder of recordings.
    pub recordings: PathBuf,
    /// The program that looks into recordings when it is called as `PROGRAM inspect --json FILE`. In a process of its own, because a
    /// process has one lock for all its HDF5 files, and a look would hold the recording up. Without it, recordings are listed only.
    pub inspector: Option<PathBuf>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port is taken, or may not be used.
    #[error(
        "cannot listen at {at}: choose another `port` in [server], port = 0 for any that is free, or switch it off with --no-ui"
    )]
    Listen {
        /// Where.
        at: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Whoever reaches the address could do everything.
    #[error("listening at {0}, beyond this machine, needs a token")]
    NoToken(IpAddr),
    /// The server cannot be started.
    #[error("the server cannot be started")]
    Start(#[source] io::Error),
}

/// What all requests share.
pub(crate) struct Shared {
    options: ServerOptions,
    at: SocketAddr,
    session: OnceLock<Control>,
    guard: guard::Guard,
    commands: commands::Commands,
    sockets: socket::Sockets,
    inspections: tokio::sync::Semaphore,
    pictures: OnceLock<pictures::Pictures>,
    gpus: gpus::Gpus,
}

/// A server that listens. Dropped, it closes all connections and ends within a few seconds.
pub struct Server {
    shared: Arc<Shared>,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins to listen, on threads of its own. Says `arming` until it is given a session.
    ///
    /// # Errors
    /// When the port cannot be had, or the address needs a token.
    pub fn start(options: ServerOptions) -> Result<Self, ServerError> {
        if !options.address.is_loopback() && options.token.is_none() {
            return Err(ServerError::NoToken(options.address));
        }
        let listener = listen(options.address, options.port)?;
        let at = listener.local_addr().map_err(ServerError::Start)?;
        let shared = Arc::new(Shared {
            options,
            at,
            session: OnceLock::new(),
            guard: guard::Guard::default(),
            commands: commands::Commands::default(),
            sockets: socket::Sockets::default(),
            inspections: tokio::sync::Semaphore::new(1),
            pictures: OnceLock::new(),
            gpus: gpus::Gpus::default(),
        });
        let (to, started) = sync_channel(1);
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("yq-server".to_owned())
            .spawn(move || {
                give_way();
                actix_rt::System::new().block_on(async move {
                    let server = match build(serving, listener) {
                        Ok(server) => server,
                        Err(error) => return drop(to.try_send(Err(error))),
                    };
                    drop(to.try_send(Ok(server.handle())));
                    if let Err(error) = server.await {
                        warn!(%error, "the server ended with an error");
                    }
                });
            })
            .map_err(ServerError::Start)?;
        let gone = |_| ServerError::Start(io::Error::other("its thread has ended"));
        let handle = started.recv().map_err(gone)?.map_err(ServerError::Start)?;
        info!(address = %at, "listening");
        Ok(Self { shared, handle, thread: Some(thread) })
    }

    /// Shows this session from now on; once.
    pub fn attach(&self, session: Control) {
        if self.shared.session.set(session).is_err() {
            warn!("a server shows one session only");
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.at
    }

    /// The address for browsers on this machine.
    pub fn url(&self) -> String {
        let host = match self.shared.at.ip() {
            ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
            IpAddr::V6(ip) => format!("[{ip}]"),
            IpAddr::V4(ip) => ip.to_string(),
        };
        format!("http://{host}:{}/", self.shared.at.port())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.sockets.close();
        // Answers under way are sent, whoever asked for the end among them. Takes effect whether or not it is waited for.
        drop(self.handle.stop(true));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the server's thread panicked");
        }
    }
}

/// Takes a port; the first of those that may be had.
pub(crate) fn listen(address: IpAddr, port: Port) -> Result<TcpListener, ServerError> {
    let ports = match port {
        Port::Usual => USUAL_PORT..=USUAL_PORT + MORE_PORTS,
        Port::Fixed(port) => port..=port,
    };
    let mut last = None;
    for port in ports {
        let at = SocketAddr::new(address, port);
        match TcpListener::bind(at) {
            Ok(listener) => return Ok(listener),
            Err(source) => last = Some(ServerError::Listen { at, source }),
        }
    }
    Err(last.unwrap_or_else(|| ServerError::Start(io::Error::other("no port"))))
}

fn build(shared: Arc<Shared>, listener: TcpListener) -> io::Result<actix_web::dev::Server> {
    let server = HttpServer::new(move || {
        give_way();
        App::new()
            .app_data(web::Data::from(Arc::clone(&shared)))
            .wrap(actix_web::middleware::from_fn(guard::guard))
            .configure(routes::configure)
    });
    let server = server
        .workers(1)
        .worker_max_blocking_threads(2)
        .max_connections(MOST_CONNECTIONS)
        .client_request_timeout(REQUEST_WITHIN)
        .client_disconnect_timeout(REQUEST_WITHIN)
        .shutdown_timeout(CLOSING_WITHIN)
        .disable_signals()
        .listen(listener)?;
    Ok(server.run())
}

/// Lets this thread give way to those of the session.
fn give_way() {
    if let Err(error) = rustix::process::nice(NICE) {
        warn!(%error, "the server's threads cannot be told to give way");
    }
}
