//! Whatever a peer sends, we answer with an error, never a panic.

use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use weft_certs::{Authority, KeyPair, peer_identity, pem, request, serial_of, sni, trust_domain_of};

use crate::support::{authority, id, wanted};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(authority);
static REQUEST: LazyLock<Vec<u8>> = LazyLock::new(|| request(&KeyPair::generate().unwrap()).unwrap());
static CERTIFICATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    AUTHORITY.sign(&REQUEST, &wanted("web", Duration::from_secs(60))).unwrap().chain.remove(0)
});

/// Some bytes of a good one replaced, or its end cut off.
fn damaged(good: &'static LazyLock<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let replaced = proptest::collection::vec((0..good.len(), any::<u8>()), 1..8);
    (replaced, 0..good.len() * 2).prop_map(move |(replaced, end)| {
        let mut bytes = good.to_vec();
        for (at, byte) in replaced {
            bytes[at] = byte;
        }
        bytes.truncate(end);
        bytes
    })
}

proptest! {
    #[test]
    fn random_bytes_are_no_certificate_and_no_request(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(peer_identity(&bytes).is_err());
        prop_assert!(serial_of(&bytes).is_err());
        prop_assert!(trust_domain_of(&bytes).is_err());
        prop_assert!(AUTHORITY.sign(&bytes, &wanted("web", Duration::from_secs(60))).is_err());
    }

    #[test]
    fn a_damaged_certificate_is_read_or_refused(bytes in damaged(&CERTIFICATE)) {
        let _ = (peer_identity(&bytes), serial_of(&bytes), trust_domain_of(&bytes));
    }

    #[test]
    fn a_damaged_request_gets_a_certificate_only_for_its_owner(bytes in damaged(&REQUEST)) {
        if let Ok(issued) = AUTHORITY.sign(&bytes, &wanted("web", Duration::from_secs(60))) {
            prop_assert_eq!(peer_identity(&issued.chain[0]).unwrap(), id("web"));
        }
    }

    #[test]
    fn any_text_is_pem_or_not(text in ".{0,400}") {
        let _ = (pem::certificates(&text), Authority::from_pem(&text).is_ok(), KeyPair::from_pem(&text).is_ok());
    }

    #[test]
    fn a_server_name_that_asks_for_a_port_is_the_one_we_make(name in "[pP]?[0-9]{0,6}\\.?[a-z.]{0,16}") {
        if let Some(port) = sni::port_of(&name) {
            prop_assert_eq!(sni::for_port(port).to_str().to_ascii_lowercase(), name.to_ascii_lowercase());
        }
    }
}
