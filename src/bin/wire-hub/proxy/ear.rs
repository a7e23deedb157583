//! What a client sends over HTTP/1.1, heard a second time, only more strictly: a message whose end can be seen in two places
//! would be two messages to somebody. Lines end with CR LF and are not folded, there is one length or one `chunked`, never
//! both, and a chunk's size is nothing but digits. What is heard wrong is spoiled, so that it is refused as broken.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What an ear tells of what it hears.
#[derive(Debug, Default)]
pub struct Signs {
    /// A request has begun and its head is not whole yet.
    pub begun: AtomicBool,
    pub spoiled: AtomicBool,
    /// It is no HTTP any more, and not listened to.
    pub deaf: AtomicBool,
}

/// A connection and the ear on it.
#[derive(Debug)]
pub struct Heard<S> {
    stream: S,
    ear: Ear,
    signs: Arc<Signs>,
}

impl<S> Heard<S> {
    pub fn new(stream: S, signs: Arc<Signs>) -> Heard<S> {
        Heard { stream, ear: Ear::default(), signs }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = read
            && !self.signs.deaf.load(Ordering::Relaxed)
        {
            let new = &mut buffer.filled_mut()[before..];
            if self.ear.hear(new) == Spoiled {
                self.signs.spoiled.store(true, Ordering::Relaxed);
            }
            self.signs.begun.store(self.ear.begun(), Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        bytes: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in the stream of requests it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before or in a request line.
    #[default]
    Request,
    Header,
    /// So many bytes of a body or a chunk are to come.
    Body(u64),
    Chunk(u64),
    ChunkEnd,
    Size,
    Trailer,
    Spoiled,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Spoiled,
}
use Verdict::{Fine, Spoiled};

/// A line that is not whole is kept up to here; the head's own limit comes first.
const LONGEST: usize = 64 << 10;

#[derive(Debug, Default)]
struct Ear {
    at: At,
    /// The beginning of a line whose end has not come.
    kept: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
}

impl Ear {
    fn begun(&self) -> bool {
        self.at == At::Header || self.at == At::Request && !self.kept.is_empty()
    }

    /// Hears what comes next. What is wrong is overwritten, up to the end.
    fn hear(&mut self, bytes: &mut [u8]) -> Verdict {
        let mut here = 0;
        while here < bytes.len() {
            let rest = bytes.len() - here;
            match &mut self.at {
                At::Body(left) | At::Chunk(left) => {
                    let taken = rest.min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    here += taken;
                    self.at = match self.at {
                        At::Body(0) => At::Request,
                        At::Chunk(0) => At::ChunkEnd,
                        other => other,
                    };
                }
                At::Spoiled => return self.spoil(&mut bytes[here..]),
                _ => match bytes[here..].iter().position(|byte| *byte == b'\n') {
                    None => {
                        self.kept.extend_from_slice(&bytes[here..]);
                        if self.kept.len() > LONGEST {
                            return self.spoil(&mut bytes[here..]);
                        }
                        here = bytes.len();
                    }
                    Some(end) => {
                        let line = &bytes[here..here + end];
                        let fine = if self.kept.is_empty() {
                            self.line(line)
                        } else {
                            let mut whole = std::mem::take(&mut self.kept);
                            whole.extend_from_slice(line);
                            self.line(&whole)
                        };
                        if fine.is_none() {
                            return self.spoil(&mut bytes[here + end..]);
                        }
                        here += end + 1;
                    }
                },
            }
        }
        Fine
    }

    fn spoil(&mut self, bytes: &mut [u8]) -> Verdict {
        self.at = At::Spoiled;
        self.kept = Vec::new();
        bytes.fill(0);
        Spoiled
    }

    /// A line without its LF; `None` if it is wrong.
    fn line(&mut self, line: &[u8]) -> Option<()> {
        let line = line.strip_suffix(b"\r")?;
        self.at = match self.at {
            // Empty lines before a request are nothing.
            At::Request if line.is_empty() => At::Request,
            At::Request => {
                (self.length, self.chunked) = (None, false);
                At::Header
            }
            At::Header if line.is_empty() => match (self.chunked, self.length) {
                (true, Some(_)) => return None,
                (true, None) => At::Size,
                (false, None | Some(0)) => At::Request,
                (false, Some(length)) => At::Body(length),
            },
            At::Header => {
                self.header(line)?;
                At::Header
            }
            At::Size => match size(line)? {
                0 => At::Trailer,
                size => At::Chunk(size),
            },
            At::ChunkEnd if line.is_empty() => At::Size,
            At::ChunkEnd => return None,
            At::Trailer if line.is_empty() => At::Request,
            At::Trailer => At::Trailer,
            At::Body(_) | At::Chunk(_) | At::Spoiled => return None,
        };
        Some(())
    }

    fn header(&mut self, line: &[u8]) -> Option<()> {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return None;
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = number(trim(value), 10)?;
                self.length.replace(length).is_none().then_some(())
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let once = !std::mem::replace(&mut self.chunked, true);
                (once && trim(value).eq_ignore_ascii_case(b"chunked")).then_some(())
            }
            _ => Some(()),
        }
    }
}

/// The size of a chunk; what follows a `;` is nobody's business.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?;
    number(digits, 16)
}

/// Spaces and tabs around a value, and nothing else that is blank, are not of it.
fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let begin = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(begin, |last| last + 1);
    &value[begin..end]
}

/// Digits and nothing else, not even a sign.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let known = digits.iter().all(|digit| char::from(*digit).is_digit(radix));
    u64::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| known)?, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heard in pieces of every size, the verdict is the same.
    fn heard(text: &str) -> (Verdict, At) {
        let verdicts = (1..=text.len()).map(|piece| {
            let mut ear = Ear::default();
            let mut bytes = text.as_bytes().to_vec();
            let all = bytes.chunks_mut(piece).fold(Fine, |so_far, piece| match (so_far, ear.hear(piece)) {
                (Fine, Fine) => Fine,
                _ => Spoiled,
            });
            if all == Fine {
                assert_eq!(bytes, text.as_bytes(), "what is fine is left alone");
            } else {
                assert!(bytes.contains(&0), "what is not is spoiled");
            }
            (all, ear.at)
        });
        let verdicts: Vec<_> = verdicts.collect();
        assert!(verdicts.windows(2).all(|two| two[0] == two[1]), "{text:?}: {verdicts:?}");
        verdicts.into_iter().next().unwrap()
    }

    #[test]
    fn requests_that_end_in_one_place_are_fine() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:  5 \r\n\r\nhelloGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\nX: y\r\n\r\n",
        ] {
            assert_eq!(heard(text), (Fine, At::Request), "{text:?}");
        }
    }

    #[test]
    fn a_request_that_could_end_elsewhere_is_spoiled() {
        let body = |headers: &str| format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n0\r\n\r\n");
        let mut texts: Vec<String> = [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: +5",
            "Content-Length: 5, 5",
            "Content-Length: 0x5",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Content-Length: 5\u{b}",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: \u{b}chunked",
            "X: a\r\n b",
            "X: a\r\n\tContent-Length: 5",
            "nonsense",
        ]
        .map(body)
        .into();
        texts.extend(
            [
                "GET / HTTP/1.1\nHost: a\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a\n\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\n\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n",
            ]
            .map(str::to_owned),
        );
        for text in texts {
            assert_eq!(heard(&text), (Spoiled, At::Spoiled), "{text:?}");
        }
    }
}
