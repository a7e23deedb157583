//! A request's way through: whose it is, whether it may pass, what the upstream says to it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming as Received};
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::timeout;

use super::body::{Incoming, Outgoing, Progress, Relay};
use super::connection::Talk;
use super::headers::{self, Asks};
use super::record::Record;
use super::request;
use super::serving::{Does, Host, Own, Site};
use super::upgrade;
use super::upstream::Link;

/// How long an upstream may take to begin its answer.
const FIRST_BYTE: Duration = Duration::from_secs(30);
/// A connection that was idle for longer may be closed by the upstream the moment that it is used again.
const FRESH: Duration = Duration::from_millis(500);
const MOST_HEADERS: usize = 100;
/// So many bytes of a refused body are taken, and so long it is waited for them.
const SMALL: u64 = 64 << 10;
const HEARD_OUT: Duration = Duration::from_secs(1);

/// Answers a request, whatever it is.
pub async fn answer(talk: Rc<Talk>, request: Request<Received>) -> Response<Outgoing> {
    let record = Record::new(&talk, Instant::now(), &request);
    let version = request.version();
    let mut answer = route(&talk, request, record).await;
    if talk.worker.ends() && version < Version::HTTP_2 && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

async fn route(talk: &Rc<Talk>, request: Request<Received>, record: Record) -> Response<Outgoing> {
    let serving = talk.worker.serving();
    match decide(talk, &serving, &request, record) {
        Way::On(site, host, record) => pass(talk, site, request, record, host).await,
        Way::Back(answer) => {
            hear_out(request).await;
            answer
        }
    }
}

/// Where a request goes.
enum Way<'s> {
    /// To a site, which is told this host.
    On(&'s Site, HeaderValue, Record),
    /// Nowhere: the answer is the proxy's own.
    Back(Response<Outgoing>),
}

fn decide<'s>(talk: &Talk, serving: &'s Own, request: &Request<Received>, record: Record) -> Way<'s> {
    let headers = request.headers();
    let refuse = |record, status, why: &str| {
        let mut answer = refuse(record, status, why);
        headers::dress(answer.headers_mut(), &serving.usual);
        Way::Back(answer)
    };
    if headers.len() > MOST_HEADERS {
        return refuse(record, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers");
    }
    let authority = request::authority(request.version(), request.uri(), headers);
    let named = authority.and_then(|authority| Ok((authority, request::name(authority)?)));
    let Ok((authority, name)) = named else {
        return refuse(record, StatusCode::BAD_REQUEST, "the request names no host, or more than one");
    };
    let host = if name.eq_ignore_ascii_case(&talk.name) { serving.host(&talk.name) } else { None };
    let Some(host) = host else {
        return refuse(record, StatusCode::MISDIRECTED_REQUEST, "this connection was made for another name");
    };
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        let mut answer = self::refuse(record, StatusCode::METHOD_NOT_ALLOWED, "this method is not for a site");
        headers::dress(answer.headers_mut(), &serving.usual);
        answer.headers_mut().insert(ALLOW, allowed(host));
        return Way::Back(answer);
    }
    let found = match &host.does {
        Does::Redirect(to, look) => {
            let mut answer = redirect(record, to, request.uri());
            headers::dress(answer.headers_mut(), look);
            return Way::Back(answer);
        }
        Does::Serve(_) => request::site(host, request.uri().path()),
    };
    let site = match found {
        Err(_) => return refuse(record, StatusCode::BAD_REQUEST, "the path can be read in two ways"),
        Ok(None) => return refuse(record, StatusCode::NOT_FOUND, "nothing is served here"),
        Ok(Some(site)) => site,
    };
    if let Err(refusal) = admit(talk, site, request) {
        let mut answer = refusal.answer(record);
        headers::dress(answer.headers_mut(), &site.look);
        return Way::Back(answer);
    }
    // A port that is not the usual one is the client's to see again.
    let seen = (name.len() != authority.len()).then(|| HeaderValue::from_str(authority).ok()).flatten();
    Way::On(site, seen.unwrap_or_else(|| host.name.clone()), record)
}

/// Takes what is left of a small body. In HTTP/2 a stream that is answered before it is at its end is reset, and some clients lose
/// the answer over that.
async fn hear_out(request: Request<Received>) {
    if request.version() != Version::HTTP_2 || request.body().size_hint().lower() > SMALL {
        return;
    }
    let mut body = request.into_body();
    let hear = async {
        let mut heard = 0;
        while let Some(Ok(frame)) = body.frame().await {
            heard += frame.data_ref().map_or(0, |data| data.len() as u64);
            if heard > SMALL {
                return;
            }
        }
    };
    // Whoever takes his time loses the answer, as before.
    let _ = timeout(HEARD_OUT, hear).await;
}

/// What may be asked of a host: by its shortest path, if it has several.
fn allowed(host: &Host) -> HeaderValue {
    match &host.does {
        Does::Serve(sites) if !sites.is_empty() => sites[sites.len() - 1].allow.clone(),
        _ => HeaderValue::from_static("GET, HEAD, POST"),
    }
}

/// Why a site does not take a request.
enum Refusal {
    Method(HeaderValue),
    TooMany(Duration),
    TooLarge,
}

impl Refusal {
    fn answer(self, record: Record) -> Response<Outgoing> {
        match self {
            Refusal::Method(allow) => {
                let mut answer = refuse(record, StatusCode::METHOD_NOT_ALLOWED, "this method is not for this site");
                answer.headers_mut().insert(ALLOW, allow);
                answer
            }
            Refusal::TooMany(wait) => {
                let mut answer = refuse(record, StatusCode::TOO_MANY_REQUESTS, "too many requests");
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
                answer
            }
            Refusal::TooLarge => refuse(record, StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        }
    }
}

fn admit(talk: &Talk, site: &Site, request: &Request<Received>) -> Result<(), Refusal> {
    if let Some(rate) = site.rate {
        let now = talk.worker.clock(Instant::now());
        talk.client.admits(site.key, rate, now).map_err(Refusal::TooMany)?;
    }
    if !site.methods.contains(request.method()) {
        return Err(Refusal::Method(site.allow.clone()));
    }
    if request.body().size_hint().lower() > site.body {
        return Err(Refusal::TooLarge);
    }
    Ok(())
}

/// Asks the upstream, and hands on what it says.
async fn pass(
    talk: &Rc<Talk>,
    site: &Site,
    mut request: Request<Received>,
    mut record: Record,
    host: HeaderValue,
) -> Response<Outgoing> {
    record.upstream = Some(site.upstream.clone());
    let websocket = request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && headers::wants_websocket(request.headers());
    let client = websocket.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    headers::request(&mut parts.headers, Asks { client: &talk.client_value, host });
    if websocket {
        headers::websocket(&mut parts.headers);
    }
    parts.version = Version::HTTP_11;
    parts.uri = match parts.uri.path_and_query() {
        Some(path) => Uri::from(path.clone()),
        None => Uri::from_static("/"),
    };
    parts.extensions.clear();

    let progress = Progress::default();
    let body = if body.is_end_stream() {
        progress.sent.set();
        talk.waits.set(true);
        // Some upstreams ask for a length of what has a body by its nature (RFC 9110, section 8.6).
        if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
            parts.headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
        }
        Incoming::None
    } else {
        Incoming::Some { from: body, left: site.body, talk: talk.clone(), progress: progress.clone() }
    };
    let asked = ask(talk, site, parts, body, &progress, websocket).await;
    let (mut response, link) = match asked {
        Ok(answered) => answered,
        Err(failure) => {
            let mut answer = failure.answer(record);
            headers::dress(answer.headers_mut(), &site.look);
            return answer;
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upstream = hyper::upgrade::on(&mut response);
        let (mut head, _) = response.into_parts();
        headers::answer(&mut head.headers, &site.look);
        let Some(client) = client else {
            let mut answer = refuse(record, StatusCode::BAD_GATEWAY, "the site answers what nobody has asked");
            headers::dress(answer.headers_mut(), &site.look);
            return answer;
        };
        headers::websocket(&mut head.headers);
        record.status = head.status.as_u16();
        talk.signs.deaf.store(true, std::sync::atomic::Ordering::Relaxed);
        return Response::from_parts(head, upgrade::start(client, upstream, record));
    }
    let (mut head, mut from) = response.into_parts();
    let first = arrived(&mut from).await;
    headers::answer(&mut head.headers, &site.look);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    record.status = head.status.as_u16();
    Response::from_parts(head, Outgoing::Relayed(Box::new(Relay::new(first, from, record, link, progress.sent))))
}

/// What of the body has come with the head, so that both leave at once.
async fn arrived(from: &mut Received) -> Option<Frame<Bytes>> {
    if from.is_end_stream() {
        return None;
    }
    let mut again = true;
    poll_fn(|cx| match Pin::new(&mut *from).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(frame)),
        // The connection hands it over only now that it was asked for.
        Poll::Pending if std::mem::take(&mut again) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        _ => Poll::Ready(None),
    })
    .await
}

/// Why there is no answer from an upstream.
enum Failure {
    Unreachable,
    Late,
    Broken,
    TooLarge,
    BadBody,
}

impl Failure {
    fn answer(self, record: Record) -> Response<Outgoing> {
        match self {
            Failure::Unreachable => refuse(record, StatusCode::BAD_GATEWAY, "the site cannot be reached right now"),
            Failure::Broken => refuse(record, StatusCode::BAD_GATEWAY, "the site did not answer properly"),
            Failure::Late => refuse(record, StatusCode::GATEWAY_TIMEOUT, "the site takes too long to answer"),
            Failure::TooLarge => refuse(record, StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
            Failure::BadBody => refuse(record, StatusCode::BAD_REQUEST, "the body of the request is broken"),
        }
    }
}

async fn ask(
    talk: &Talk,
    site: &Site,
    parts: Parts,
    body: Incoming,
    progress: &Progress,
    websocket: bool,
) -> Result<(Response<Received>, Link), Failure> {
    let worker = &talk.worker;
    let mut link = Link::of(worker, &site.upstream, websocket).await.map_err(|_| Failure::Unreachable)?;
    // Once more is fine where nothing can have happened twice.
    let again =
        (link.idle.is_some_and(|idle| idle > FRESH) && parts.method.is_safe() && matches!(body, Incoming::None))
            .then(|| parts.clone());
    match said(&mut link, Request::from_parts(parts, body), progress).await {
        Ok(response) => Ok((response, link)),
        Err(Unheard::Late) => Err(Failure::Late),
        Err(_) if progress.too_large.is_set() => Err(Failure::TooLarge),
        Err(_) if progress.broken.is_set() => Err(Failure::BadBody),
        Err(Unheard::Not(request)) => {
            let mut link = Link::of(worker, &site.upstream, true).await.map_err(|_| Failure::Unreachable)?;
            let response = said(&mut link, *request, progress).await.map_err(Failure::from)?;
            Ok((response, link))
        }
        Err(Unheard::Broken) => {
            let again = again.ok_or(Failure::Broken)?;
            let mut link = Link::of(worker, &site.upstream, true).await.map_err(|_| Failure::Unreachable)?;
            let request = Request::from_parts(again, Incoming::None);
            let response = said(&mut link, request, progress).await.map_err(Failure::from)?;
            Ok((response, link))
        }
    }
}

enum Unheard {
    Late,
    Broken,
    /// The request was not even sent.
    Not(Box<Request<Incoming>>),
}

impl From<Unheard> for Failure {
    fn from(unheard: Unheard) -> Failure {
        match unheard {
            Unheard::Late => Failure::Late,
            Unheard::Broken | Unheard::Not(_) => Failure::Broken,
        }
    }
}

async fn said(link: &mut Link, request: Request<Incoming>, progress: &Progress) -> Result<Response<Received>, Unheard> {
    let mut response = std::pin::pin!(link.sender.try_send_request(request));
    loop {
        let sent = progress.sent.is_set();
        match timeout(FIRST_BYTE, response.as_mut()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(mut error)) => {
                return Err(error.take_message().map_or(Unheard::Broken, |message| Unheard::Not(Box::new(message))));
            }
            // As long as the request is on its way, whoever sends it is waited for.
            Err(_) if !sent => {}
            Err(_) => return Err(Unheard::Late),
        }
    }
}

/// An answer of the proxy's own.
pub fn refuse(mut record: Record, status: StatusCode, why: &str) -> Response<Outgoing> {
    record.status = status.as_u16();
    let text = Bytes::from(format!("{status}: {why}\n"));
    let mut answer = Response::new(Outgoing::Own(None, Box::new(record)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    if let Outgoing::Own(own, _) = answer.body_mut() {
        *own = Some(text);
    }
    answer
}

/// Sends a client elsewhere, with its path and query.
pub fn redirect(mut record: Record, to: &str, uri: &Uri) -> Response<Outgoing> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let Ok(location) = HeaderValue::from_str(&format!("{to}{path}")) else {
        return refuse(record, StatusCode::BAD_REQUEST, "the path cannot be sent elsewhere");
    };
    record.status = StatusCode::PERMANENT_REDIRECT.as_u16();
    let mut answer = Response::new(Outgoing::Own(None, Box::new(record)));
    *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
    answer.headers_mut().insert(LOCATION, location);
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    answer
}
