//! gRPC's messages, in buffers that are small until a message is large, and small again after it: a control plane holds
//! thousands of streams that say nothing for most of the time.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// What a buffer has at first.
const BUFFER: usize = 1 << 10;
/// What is written before others have their turn; tonic's own default.
const TURN: usize = 32 << 10;

/// The codec of all of our services.
#[derive(Debug)]
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

/// Writes messages.
#[derive(Debug)]
pub struct ExactEncoder<T>(PhantomData<T>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ExactEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ExactEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, TURN))
    }
}

impl<T: Message> Encoder for ExactEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Else it grows by doubling, and what is left over of a large message stays as long as the stream.
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, TURN)
    }
}
