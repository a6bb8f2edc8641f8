//! Tokens that requests and sidecars carry, and the keys that prove them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use weft_core::jwt::{prove, read_key_set};
use weft_core::model::{ClaimName, Forwarding, HeaderName, TokenProvider};

use crate::texts;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"ec","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// A token as it is sent.
pub fn token(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        read(text);
    }
}

/// A token's header in the first line and its claims after it, as if somebody had signed them.
pub fn said(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n').map(|part| URL_SAFE_NO_PAD.encode(part));
    let (header, claims) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    read(&format!("{header}.{claims}.c2lnbmVk"));
}

/// Whatever is proved is of our issuer and good still, and what is told of it in a header ends none; nothing is proved that is
/// not signed.
fn read(text: &str) {
    let provider = provider();
    let one = || std::iter::once(&provider);
    assert!(prove(text, one(), NOW, &|_, _, _, _| false).is_err());
    assert!(prove(text, one(), NOW, &weft_certs::is_signed).is_err());
    let Ok(proved) = prove(text, one(), NOW, &|_, _, _, _| true) else { return };
    assert!(proved.until > NOW && proved.claims.text(&["iss"]) == Some("https://id.example"));
    for name in ["sub", "scope", "groups", "kubernetes.io", "realm.roles"] {
        let name = name.parse().expect("a claim's name");
        if let Some(header) = proved.claims.in_header(&name) {
            assert!(header.bytes().all(|byte| byte.is_ascii_graphic()), "{header:?}");
        }
    }
}

fn provider() -> TokenProvider {
    TokenProvider {
        issuer: "https://id.example".into(),
        audiences: vec!["weft".into()],
        keys: read_key_set(KEYS.as_bytes()).expect("keys"),
        places: Vec::new(),
        forwarding: Forwarding::Keep,
        claim_headers: Vec::new(),
        skew: Duration::from_secs(10),
    }
}

pub fn tokens() -> Vec<Vec<u8>> {
    let encode = |said: &Vec<u8>| {
        let parts = said.split(|byte| *byte == b'\n').map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{}.c2lnbmVk", parts.collect::<Vec<_>>().join("."))
    };
    let mut seeds: Vec<_> = sayings().iter().map(|said| encode(said).into_bytes()).collect();
    seeds.extend(texts(&["a.b.c.d.e", "..", "eyJhbGciOiJub25lIn0.e30."]));
    seeds
}

pub fn sayings() -> Vec<Vec<u8>> {
    texts(&[
        "{\"alg\":\"ES256\",\"kid\":\"ec\"}\n{\"iss\":\"https://id.example\",\"aud\":[\"weft\"],\"exp\":1900000000,\"scope\":\"a b\",\"sub\":\"x,\\n\"}",
        "{\"alg\":\"EdDSA\",\"typ\":\"JWT\"}\n{\"iss\":\"https://id.example\",\"aud\":\"weft\",\"exp\":1.9e9,\"nbf\":1,\"iat\":1,\"sub\":\"system:serviceaccount:a:b\",\"kubernetes.io\":{\"namespace\":\"a\",\"pod\":{\"name\":\"p\"}},\"groups\":[1,true,null,[\"x\"]],\"realm\":{\"roles\":\"r\"}}",
        "{\"alg\":\"none\",\"crit\":[\"b64\"]}\n{\"iss\":1}",
    ])
}

/// The name of a header match in the first line, and claims after it that somebody proved: what names a claim is written as it was
/// read, and the claim fits what is seen of it and nothing else.
pub fn claim_match(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (name, said) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Some(Ok(claim)) = str::from_utf8(name).ok().and_then(ClaimName::of_match) else { return };
    let spelt = claim.as_match();
    assert_eq!(ClaimName::of_match(&spelt), Some(Ok(claim.clone())), "{spelt}");
    assert!(spelt.parse::<HeaderName>().is_ok() || spelt.len() > 256, "{spelt}");
    let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
    let token = format!("{}.{}.c2lnbmVk", encode(b"{\"alg\":\"EdDSA\"}"), encode(said));
    let provider = provider();
    let Ok(proved) = prove(&token, std::iter::once(&provider), NOW, &|_, _, _, _| true) else { return };
    let mut seen = Vec::new();
    proved.claims.each_value(&claim, &mut |value| seen.push(value.as_bytes().to_vec()));
    assert_eq!(proved.claims.any_value(&claim, &|_| true), !seen.is_empty());
    assert!(seen.iter().all(|value| proved.claims.any_value(&claim, &|other| other == value)));
    assert!(!proved.claims.any_value(&claim, &|other| seen.iter().all(|value| value != other)));
}

pub fn claim_matches() -> Vec<Vec<u8>> {
    let said = "{\"iss\":\"https://id.example\",\"aud\":\"weft\",\"exp\":1.9e9,\"a\":{\"b\":[\"x\",1,true]},\"https://r\":\"\",\"scope\":\"a  b\"}";
    let names = [
        "weft-claim.a.b",
        "Weft-Claim.https%3A%2F%2Fr",
        "weft-claim.scope",
        "weft-claim.%C3%A9%25",
        "weft-claim.%FF",
        "x",
    ];
    names.iter().map(|name| format!("{name}\n{said}").into_bytes()).collect()
}

/// A set of keys: whatever is read of one can be tried.
pub fn key_set(bytes: &[u8]) {
    let Ok(keys) = read_key_set(bytes) else { return };
    assert!(!keys.is_empty() && keys.len() <= 100);
    for key in keys.iter().take(4) {
        for algorithm in ["RS256", "PS512", "ES256", "ES512", "EdDSA"] {
            let algorithm = algorithm.parse().expect("an algorithm");
            assert!(!weft_certs::is_signed(key, algorithm, b"message", b"no signature"));
        }
    }
}

pub fn key_sets() -> Vec<Vec<u8>> {
    let rsa = format!(
        "{{\"keys\":[{{\"kty\":\"RSA\",\"n\":\"{}\",\"e\":\"AQAB\",\"alg\":\"RS256\"}}]}}",
        "x".repeat(342)
    );
    texts(&[KEYS, &rsa, "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"},{\"d\":1}]}", "{\"keys\":{}}"])
}
