//! Port 80: what ACME asks for, and the way to port 443.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use hyper::body::{Bytes, Incoming as Received};
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::answer::{redirect, refuse};
use super::body::Outgoing;
use super::connection::{Next, Talk, Watch, complain, one_builder};
use super::ear::Heard;
use super::record::Record;
use super::request;
use super::worker::{Counted, Guest, Worker};

const CHALLENGE: &str = "/.well-known/acme-challenge/";

pub async fn serve(worker: Rc<Worker>, guest: Guest, counted: Counted) {
    let Ok(stream) = TcpStream::from_std(guest.stream) else { return };
    let talk = Talk::new(worker, guest.client, guest.address, "".into(), counted);
    let service = service_fn(|request| {
        let talk = talk.clone();
        async move { Ok::<_, Infallible>(answer(&talk, &request)) }
    });
    let stream = TokioIo::new(Heard::new(stream, talk.signs.clone()));
    let mut connection = pin!(one_builder().serve_connection(stream, service));
    let mut clock = Watch::new(&talk, false);
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
    complain(&talk, ended);
}

fn answer(talk: &Rc<Talk>, request: &Request<Received>) -> Response<Outgoing> {
    let record = Record::new(talk, Instant::now(), request);
    let authority = request::authority(request.version(), request.uri(), request.headers());
    let mut answer = match authority.and_then(request::name) {
        Err(_) => refuse(record, StatusCode::BAD_REQUEST, "the request names no host, or more than one"),
        Ok(name) => for_host(talk, request, record, &name.to_ascii_lowercase()),
    };
    // There is nothing more to be had here.
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn for_host(talk: &Talk, request: &Request<Received>, mut record: Record, name: &str) -> Response<Outgoing> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        let mut answer = refuse(record, StatusCode::METHOD_NOT_ALLOWED, "this method is not for a site");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        return answer;
    }
    if let Some(token) = request.uri().path().strip_prefix(CHALLENGE)
        && matches!(*request.method(), Method::GET | Method::HEAD)
        && let Some(text) = talk.worker.certs.challenge(name, token)
    {
        record.status = 200;
        let mut answer = Response::new(Outgoing::Own(None, Box::new(record)));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        if let Outgoing::Own(own, _) = answer.body_mut() {
            *own = Some(Bytes::from(text));
        }
        return answer;
    }
    match talk.worker.serving().host(name) {
        Some(_) => redirect(record, &format!("https://{name}"), request.uri()),
        None => refuse(record, StatusCode::NOT_FOUND, "nothing is served here"),
    }
}
