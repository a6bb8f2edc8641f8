//! The codec against hyper's: whatever we take for a request, hyper takes for the same one.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;
use weft_core::path::Path;

use super::tests::{Read, read_all, request, text};

/// The first request that hyper finds in `bytes`, if its body comes whole.
fn hyper_reads(bytes: &[u8]) -> Option<Read> {
    let found: Rc<RefCell<Option<Read>>> = Rc::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let service = service_fn(|request: http::Request<Incoming>| {
            let found = Rc::clone(&found);
            async move {
                let (head, body) = request.into_parts();
                let collected = body.collect().await;
                let is_first = found.borrow().is_none();
                if let (Ok(collected), true) = (collected, is_first) {
                    let fields = |fields: &http::HeaderMap| -> Vec<_> {
                        let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                            (name.as_str().to_owned(), text(value.as_bytes()))
                        };
                        fields.iter().map(pair).collect()
                    };
                    *found.borrow_mut() = Some(Read {
                        method: head.method.to_string(),
                        target: head.uri.to_string(),
                        fields: fields(&head.headers),
                        trailers: collected.trailers().map(fields).unwrap_or_default(),
                        body: collected.to_bytes().to_vec(),
                    });
                }
                Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        drop(
            builder.half_close(true).keep_alive(false).serve_connection(TokioIo::new(server), service).await,
        );
    });
    found.take()
}

/// hyper keeps no case of names and no order across them; hop-by-hop framing it takes away itself. Dot segments, which we
/// resolve, it keeps.
fn normal(mut read: Read) -> Read {
    let resolved = Path::parse(read.target.as_bytes()).ok().map(|path| text(path.forwarded()));
    read.target = resolved.unwrap_or(read.target);
    for fields in [&mut read.fields, &mut read.trailers] {
        fields.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        fields.sort_by(|one, other| one.0.cmp(&other.0));
    }
    read
}

fn compare(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (ours, _) = read_all(bytes, usize::MAX / 2);
    if let Some(ours) = ours.into_iter().next() {
        prop_assert_eq!(hyper_reads(bytes).map(normal), Some(normal(ours)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_we_take_hyper_takes_for_the_same(
        one in request(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 0..SPECIAL.len()), 0..3),
    ) {
        let mut bytes = one.0;
        for (index, special) in damage {
            let index = index.index(bytes.len());
            bytes[index] = SPECIAL[special];
        }
        compare(&bytes)?;
    }
}

#[test]
fn a_dot_segment_is_no_difference() {
    compare(b"GET /__0a/_0a__aa-/-a_a/. HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    compare(b"GET /a/../b?q=. HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
}

/// Bytes that mean something in a head.
const SPECIAL: &[u8] = b"\r\n\t :;,/?#%.0aAx+-\0\x7f\xff";
