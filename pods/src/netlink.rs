//! A blocking netlink socket: one request or one batch, and every answer to it.
//!
//! The kernel works a request off within `send`, so its answers are already queued when `send` returns and nothing here
//! waits for anybody. The socket belongs to the network namespace of the thread that opens it.

use std::borrow::Cow;
use std::io;
use std::marker::PhantomData;

use netlink_packet_core::{
    DecodeError, DoneMessage, ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
    parse_string,
};
use netlink_sys::{Socket, SocketAddr};

use crate::error::{Attempt as _, Error, Result};

/// The most the kernel puts into one answer (`NLMSG_GOODSIZE` is far below).
const ANSWER_LIMIT: usize = 64 * 1024;
/// The size of a netlink header, which an error answer repeats before its attributes.
const HEADER_LEN: usize = 16;
/// `NLMSGERR_ATTR_MSG`: the kernel's reason in words.
const ATTR_MESSAGE: u16 = 1;

/// What a request is called in errors: it reads after "cannot".
pub(crate) type What = Cow<'static, str>;

/// One message of a request, and what it is for.
pub(crate) struct Request<M> {
    pub(crate) what: What,
    pub(crate) flags: u16,
    pub(crate) message: M,
}

/// A connection to one of the kernel's netlink families, speaking messages of type `M`.
#[derive(Debug)]
pub(crate) struct Netlink<M> {
    socket: Socket,
    speaks: PhantomData<fn() -> M>,
}

impl<M> Netlink<M>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    /// Connects, in the calling thread's network namespace.
    pub(crate) fn open(protocol: isize) -> Result<Self> {
        let mut socket = Socket::new(protocol).attempt("open a netlink socket")?;
        socket.bind_auto().attempt("bind a netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).attempt("connect a netlink socket")?;
        // Reasons in words, and errors that do not repeat the whole request: kernels from before 4.12 have neither.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self { socket, speaks: PhantomData })
    }

    /// Asks for one thing and waits until it is done.
    pub(crate) fn request(&self, what: impl Into<What>, flags: u16, message: M) -> Result<()> {
        self.exchange(&what.into(), flags | NLM_F_ACK, message).map(drop)
    }

    /// Asks for one object.
    pub(crate) fn get(&self, what: impl Into<What>, message: M) -> Result<Option<M>> {
        Ok(self.exchange(&what.into(), NLM_F_ACK, message)?.pop())
    }

    /// Asks for all there is.
    pub(crate) fn dump(&self, what: impl Into<What>, message: M) -> Result<Vec<M>> {
        self.exchange(&what.into(), NLM_F_DUMP, message)
    }

    /// Sends many messages as one datagram and waits for each one that wants an answer; the first error ends it.
    pub(crate) fn batch(&self, requests: Vec<Request<M>>) -> Result<()> {
        let mut datagram = Vec::new();
        let mut names = Vec::with_capacity(requests.len());
        let mut unanswered = 0_usize;
        for (sequence, request) in (1_u32..).zip(requests) {
            unanswered += usize::from(request.flags & NLM_F_ACK != 0);
            serialize(&mut datagram, sequence, request.flags, request.message);
            names.push(request.what);
        }
        let unknown = Cow::Borrowed("change the kernel's tables");
        self.send(&datagram, names.first().unwrap_or(&unknown))?;
        while unanswered > 0 {
            for answer in self.receive(&unknown)? {
                let named = usize::try_from(answer.header.sequence_number)
                    .ok()
                    .and_then(|n| names.get(n.checked_sub(1)?));
                let what = named.unwrap_or(&unknown);
                if let NetlinkPayload::Error(error) = &answer.payload {
                    refused(what, &answer.header, error)?;
                    unanswered = unanswered.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    fn exchange(&self, what: &What, flags: u16, message: M) -> Result<Vec<M>> {
        let mut datagram = Vec::new();
        serialize(&mut datagram, 1, flags, message);
        self.send(&datagram, what)?;
        let mut objects = Vec::new();
        loop {
            for answer in self.receive(what)? {
                match answer.payload {
                    NetlinkPayload::InnerMessage(object) => objects.push(object),
                    NetlinkPayload::Error(error) => {
                        refused(what, &answer.header, &error)?;
                        return Ok(objects);
                    }
                    NetlinkPayload::Done(done) => {
                        dumped(what, &done)?;
                        return Ok(objects);
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&self, datagram: &[u8], what: &What) -> Result<()> {
        self.socket.send(datagram, 0).attempt(what.clone()).map(drop)
    }

    /// Reads one datagram and takes it apart into messages.
    fn receive(&self, what: &What) -> Result<Vec<NetlinkMessage<M>>> {
        let mut datagram = Vec::with_capacity(ANSWER_LIMIT);
        self.socket.recv(&mut datagram, 0).attempt(what.clone())?;
        let unreadable = |source: DecodeError| Error::Answer { attempt: what.clone(), source };
        let mut rest = datagram.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest).map_err(unreadable)?;
            // Messages are aligned to four bytes; the last may end unaligned.
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).max(HEADER_LEN);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }
}

fn serialize<M: NetlinkSerializable>(datagram: &mut Vec<u8>, sequence: u32, flags: u16, message: M) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    if let Some(space) = datagram.get_mut(start..) {
        message.serialize(space);
    }
}

/// An acknowledgement is an error message with code 0.
fn refused(what: &What, header: &NetlinkHeader, error: &ErrorMessage) -> Result<()> {
    let Some(code) = error.code else { return Ok(()) };
    let attributes = if header.flags & NLM_F_ACK_TLVS == 0 { None } else { error.header.get(HEADER_LEN..) };
    Err(failure(what, code.get(), attributes.unwrap_or_default()))
}

fn dumped(what: &What, done: &DoneMessage) -> Result<()> {
    if done.code == 0 { Ok(()) } else { Err(failure(what, done.code, &done.extended_ack)) }
}

fn failure(what: &What, code: i32, attributes: &[u8]) -> Error {
    let source = io::Error::from_raw_os_error(code.saturating_abs());
    let reason = NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == ATTR_MESSAGE)
        .and_then(|attribute| parse_string(attribute.value()).ok());
    match reason {
        Some(reason) => Error::Refused { attempt: what.clone(), reason, source },
        None => Error::System { attempt: what.clone(), source },
    }
}
