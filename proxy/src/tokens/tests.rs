//! Tokens of every kind, good and dishonest, signed by real keys.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use aws_lc_rs::{hmac, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value as Json, json};
use weft_core::jwt::read_key_set;
use weft_core::model::{ConcurrencyMode, Name};

use super::*;

/// An issuer's keys, one of each kind, named by it.
struct Issuer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

impl Issuer {
    fn new() -> Self {
        let ec = |how: &'static EcdsaSigningAlgorithm| EcdsaKeyPair::generate(how).unwrap();
        Self {
            rsa: rsa::KeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256: ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
            p521: ec(&ECDSA_P521_SHA512_FIXED_SIGNING),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }

    fn modulus(&self) -> Vec<u8> {
        self.rsa.public_key().modulus().big_endian_without_leading_zero().to_vec()
    }

    fn key_set(&self) -> Json {
        let ec = |name: &str, curve: &str, key: &EcdsaKeyPair| {
            let point = key.public_key().as_ref()[1..].to_vec();
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kid": name, "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
        };
        let rsa = json!({"kty": "RSA", "n": encode(self.modulus()), "e": "AQAB"});
        let named = |name: &str, more: Json| {
            let mut key = rsa.clone();
            key["kid"] = json!(name);
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            key
        };
        json!({"keys": [
            named("rsa", json!({})),
            named("rs256-only", json!({"alg": "RS256"})),
            ec("p256", "P-256", &self.p256),
            ec("p384", "P-384", &self.p384),
            ec("p521", "P-521", &self.p521),
            {"kid": "ed", "kty": "OKP", "crv": "Ed25519", "x": encode(self.ed.public_key())},
        ]})
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |how: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(how, &random, message, &mut signature).unwrap();
            signature
        };
        let ec = |key: &EcdsaKeyPair| key.sign(&random, message).unwrap().as_ref().to_vec();
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => ec(&self.p256),
            "ES384" => ec(&self.p384),
            "ES512" => ec(&self.p521),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            // The classic: the public key as everyone's secret.
            "HS256" => {
                let secret = hmac::Key::new(hmac::HMAC_SHA256, &self.modulus());
                hmac::sign(&secret, message).as_ref().to_vec()
            }
            _ => b"x".to_vec(),
        }
    }

    /// A token with this header and these claims as they are written, signed as the header's `alg` says.
    fn token_of(&self, algorithm: &str, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.sign(algorithm, signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }

    fn token(&self, header: Json, claims: Json) -> String {
        let algorithm = header["alg"].as_str().unwrap_or_default().to_owned();
        self.token_of(&algorithm, header.to_string(), claims.to_string())
    }
}

fn claims() -> Json {
    json!({"iss": "https://id", "aud": "web", "sub": "ann", "exp": now() + 600})
}

fn with(more: Json) -> Json {
    let mut claims = claims();
    for (name, value) in more.as_object().unwrap() {
        match value {
            Json::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn workload(keys: &Json) -> Arc<Workload> {
    let provider = |issuer: &str, keys: &Json| TokenProvider {
        issuer: issuer.to_owned(),
        audiences: vec!["web".to_owned(), "api".to_owned()],
        keys: read_key_set(keys.to_string().as_bytes()).unwrap_or_default(),
        places: vec![
            TokenPlace::Header { name: "authorization".to_owned(), prefix: "Bearer ".to_owned() },
            TokenPlace::Parameter("access_token".to_owned()),
        ],
        forwarding: Forwarding::Strip,
        claim_headers: vec![("sub".parse().unwrap(), "x-user".to_owned())],
        skew: Duration::from_secs(60),
    };
    let policy = TokenPolicy {
        name: "default/users".parse().unwrap(),
        ports: Vec::new(),
        presence: Presence::Required,
        providers: vec![provider("https://id", keys), provider("https://keyless", &json!({"keys": []}))],
    };
    let name: Name = "web".parse().unwrap();
    Arc::new(Workload {
        name: "default/web".parse().unwrap(),
        service_account: name,
        ports: Vec::new(),
        policies: Vec::new(),
        limits: Vec::new(),
        tokens: vec![Arc::new(policy)],
        concurrency: ConcurrencyMode::Off,
        mtls: None,
        checks: Vec::new(),
    })
}

/// What a token proves, asked of a worker that knows none yet.
fn prove_by(workload: &Arc<Workload>, token: &str) -> Result<String, &'static str> {
    let policy = &workload.tokens[0];
    let place = &policy.providers[0].places[0];
    let proved = ProvedTokens::default().recall(policy, place, token);
    proved.map(|proved| proved.claims.in_header(&"sub".parse().unwrap()).unwrap()).map_err(Flaw::as_str)
}

#[test]
fn tokens_of_every_algorithm_are_proved() {
    let issuer = Issuer::new();
    let workload = workload(&issuer.key_set());
    for (algorithm, key) in [
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
        ("RS256", "rs256-only"),
        ("ES256", "p256"),
        ("ES384", "p384"),
        ("ES512", "p521"),
        ("EdDSA", "ed"),
    ] {
        let token = issuer.token(json!({"alg": algorithm, "kid": key, "typ": "JWT"}), claims());
        assert_eq!(prove_by(&workload, &token), Ok("ann".to_owned()), "{algorithm} by {key}");
        let unnamed = issuer.token(json!({"alg": algorithm}), claims());
        assert_eq!(
            prove_by(&workload, &unnamed),
            Ok("ann".to_owned()),
            "{algorithm} by a key without a name"
        );
        // Any bit of it may be another.
        let mut spoilt = token.clone().into_bytes();
        let last = spoilt.len() - 10;
        spoilt[last] = if spoilt[last] == b'A' { b'B' } else { b'A' };
        let spoilt = String::from_utf8(spoilt).unwrap();
        assert_eq!(prove_by(&workload, &spoilt), Err("bad-signature"), "{algorithm} spoilt");
    }
}

#[test]
fn good_tokens_come_in_many_forms() {
    let issuer = Issuer::new();
    let workload = workload(&issuer.key_set());
    let es256 = || json!({"alg": "ES256", "kid": "p256"});
    for (name, header, claims) in [
        ("an audience among others", es256(), with(json!({"aud": ["other", "api"]}))),
        ("expired within the skew", es256(), with(json!({"exp": now() - 30}))),
        ("from a clock ahead", es256(), with(json!({"iat": now() + 30, "nbf": now() + 30}))),
        (
            "times with fractions",
            es256(),
            with(json!({"exp": now() as f64 + 100.5, "iat": now() as f64 - 0.5})),
        ),
        ("an access token's type", json!({"alg": "ES256", "typ": "application/at+JWT"}), claims()),
        ("a header with unknown members", json!({"alg": "ES256", "x": 1}), claims()),
        (
            "a key that the token brings along is not looked at",
            json!({"alg": "ES256", "jku": "https://evil", "jwk": {}}),
            claims(),
        ),
    ] {
        assert_eq!(prove_by(&workload, &issuer.token(header, claims)), Ok("ann".to_owned()), "{name}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one line a token")]
fn dishonest_tokens_are_refused_each_for_its_own_reason() {
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let workload = workload(&issuer.key_set());
    let es256 = || json!({"alg": "ES256", "kid": "p256"});
    let good = issuer.token(es256(), claims());
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let of = |header: Json, claims: Json| issuer.token(header, claims);
    let raw = |header: &str, claims: &[u8]| issuer.token_of("ES256", header, claims);
    let text = claims().to_string();
    let twice = text.replacen('{', "{\"sub\":\"root\",", 1);
    let deep = text.replacen('{', &format!("{{\"a\":{}{},", "[".repeat(40), "]".repeat(40)), 1);
    let table: Vec<(&str, String, &str)> = vec![
        ("nothing", String::new(), "not-compact"),
        ("one part", header.to_owned(), "not-compact"),
        ("two parts", format!("{header}.{payload}"), "not-compact"),
        ("four parts", format!("{good}.x"), "not-compact"),
        ("a thousand parts", ".".repeat(1_000), "not-compact"),
        ("encrypted", "a.b.c.d.e".to_owned(), "encrypted"),
        ("padding", format!("{header}=.{payload}.{signature}"), "bad-encoding"),
        ("the other base64", format!("{header}.{payload}.++//"), "bad-encoding"),
        ("a space within", format!("{header}.{payload}. {signature}"), "bad-encoding"),
        ("a header that is no JSON", raw("alg=ES256", text.as_bytes()), "not-json"),
        ("a header that is a list", raw("[]", text.as_bytes()), "not-json"),
        (
            "claims that are no text",
            raw("{\"alg\":\"ES256\"}", b"{\"iss\":\"https://id\",\"a\":\"\xff\"}"),
            "not-json",
        ),
        (
            "claims with something after them",
            raw("{\"alg\":\"ES256\"}", format!("{text}{{}}").as_bytes()),
            "not-json",
        ),
        ("claims that are too deep", raw("{\"alg\":\"ES256\"}", deep.as_bytes()), "not-json"),
        ("a claim twice", raw("{\"alg\":\"ES256\"}", twice.as_bytes()), "duplicate-name"),
        (
            "an algorithm twice",
            raw("{\"alg\":\"ES256\",\"alg\":\"none\"}", text.as_bytes()),
            "duplicate-name",
        ),
        ("no algorithm", of(json!({"kid": "p256"}), claims()), "no-algorithm"),
        ("an algorithm that is no text", of(json!({"alg": 5}), claims()), "no-algorithm"),
        ("alg none", of(json!({"alg": "none"}), claims()), "unsigned"),
        ("alg nOnE, no signature", format!("{}.{payload}.", encode("{\"alg\":\"nOnE\"}")), "unsigned"),
        ("the public key as a secret", of(json!({"alg": "HS256", "kid": "rsa"}), claims()), "shared-secret"),
        ("an algorithm of another case", of(json!({"alg": "es256"}), claims()), "unknown-algorithm"),
        ("an unknown algorithm", of(json!({"alg": "ES256K"}), claims()), "unknown-algorithm"),
        ("critical extensions", of(json!({"alg": "ES256", "crit": ["exp"]}), claims()), "critical-header"),
        ("an unencoded payload", of(json!({"alg": "ES256", "b64": false}), claims()), "critical-header"),
        ("a token within", of(json!({"alg": "ES256", "cty": "JWT"}), claims()), "nested"),
        ("another purpose", of(json!({"alg": "ES256", "typ": "logout+jwt"}), claims()), "wrong-type"),
        ("a type that is no text", of(json!({"alg": "ES256", "typ": 1}), claims()), "wrong-type"),
        ("an unknown key", of(json!({"alg": "ES256", "kid": "p257"}), claims()), "unknown-key"),
        ("a key's name that is none", of(json!({"alg": "ES256", "kid": ["p256"]}), claims()), "unknown-key"),
        ("a key of another kind", of(json!({"alg": "ES256", "kid": "rsa"}), claims()), "wrong-key"),
        ("a key of another curve", of(json!({"alg": "ES384", "kid": "p256"}), claims()), "wrong-key"),
        (
            "a key for another algorithm",
            of(json!({"alg": "PS256", "kid": "rs256-only"}), claims()),
            "wrong-key",
        ),
        ("another's signature", stranger.token(es256(), claims()), "bad-signature"),
        (
            "another's signature by no named key",
            stranger.token(json!({"alg": "RS256"}), claims()),
            "bad-signature",
        ),
        ("no signature", format!("{header}.{payload}."), "bad-signature"),
        ("half a signature", format!("{header}.{payload}.{}", encode([7; 32])), "bad-signature"),
        (
            "a signature of nothing but zeros",
            format!("{header}.{payload}.{}", encode([0; 64])),
            "bad-signature",
        ),
        (
            "other claims under the signature",
            format!("{header}.{}.{signature}", encode(with(json!({"sub": "root"})).to_string())),
            "bad-signature",
        ),
        ("another issuer", of(es256(), with(json!({"iss": "https://evil"}))), "wrong-issuer"),
        ("an issuer with a slash more", of(es256(), with(json!({"iss": "https://id/"}))), "wrong-issuer"),
        ("no issuer", of(es256(), with(json!({"iss": null}))), "wrong-issuer"),
        ("an issuer that is a list", of(es256(), with(json!({"iss": ["https://id"]}))), "claim-type"),
        ("an issuer without keys", of(es256(), with(json!({"iss": "https://keyless"}))), "no-keys"),
        ("another audience", of(es256(), with(json!({"aud": "other"}))), "wrong-audience"),
        ("part of an audience", of(es256(), with(json!({"aud": "we"}))), "wrong-audience"),
        ("audiences in one text", of(es256(), with(json!({"aud": "web api"}))), "wrong-audience"),
        ("no audience", of(es256(), with(json!({"aud": null}))), "wrong-audience"),
        ("no audiences", of(es256(), with(json!({"aud": []}))), "wrong-audience"),
        ("audiences of all kinds", of(es256(), with(json!({"aud": ["web", 1]}))), "claim-type"),
        ("an audience that is an object", of(es256(), with(json!({"aud": {"web": 1}}))), "claim-type"),
        ("expired", of(es256(), with(json!({"exp": now() - 61}))), "expired"),
        ("no expiry", of(es256(), with(json!({"exp": null}))), "no-expiry"),
        ("an expiry that is text", of(es256(), with(json!({"exp": "9999999999"}))), "claim-type"),
        ("an expiry before all time", of(es256(), with(json!({"exp": -1}))), "claim-type"),
        ("not valid yet", of(es256(), with(json!({"nbf": now() + 90}))), "not-yet-valid"),
        ("issued in the future", of(es256(), with(json!({"iat": now() + 90}))), "issued-later"),
        ("huge", of(es256(), with(json!({"x": "y".repeat(20_000)}))), "too-long"),
    ];
    assert!(table.len() >= 40);
    for (name, token, expected) in &table {
        assert_eq!(prove_by(&workload, token), Err(*expected), "{name}");
    }
}

#[test]
fn a_proved_token_is_not_proved_again_until_policies_change() {
    let issuer = Issuer::new();
    let before = workload(&issuer.key_set());
    let token = issuer.token(json!({"alg": "ES256", "kid": "p256"}), claims());
    let known = ProvedTokens::default();
    let recall = |workload: &Arc<Workload>, token: &str| {
        let policy = &workload.tokens[0];
        known.recall(policy, &policy.providers[0].places[0], token).is_ok()
    };
    assert!((0..3).all(|_| recall(&before, &token)));
    assert_eq!(known.checked.get(), 1);
    // The key was withdrawn.
    let mut keys = issuer.key_set();
    keys["keys"].as_array_mut().unwrap().retain(|key| key["kid"] != "p256");
    assert!(!recall(&workload(&keys), &token));
    // What proves nothing is not remembered, and what is remembered is bounded.
    for number in 0..REMEMBERED + 50 {
        let token =
            issuer.token(json!({"alg": "EdDSA", "kid": "ed"}), with(json!({"sub": number.to_string()})));
        assert!(recall(&before, &token));
    }
    assert_eq!(known.known.borrow().len(), REMEMBERED);
    assert!(!recall(&before, "x"));
    assert_eq!(known.known.borrow().len(), REMEMBERED);
}

#[test]
fn a_remembered_token_ends_with_its_time() {
    let issuer = Issuer::new();
    let workload = workload(&issuer.key_set());
    let known = ProvedTokens::default();
    let policy = &workload.tokens[0];
    let place = &policy.providers[0].places[0];
    let token = issuer.token(json!({"alg": "ES256"}), claims());
    known.recall(policy, place, &token).unwrap();
    known.known.borrow_mut().values_mut().for_each(|token| token.until = Duration::from_secs(1));
    known.recall(policy, place, &token).unwrap();
    assert_eq!(known.checked.get(), 2, "it is proved anew");
}
