//! One gRPC stream on a connection of its own, in one task: HTTP/2 (RFC 9113) as far as such a stream needs it.
//!
//! The sidecars share two cores with what is measured. A client for everything has three tasks for this, and what it costs to
//! wake them in turn would be measured along.

use anyhow::Context as _;
use bytes::{Buf as _, BufMut as _, BytesMut};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::client::TlsStream;
use weft_proto::v1;

use crate::wire::Counted;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
const GRPC_HEADER: usize = 5;
/// What one side may send before it is allowed more, and the most that may be allowed (section 6.9.1 and .2).
const FIRST_WINDOW: u32 = 65_535;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// The flag of a ping or of settings that answers one.
const ACK: u8 = 1;
/// The flag of data or headers that are the last.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The stream.
pub(crate) struct Stream {
    io: TlsStream<Counted>,
    /// Frames that are not whole yet.
    frames: BytesMut,
    /// Messages that are not whole yet.
    messages: BytesMut,
    /// What is to be sent.
    out: BytesMut,
    /// Bytes that may be sent: on the connection, which of the two windows is the smaller.
    credit: i64,
}

impl Stream {
    /// Opens it; nothing has been sent before what is flushed next.
    pub(crate) fn open(io: TlsStream<Counted>) -> Self {
        let mut out = BytesMut::with_capacity(4096);
        out.put_slice(PREFACE);
        head(&mut out, 6, SETTINGS, 0, 0);
        // SETTINGS_INITIAL_WINDOW_SIZE (section 6.5.2).
        out.put_u16(4);
        out.put_u32(LARGEST_WINDOW);
        head(&mut out, 4, WINDOW_UPDATE, 0, 0);
        out.put_u32(LARGEST_WINDOW - FIRST_WINDOW);
        let fields = fields();
        head(&mut out, fields.len(), HEADERS, END_HEADERS, 1);
        out.put_slice(&fields);
        let (frames, messages) = (BytesMut::new(), BytesMut::new());
        Self { io, frames, messages, out, credit: FIRST_WINDOW.into() }
    }

    /// Says this with the next flush.
    pub(crate) fn say(&mut self, message: v1::sidecar_message::Message) -> anyhow::Result<()> {
        let message = v1::SidecarMessage { message: Some(message) };
        let length = message.encoded_len();
        self.credit -= i64::try_from(GRPC_HEADER + length)?;
        anyhow::ensure!(self.credit >= 0, "more to say than may be sent");
        head(&mut self.out, GRPC_HEADER + length, DATA, 0, 1);
        self.out.put_u8(0);
        self.out.put_u32(u32::try_from(length)?);
        message.encode(&mut self.out)?;
        Ok(())
    }

    /// Sends what was said.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        while self.out.has_remaining() {
            self.io.write_buf(&mut self.out).await?;
        }
        Ok(self.io.flush().await?)
    }

    /// The next message. May be given up and asked again.
    pub(crate) async fn message(&mut self) -> anyhow::Result<v1::ControlMessage> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(message);
            }
            self.flush().await?;
            anyhow::ensure!(self.io.read_buf(&mut self.frames).await? > 0, "the connection ended");
            while self.frame()? {}
        }
    }

    /// A message that is there.
    fn whole(&mut self) -> anyhow::Result<Option<v1::ControlMessage>> {
        let Some(length) = self.messages.get(1..GRPC_HEADER).map(|mut length| length.get_u32()) else {
            return Ok(None);
        };
        let length = usize::try_from(length)?;
        if self.messages.len() < GRPC_HEADER + length {
            return Ok(None);
        }
        self.messages.advance(GRPC_HEADER);
        Ok(Some(v1::ControlMessage::decode(self.messages.split_to(length))?))
    }

    /// Takes a frame, if there is a whole one.
    fn frame(&mut self) -> anyhow::Result<bool> {
        let Some(mut header) = self.frames.get(..FRAME_HEADER) else { return Ok(false) };
        let length = usize::try_from(header.get_uint(3))?;
        let (kind, flags) = (header.get_u8(), header.get_u8());
        if self.frames.len() < FRAME_HEADER + length {
            return Ok(false);
        }
        self.frames.advance(FRAME_HEADER);
        let mut payload = self.frames.split_to(length);
        match kind {
            DATA => self.messages.unsplit(payload),
            HEADERS => anyhow::ensure!(flags & END_STREAM == 0, "refused; the control plane's log says why"),
            SETTINGS if flags & ACK == 0 => head(&mut self.out, 0, SETTINGS, ACK, 0),
            PING if flags & ACK == 0 => {
                head(&mut self.out, length, PING, ACK, 0);
                self.out.put(payload);
            }
            // Of the stream or the connection: too little is allowed for, never too much.
            WINDOW_UPDATE => self.credit += i64::from(payload.try_get_u32().context("a short frame")?) / 2,
            RESET => anyhow::bail!("the control plane gave the stream up"),
            GOAWAY => anyhow::bail!("the control plane ends the connection"),
            _ => {}
        }
        Ok(true)
    }
}

fn head(out: &mut BytesMut, length: usize, kind: u8, flags: u8, stream: u32) {
    let [.., high, middle, low] = length.to_be_bytes();
    out.put_slice(&[high, middle, low, kind, flags]);
    out.put_u32(stream);
}

/// The request's header (RFC 7541): POST and http of the static table, the others as text, of which none is 127 bytes long.
fn fields() -> Vec<u8> {
    let mut fields = vec![0x83, 0x86];
    for text in [
        // `:path` and `:authority` have their names in the table, the others are new.
        &[b"\x04".as_slice(), b"/weft.v1.Discovery/Sync"][..],
        &[b"\x01", b"control-plane.weft.internal"],
        &[b"\x00", b"content-type", b"application/grpc"],
        &[b"\x00", b"te", b"trailers"],
    ] {
        let Some((prefix, texts)) = text.split_first() else { continue };
        fields.extend_from_slice(prefix);
        for text in texts {
            fields.extend(u8::try_from(text.len()));
            fields.extend_from_slice(text);
        }
    }
    fields
}
