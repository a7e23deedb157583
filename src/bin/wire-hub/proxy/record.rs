//! What is remembered of a request until it has been answered: a line of the access log.

use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hyper::header::{HeaderValue, REFERER, USER_AGENT};
use hyper::{Method, Request, Uri, Version};

use super::clock::Clock;
use super::connection::Talk;
use super::serving::Upstream;

/// The client went away before there was an answer (as nginx has it).
const GONE: u16 = 499;

/// Writes its line when it ends, whatever became of the request.
#[derive(Debug)]
pub struct Record {
    talk: Rc<Talk>,
    began: Instant,
    method: Option<Method>,
    uri: Option<Uri>,
    host: Option<HeaderValue>,
    version: Version,
    agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    pub upstream: Option<Arc<Upstream>>,
    pub status: u16,
    pub bytes: u64,
    silent: bool,
}

impl Record {
    pub fn new<B>(talk: &Rc<Talk>, began: Instant, request: &Request<B>) -> Record {
        let headers = request.headers();
        talk.begins(began);
        Record {
            talk: talk.clone(),
            began,
            method: Some(request.method().clone()),
            uri: Some(request.uri().clone()),
            host: headers.get(hyper::header::HOST).cloned(),
            version: request.version(),
            agent: headers.get(USER_AGENT).cloned(),
            referer: headers.get(REFERER).cloned(),
            upstream: None,
            status: GONE,
            bytes: 0,
            silent: false,
        }
    }

    /// Of something that was no request.
    pub fn broken(talk: &Rc<Talk>, status: u16) -> Record {
        let began = Instant::now();
        talk.begins(began);
        Record {
            talk: talk.clone(),
            began,
            method: None,
            uri: None,
            host: None,
            version: Version::HTTP_11,
            agent: None,
            referer: None,
            upstream: None,
            status,
            bytes: 0,
            silent: false,
        }
    }

    /// Of the same request, and never written.
    pub fn silent(of: &Record) -> Record {
        let mut record = Record::broken(&of.talk, 0);
        record.silent = true;
        record
    }

    pub fn talk(&self) -> &Rc<Talk> {
        &self.talk
    }

    fn write(&self, clock: &mut Clock, line: &mut Vec<u8>, seconds: f64) {
        let authority = self.uri.as_ref().and_then(Uri::authority).map(|authority| authority.as_str().as_bytes());
        let host = authority.or(self.host.as_ref().map(HeaderValue::as_bytes)).unwrap_or(self.talk.name.as_bytes());
        let path = self.uri.as_ref().map_or("", Uri::path);
        let protocol: &[u8] = match self.version {
            Version::HTTP_2 => b"HTTP/2.0",
            Version::HTTP_10 => b"HTTP/1.0",
            _ => b"HTTP/1.1",
        };
        line.extend_from_slice(b"{\"ts\":\"");
        clock.write(line);
        line.extend_from_slice(b"\",\"client\":\"");
        line.extend_from_slice(self.talk.client_name.as_bytes());
        // A vector takes everything.
        let _ = write!(
            line,
            "\",\"status\":{},\"bytes\":{},\"seconds\":{seconds:.6},\"protocol\":\"",
            self.status, self.bytes
        );
        line.extend_from_slice(protocol);
        line.extend_from_slice(b"\",\"method\":");
        quoted(self.method.as_ref().map_or("-", Method::as_str).as_bytes(), line);
        line.extend_from_slice(b",\"host\":");
        quoted(host, line);
        line.extend_from_slice(b",\"path\":");
        quoted(if path.is_empty() { b"-" } else { path.as_bytes() }, line);
        line.extend_from_slice(b",\"upstream\":");
        quoted(self.upstream.as_ref().map_or("-", |upstream| &*upstream.node).as_bytes(), line);
        line.extend_from_slice(b",\"referer\":");
        quoted(self.referer.as_ref().map_or(b"-", HeaderValue::as_bytes), line);
        line.extend_from_slice(b",\"user-agent\":");
        quoted(self.agent.as_ref().map_or(b"-", HeaderValue::as_bytes), line);
        line.extend_from_slice(b"}\n");
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        self.talk.ends(now);
        if self.silent {
            return;
        }
        let seconds = now.duration_since(self.began).as_secs_f64();
        self.talk.worker.log(|clock, lines| self.write(clock, lines, seconds));
    }
}

/// A text in quotes, so that nothing in it ends it; what is no UTF-8 is replaced.
fn quoted(text: &[u8], line: &mut Vec<u8>) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.iter().all(plain) {
        line.push(b'"');
        line.extend_from_slice(text);
        line.push(b'"');
    } else {
        // A text is always JSON; what JSON leaves as it is and a terminal would obey is told by its number.
        let json = serde_json::to_string(&String::from_utf8_lossy(text)).unwrap_or_default();
        for piece in json.split_inclusive(char::is_control) {
            let bare = piece.trim_end_matches(char::is_control);
            line.extend_from_slice(bare.as_bytes());
            for control in piece[bare.len()..].chars() {
                let _ = write!(line, "\\u{:04x}", u32::from(control));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_a_text_but_its_end() {
        let of = |text: &[u8]| {
            let mut line = Vec::new();
            quoted(text, &mut line);
            String::from_utf8(line).unwrap()
        };
        assert_eq!(of(b"/a b"), r#""/a b""#);
        assert_eq!(of(b"a\"b\\c\nd\x7f\xff"), "\"a\\\"b\\\\c\\nd\\u007f\u{fffd}\"");
        // U+009B begins a command to a terminal, as ESC [ does.
        let odd = "ä\u{9b}31m\u{85}\u{9b}";
        assert_eq!(of(odd.as_bytes()), "\"ä\\u009b31m\\u0085\\u009b\"");
        assert_eq!(serde_json::from_str::<String>(&of(odd.as_bytes())).unwrap(), odd);
    }
}
