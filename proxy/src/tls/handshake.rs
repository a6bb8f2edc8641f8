//! The handshake, made by rustls without buffers of its own; then its keys are taken over by [`TlsStream`].

use std::fmt;
use std::io;

use bytes::{Buf as _, BytesMut};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CertificateError, CommonState, Error, ExtractedSecrets, OtherError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::record::{Fault, HEADER, Key};
use super::stream::TlsStream;
use crate::stream::Peeked;

/// Bytes made room for at a time.
const READ: usize = 4 * 1024;

/// Bytes of a handshake that may be waiting for their rest: a chain of certificates fits.
const MAX_WAITING: usize = 64 * 1024;

/// Where the keys after the first come from.
pub(super) enum Updates {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

/// What a handshake came to.
pub(super) struct Agreed {
    pub(super) stream: TlsStream,
    /// The peer's certificate, which has been verified.
    pub(super) certificate: Option<CertificateDer<'static>>,
    /// The protocol that was agreed on.
    pub(super) alpn: Option<Vec<u8>>,
}

/// Why rustls gave up, in words: which check failed, or what the peer's alert said.
#[derive(Debug)]
struct Refused(Error);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // Our own checks: rustls shows how they are built rather than what they say.
            Error::InvalidCertificate(CertificateError::Other(OtherError(check))) => {
                write!(f, "the peer's certificate is refused: {check}")?;
                let mut cause = check.source();
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

/// Why a handshake came to nothing, in one of a few words that metrics can be labelled with.
pub(super) fn reason(error: &io::Error) -> &'static str {
    let Some(Refused(error)) = error.get_ref().and_then(|inner| inner.downcast_ref()) else {
        return "closed";
    };
    match error {
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not-yet-valid",
            CertificateError::Revoked => "revoked",
            CertificateError::UnknownIssuer => "unknown-issuer",
            CertificateError::BadSignature => "bad-signature",
            CertificateError::BadEncoding => "malformed",
            _ => "identity",
        },
        Error::NoCertificatesPresented => "no-certificate",
        Error::PeerIncompatible(_) => "incompatible",
        Error::AlertReceived(_) => "refused-by-peer",
        _ => "protocol",
    }
}

fn refused(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Refused(error))
}

/// One side's part in a handshake.
pub(super) trait Side {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
    fn finish(self) -> Result<(ExtractedSecrets, Updates), Error>;
}

/// rustls has a type for each side, with the same methods.
macro_rules! side {
    ($connection:ty, $data:ty, $updates:path) => {
        impl Side for $connection {
            type Data = $data;

            fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
                self.process_tls_records(incoming)
            }

            fn common(&self) -> &CommonState {
                self
            }

            fn finish(self) -> Result<(ExtractedSecrets, Updates), Error> {
                let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
                Ok((secrets, $updates(Box::new(kernel))))
            }
        }
    };
}
side!(UnbufferedClientConnection, ClientConnectionData, Updates::Client);
side!(UnbufferedServerConnection, ServerConnectionData, Updates::Server);

impl Updates {
    pub(super) const fn is_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    /// The next key of what is sent.
    pub(super) fn sent(&mut self) -> Result<Key, Fault> {
        let next = match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        };
        let (sequence, secrets) = next.map_err(|_| Fault::Internal)?;
        Key::new(sequence, &secrets)
    }

    /// The next key of what is received.
    pub(super) fn received(&mut self) -> Result<Key, Fault> {
        let next = match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        };
        let (sequence, secrets) = next.map_err(|_| Fault::Internal)?;
        Key::new(sequence, &secrets)
    }
}

/// Makes the handshake on a connection of which the first bytes may have been read.
pub(super) async fn handshake<S: Side>(mut side: S, peer: Peeked) -> io::Result<Agreed> {
    let Peeked { ahead: mut incoming, mut tcp, .. } = peer;
    let mut outgoing = Vec::new();
    // rustls is shown whole records, one more at a time, so that it never opens one that comes after the handshake.
    let mut shown = 0;
    loop {
        let turn = turn(&mut side, &mut incoming, &mut shown, &mut outgoing);
        if !outgoing.is_empty() {
            let written = tcp.write_all(&outgoing).await;
            outgoing.clear();
            if turn.is_ok() {
                written?;
            }
        }
        if turn.map_err(refused)? {
            break;
        }
        loop {
            if let Some(end) = end_of_record(&incoming, shown) {
                shown = end;
                break;
            }
            if incoming.len() > MAX_WAITING {
                return Err(Fault::Overflow.into());
            }
            incoming.reserve(READ);
            if tcp.read_buf(&mut incoming).await? == 0 {
                let reason = "the peer closed the connection during the handshake";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
            }
        }
    }
    let certificate = side.common().peer_certificates().and_then(<[_]>::first).cloned();
    let alpn = side.common().alpn_protocol().map(<[u8]>::to_vec);
    let (secrets, updates) = side.finish().map_err(refused)?;
    Ok(Agreed { stream: TlsStream::new(tcp, &incoming, &secrets, updates)?, certificate, alpn })
}

/// Lets rustls go on until it needs more, or is done. What it wants sent is in `outgoing`, also where it fails: an alert.
fn turn<S: Side>(
    side: &mut S,
    incoming: &mut BytesMut,
    shown: &mut usize,
    outgoing: &mut Vec<u8>,
) -> Result<bool, Error> {
    loop {
        let UnbufferedStatus { discard, state, .. } =
            side.process(incoming.get_mut(..*shown).unwrap_or_default());
        let done = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut data, outgoing)?;
                None
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                None
            }
            Ok(ConnectionState::BlockedHandshake) => Some(false),
            Ok(ConnectionState::WriteTraffic(_)) => Some(true),
            Ok(_) => return Err(Error::General("data before the handshake was over".to_owned())),
            Err(error) => {
                incoming.advance(discard);
                last_words(side, incoming.get_mut(..*shown - discard).unwrap_or_default(), outgoing);
                return Err(error);
            }
        };
        incoming.advance(discard);
        *shown -= discard;
        match done {
            Some(true) if side.common().is_handshaking() => return Ok(false),
            Some(done) => return Ok(done),
            None => {}
        }
    }
}

/// The alert that says why. rustls asks for it to be sent before it looks at what came in again.
fn last_words<S: Side>(side: &mut S, incoming: &mut [u8], outgoing: &mut Vec<u8>) {
    if let Ok(ConnectionState::EncodeTlsData(mut alert)) = side.process(incoming).state {
        // Without it the peer sees the connection end.
        let _ = encode(&mut alert, outgoing);
    }
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> Result<(), Error> {
    let begin = outgoing.len();
    let room = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(needed)) => needed.required_size,
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Ok(()),
    };
    outgoing.resize(begin + room, 0);
    let written = data.encode(outgoing.get_mut(begin..).unwrap_or_default());
    let length = written.map_err(|error| Error::General(error.to_string()))?;
    outgoing.truncate(begin + length);
    Ok(())
}

/// Where the record that begins at `begin` ends; none: it is not all there.
fn end_of_record(bytes: &[u8], begin: usize) -> Option<usize> {
    let rest = bytes.get(begin..)?;
    let [_, _, _, high, low, ..] = *rest else { return None };
    let end = HEADER + usize::from(u16::from_be_bytes([high, low]));
    (rest.len() >= end).then_some(begin + end)
}
