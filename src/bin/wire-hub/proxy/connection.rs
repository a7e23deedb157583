//! A connection on port 443: its handshake, its requests one by one, and how long it may take.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::answer::answer;
use super::client::Client;
use super::ear::{Heard, Signs};
use super::record::Record;
use super::worker::{Counted, Guest, Phase, Worker};

/// The head of a request, in bytes.
const HEAD: usize = 32 << 10;
/// A handshake, and the first head after it.
const BEGIN: Duration = Duration::from_secs(10);
/// A connection without a request, up to the end of the next head.
const IDLE: Duration = Duration::from_secs(60);
/// A client that takes or sends nothing of what is under way.
const STALLED: Duration = Duration::from_secs(60);
/// An upstream that has begun its answer and says nothing more.
const SILENT: Duration = Duration::from_secs(300);

/// HTTP/2: requests of one connection at a time, and what may be under way of each and of all.
const STREAMS: u32 = 128;
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
const STREAM_BUFFER: usize = 64 << 10;

/// What is known of a connection.
#[derive(Debug)]
pub struct Talk {
    pub worker: Rc<Worker>,
    pub client: Arc<Client>,
    pub client_name: Box<str>,
    pub client_value: HeaderValue,
    /// The server name of the handshake, in lower case; empty on port 80.
    pub name: Box<str>,
    pub signs: Arc<Signs>,
    /// Whether it is the upstream that something is waited for from.
    pub waits: Cell<bool>,
    busy: Cell<u32>,
    asked: Cell<bool>,
    moved: Cell<Instant>,
    _counted: Counted,
}

impl Talk {
    pub fn new(worker: Rc<Worker>, client: Arc<Client>, address: IpAddr, name: Box<str>, counted: Counted) -> Rc<Talk> {
        let client_name: Box<str> = address.to_string().into();
        // An address is always a fine value.
        let client_value = HeaderValue::from_str(&client_name).unwrap_or(HeaderValue::from_static("unknown"));
        Rc::new(Talk {
            worker,
            client,
            client_name,
            client_value,
            name,
            signs: Arc::default(),
            waits: Cell::new(false),
            busy: Cell::new(0),
            asked: Cell::new(false),
            moved: Cell::new(Instant::now()),
            _counted: counted,
        })
    }

    pub fn begins(&self, now: Instant) {
        self.busy.set(self.busy.get() + 1);
        self.asked.set(true);
        self.moved.set(now);
    }

    pub fn ends(&self, now: Instant) {
        self.busy.set(self.busy.get() - 1);
        self.moved.set(now);
    }

    /// Something went on.
    pub fn moves(&self) {
        self.moved.set(Instant::now());
    }

    /// When it has taken too long, if nothing moves before.
    fn due(&self) -> Instant {
        let patience = match (self.busy.get(), self.asked.get(), self.waits.get()) {
            (0, false, _) => BEGIN,
            (0, true, _) => IDLE,
            (_, _, true) => SILENT,
            (_, _, false) => STALLED,
        };
        self.moved.get() + patience
    }

    fn is_idle(&self) -> bool {
        self.busy.get() == 0
    }
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, guest: Guest, counted: Counted) {
    let Ok(stream) = TcpStream::from_std(guest.stream) else { return };
    // A handshake that fails was no request.
    let Ok(Ok(tls)) = timeout(BEGIN, TlsAcceptor::from(worker.certs.tls()).accept(stream)).await else { return };
    let (_, session) = tls.get_ref();
    let Some(name) = session.server_name().map(str::to_ascii_lowercase) else { return };
    let protocol = match session.alpn_protocol() {
        Some(b"h2") => Protocol::Two,
        Some(b"http/1.1") | None => Protocol::One,
        // Such as ACME's, where the handshake was all.
        Some(_) => return,
    };
    let talk = Talk::new(worker, guest.client, guest.address, name.into(), counted);
    match protocol {
        Protocol::One => one(&talk, Heard::new(tls, talk.signs.clone())).await,
        Protocol::Two => two(&talk, tls).await,
    }
}

enum Protocol {
    One,
    Two,
}

/// HTTP/1.1, or what an old client takes for it.
async fn one(talk: &Rc<Talk>, stream: Heard<TlsStream<TcpStream>>) {
    let service = service_fn(|request| {
        let talk = talk.clone();
        async move { Ok::<_, Infallible>(answer(talk, request).await) }
    });
    let connection = one_builder().serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = pin!(connection);
    let mut clock = Watch::new(talk, false);
    let ended = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => break ended,
            next = clock.next() => match next {
                Next::Close => connection.as_mut().graceful_shutdown(),
                Next::Cut => break Ok(()),
            }
        }
    };
    complain(talk, ended);
}

pub fn one_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // How long a head may take is watched for the connection as a whole.
    builder.max_header_size(HEAD).max_buf_size(HEAD + (32 << 10)).header_read_timeout(None);
    builder
}

/// Logs what was no request.
pub fn complain(talk: &Rc<Talk>, ended: hyper::Result<()>) {
    let begun = talk.signs.begun.load(Ordering::Relaxed);
    match ended {
        Err(error) if error.is_parse_too_large() => drop(Record::broken(talk, 431)),
        Err(error) if error.is_parse() => drop(Record::broken(talk, 400)),
        // The head did not come in time.
        Ok(()) if begun && talk.is_idle() => drop(Record::broken(talk, 408)),
        _ => {}
    }
}

async fn two(talk: &Rc<Talk>, stream: TlsStream<TcpStream>) {
    let service = service_fn(|request| {
        let talk = talk.clone();
        async move { Ok::<_, Infallible>(answer(talk, request).await) }
    });
    let mut builder = http2::Builder::new(Local);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_BUFFER)
        .max_header_list_size(HEAD as u32);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut clock = Watch::new(talk, true);
    let ended = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => break ended,
            next = clock.next() => match next {
                Next::Close => connection.as_mut().graceful_shutdown(),
                Next::Cut => break Ok(()),
            }
        }
    };
    if ended.is_err_and(|error| error.is_parse()) {
        drop(Record::broken(talk, 400));
    }
}

/// Runs the streams of a connection on the thread that has it.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, stream: F) {
        spawn_local(stream);
    }
}

/// Tells when a connection is to be closed.
pub struct Watch<'a> {
    talk: &'a Talk,
    phase: tokio::sync::watch::Receiver<Phase>,
    timer: std::pin::Pin<Box<tokio::time::Sleep>>,
    /// What it is told is final.
    closing: bool,
    /// HTTP/2 can say that it takes no more, so no request is lost by closing early.
    early: bool,
}

pub enum Next {
    /// Once what is under way is answered.
    Close,
    /// At once.
    Cut,
}

impl<'a> Watch<'a> {
    pub fn new(talk: &'a Talk, early: bool) -> Watch<'a> {
        let timer = Box::pin(sleep_until(talk.due().into()));
        Watch { talk, phase: talk.worker.phase(), timer, closing: false, early }
    }

    /// Waits until there is something to do. Nothing is lost if it is dropped before.
    pub async fn next(&mut self) -> Next {
        loop {
            let wanted = if self.early { Phase::Ends } else { Phase::Closes };
            tokio::select! {
                biased;
                _ = self.phase.wait_for(|phase| *phase >= wanted), if !self.closing => {
                    self.closing = true;
                    return Next::Close;
                }
                () = self.timer.as_mut() => {
                    let due = self.talk.due();
                    if due > Instant::now() {
                        self.timer.as_mut().reset(due.into());
                        continue;
                    }
                    // A farewell is for those who have said something before, and have a moment to hear it.
                    let idle = self.talk.is_idle() && self.talk.asked.get();
                    if idle && !self.closing && !self.talk.signs.begun.load(Ordering::Relaxed) {
                        self.closing = true;
                        self.timer.as_mut().reset((Instant::now() + Duration::from_secs(5)).into());
                        return Next::Close;
                    }
                    return Next::Cut;
                }
            }
        }
    }
}
