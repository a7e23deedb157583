//! Bodies on their way through: a request's to the upstream, an answer's to the client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming as Received, SizeHint};

use super::connection::Talk;
use super::record::Record;
use super::upstream::{Flag, Link};

/// A request's body, which the upstream gets no more of than its site allows.
#[derive(Debug)]
pub enum Incoming {
    None,
    Some { from: Received, left: u64, talk: Rc<Talk>, progress: Progress },
}

/// How a request's body fares.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub sent: Flag,
    pub too_large: Flag,
    pub broken: Flag,
}

/// Why a request's body does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error("the body is too large")]
    TooLarge,
    #[error("the body is broken: {0}")]
    Broken(hyper::Error),
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Stopped;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Stopped>>> {
        let Incoming::Some { from, left, talk, progress } = self.get_mut() else { return Poll::Ready(None) };
        loop {
            let Poll::Ready(next) = Pin::new(&mut *from).poll_frame(cx) else {
                talk.waits.set(false);
                return Poll::Pending;
            };
            talk.moves();
            return Poll::Ready(match next {
                Some(Ok(frame)) => {
                    // What comes after the body would be headers that nobody has looked at.
                    let Some(data) = frame.data_ref() else { continue };
                    match left.checked_sub(data.len() as u64) {
                        Some(less) => *left = less,
                        None => {
                            progress.too_large.set();
                            return Poll::Ready(Some(Err(Stopped::TooLarge)));
                        }
                    }
                    if from.is_end_stream() {
                        progress.sent.set();
                    }
                    Some(Ok(frame))
                }
                Some(Err(error)) => {
                    progress.broken.set();
                    Some(Err(Stopped::Broken(error)))
                }
                None => {
                    progress.sent.set();
                    talk.waits.set(true);
                    None
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Incoming::None => true,
            Incoming::Some { from, .. } => from.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Incoming::None => SizeHint::with_exact(0),
            Incoming::Some { from, .. } => from.size_hint(),
        }
    }
}

/// An answer's body; its line is logged when it ends.
#[derive(Debug)]
pub enum Outgoing {
    Own(Option<Bytes>, Box<Record>),
    Relayed(Box<Relay>),
}

/// An upstream's body on its way to the client.
#[derive(Debug)]
pub struct Relay {
    /// What has come with the head.
    first: Option<Frame<Bytes>>,
    from: Received,
    record: Record,
    link: Option<Link>,
    sent: Flag,
}

impl Relay {
    pub fn new(first: Option<Frame<Bytes>>, from: Received, record: Record, link: Link, sent: Flag) -> Relay {
        let mut relay = Relay { first, from, record, link: Some(link), sent };
        if relay.first.is_none() && relay.from.is_end_stream() {
            relay.finish();
        }
        relay
    }

    /// The upstream has said everything: its connection is free.
    fn finish(&mut self) {
        if let Some(link) = self.link.take()
            && self.sent.is_set()
        {
            link.keep(&self.record.talk().worker);
        }
    }

    fn is_over(&self) -> bool {
        self.first.is_none() && self.from.is_end_stream()
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let relay = match self.get_mut() {
            Outgoing::Own(text, record) => {
                let text = text.take();
                record.bytes += text.as_ref().map_or(0, |text| text.len() as u64);
                return Poll::Ready(text.map(|text| Ok(Frame::data(text))));
            }
            Outgoing::Relayed(relay) => relay,
        };
        let next = match relay.first.take() {
            Some(first) => Some(Ok(first)),
            None => match Pin::new(&mut relay.from).poll_frame(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    relay.record.talk().waits.set(true);
                    return Poll::Pending;
                }
            },
        };
        relay.record.talk().waits.set(false);
        relay.record.talk().moves();
        match &next {
            Some(Ok(frame)) => {
                relay.record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if relay.is_over() {
                    relay.finish();
                }
            }
            // What was cut short is of no use, and hyper lets go of it.
            Some(Err(_)) => relay.link = None,
            None => relay.finish(),
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Outgoing::Own(text, _) => text.is_none(),
            Outgoing::Relayed(relay) => relay.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Own(text, _) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Outgoing::Relayed(relay) => {
                let first = relay.first.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
                let rest = relay.from.size_hint();
                let mut whole = SizeHint::new();
                whole.set_lower(rest.lower() + first);
                if let Some(upper) = rest.upper() {
                    whole.set_upper(upper + first);
                }
                whole
            }
        }
    }
}
