//! Tokens of users: what a JwtAuthentication takes, what policies make of its claims, and where its keys come from.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use weft_tests::{App, HttpClient, Mesh, Options, Response, SidecarPod, eventually};

use crate::policy::{client, heard, named, orders};
use crate::{in_pods, weft};

const SOON: Duration = Duration::from_secs(5);

fn apply(mesh: &Mesh, kind: &str, name: &str, spec: &str) {
    let text =
        format!("apiVersion: weft.mesh/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}\n");
    let file = mesh.scratch().join("applied.yaml");
    fs::write(&file, text).expect("a file");
    mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
}

/// Signs tokens, by a key of this name.
struct Signer {
    id: &'static str,
    key: Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        Self { id, key: Ed25519KeyPair::generate().expect("a key") }
    }

    fn public(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x})
    }

    fn token(&self, issuer: &str, more: Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs();
        let mut claims = json!({"iss": issuer, "aud": "orders", "sub": "ann", "exp": now + 3_600});
        for (name, value) in more.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(json!({"alg": "EdDSA", "kid": self.id})), encode(claims));
        let signature = self.key.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// One request on a connection of its own.
fn ask(client: &SidecarPod, server: &SidecarPod, path: &str, more: &str) -> Response {
    client.run(|| {
        let mut connection = HttpClient::connect((server.address(), 8080)).expect("a connection");
        connection.get("orders", path, more).expect("an answer")
    })
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

#[test]
fn a_token_lets_in_and_its_claims_decide_and_limit() {
    in_pods!(a_token_lets_in_and_its_claims_decide_and_limit, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("orders", "orders:8080");
        let web = mesh.pod("web", "");
        let _app = App::echo(&server, 8080);
        let (signer, stranger) = (Signer::new("one"), Signer::new("one"));
        let keys = json!({"keys": [signer.public()]});
        let users = |required: &str, more: &str| {
            let spec = format!(
                "  targetRef: {{kind: Service, name: orders}}\n  required: {required}\n  providers:\n  - issuer: https://id\n    audiences: [orders]\n    jwks: {{inline: '{keys}'}}\n{more}"
            );
            apply(&mesh, "JwtAuthentication", "users", &spec);
        };
        users("true", "    claimHeaders: [{claim: sub, header: x-user}]\n");
        heard(&server, "default/users");

        let none = ask(&web, &server, "/", "");
        assert_eq!((none.status, none.header("weft-error")), (401, Some("unauthenticated")));
        assert_eq!(none.header("www-authenticate"), Some("Bearer realm=\"default/users\""));
        let bad = ask(&web, &server, "/", &bearer(&stranger.token("https://id", json!({}))));
        assert_eq!(bad.status, 401);
        assert_eq!(
            bad.header("www-authenticate"),
            Some(
                "Bearer realm=\"default/users\", error=\"invalid_token\", error_description=\"the token's signature is wrong\""
            )
        );
        let good = bearer(&signer.token("https://id", json!({"sub": "ann, or\r\nx: bob"})));
        let twice = ask(&web, &server, "/", &format!("{good}{good}"));
        assert_eq!(twice.status, 400, "{:?}", twice.header("www-authenticate"));
        let grpc = ask(&web, &server, "/", "content-type: application/grpc\r\n");
        assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("16")));
        let served = ask(&web, &server, "/", &format!("{good}x-user: root\r\n"));
        assert_eq!(served.status, 200);
        let told = served.text().to_ascii_lowercase();
        assert!(
            told.contains("\r\nx-user: ann%2c%20or%0d%0ax:%20bob\r\n")
                || told.contains("\nx-user: ann%2c%20or%0d%0ax:%20bob\n"),
            "{told}"
        );
        assert!(!told.contains("root") && told.contains("authorization: bearer"), "{told}");
        for (outcome, at_least) in
            [("missing", 2.0), ("bad-signature", 1.0), ("several-tokens", 1.0), ("proved", 1.0)]
        {
            let labels = ["policy=\"default/users\"", &*format!("outcome=\"{outcome}\"")];
            assert!(server.metric("weft_tokens_total", &labels) >= at_least, "{outcome}");
            let attribute = format!("weft.token.outcome={outcome}");
            eventually("a span says so", Duration::from_secs(30), || {
                let found = mesh.weft_json(&["traces", "--attribute", &attribute]);
                found.as_array().is_some_and(|found| !found.is_empty())
            });
        }

        // Claims decide.
        apply(
            &mesh,
            "AuthorizationPolicy",
            "readers",
            "  targetRef: {kind: Service, name: orders}\n  rules: [{when: [{claim: scope, values: [read]}]}]",
        );
        let scoped = |scope: &str| bearer(&signer.token("https://id", json!({"scope": scope})));
        eventually("the policy is in force", SOON, || {
            ask(&web, &server, "/", &scoped("write")).status == 403
        });
        assert_eq!(ask(&web, &server, "/", &scoped("write read")).status, 200);
        assert_eq!(ask(&web, &server, "/", &scoped("readers")).status, 403);

        // And limit.
        let limit = "  targetRef: {kind: Service, name: orders}\n  limits: [{requests: 2, per: 1h, key: ['claim:sub']}]";
        apply(&mesh, "RateLimit", "each-user", limit);
        heard(&server, "default/each-user");
        let user = |name: &str| bearer(&signer.token("https://id", json!({"sub": name, "scope": "read"})));
        let served =
            |name: &str| (0..5).filter(|_| ask(&web, &server, "/", &user(name)).status == 200).count();
        assert_eq!((served("bob"), served("eve")), (2, 2));

        // Where none is required, one that is sent must be good all the same; and the app need not see it.
        mesh.weft_ok(&["delete", "ratelimit", "each-user"]);
        mesh.weft_ok(&["delete", "authorizationpolicy", "readers"]);
        users("false", "    forward: Strip\n    fromParams: [access_token]\n");
        eventually("no token is required", SOON, || ask(&web, &server, "/", "").status == 200);
        assert_eq!(ask(&web, &server, "/?access_token=x", "").status, 401);
        let token = signer.token("https://id", json!({}));
        let served = ask(&web, &server, &format!("/a?b=1&access_token={token}&c=2"), "");
        assert!(served.text().starts_with("GET /a?b=1&c=2 HTTP/1.1"), "{}", served.text());
    });
}

/// An issuer that anyone may ask for its keys, over TLS.
struct Issuer {
    uri: String,
    authority: String,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicU64>,
}

impl Issuer {
    fn start(mesh: &Mesh) -> Self {
        let listener = mesh.in_hub(|| TcpListener::bind((mesh.address(), 0)).expect("a port"));
        let name = mesh.address().to_string();
        let made = rcgen::generate_simple_self_signed([name]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let settings = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("settings");
        let uri = format!("https://{}", listener.local_addr().expect("an address"));
        let issuer = Self { uri, authority: made.cert.pem(), keys: Arc::default(), asked: Arc::default() };
        let (settings, keys, asked, own) =
            (Arc::new(settings), issuer.keys.clone(), issuer.asked.clone(), issuer.uri.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (settings, keys, asked, own) =
                    (settings.clone(), keys.clone(), asked.clone(), own.clone());
                std::thread::spawn(move || {
                    let _ = answer(stream, settings, &keys, &asked, &own);
                });
            }
        });
        issuer
    }
}

fn answer(
    stream: TcpStream,
    settings: Arc<rustls::ServerConfig>,
    keys: &Mutex<Vec<Value>>,
    asked: &AtomicU64,
    own: &str,
) -> std::io::Result<()> {
    let connection = rustls::ServerConnection::new(settings).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(rustls::StreamOwned::new(connection, stream));
    let mut first = String::new();
    stream.read_line(&mut first)?;
    let mut line = String::new();
    while stream.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (status, more, body) = match first.split(' ').nth(1) {
        Some("/.well-known/openid-configuration") => {
            ("200 OK", String::new(), json!({"issuer": own, "jwks_uri": format!("{own}/moved")}).to_string())
        }
        Some("/moved") => ("302 Found", "location: /jwks\r\n".to_owned(), String::new()),
        Some("/inside") => {
            ("302 Found", "location: https://169.254.169.254/latest\r\n".to_owned(), String::new())
        }
        Some("/jwks") => {
            asked.fetch_add(1, Ordering::Relaxed);
            let keys = keys.lock().expect("the keys").clone();
            ("200 OK", String::new(), json!({"keys": keys}).to_string())
        }
        _ => ("404 Not Found", String::new(), String::new()),
    };
    write!(stream.get_mut(), "HTTP/1.1 {status}\r\n{more}content-length: {}\r\n\r\n{body}", body.len())?;
    stream.get_mut().flush()?;
    stream.get_mut().conn.send_close_notify();
    stream.get_mut().flush()?;
    let _ = stream.read(&mut [0]);
    Ok(())
}

#[test]
fn keys_are_fetched_from_the_issuer_renewed_when_a_token_names_a_new_one_and_kept() {
    in_pods!(keys_are_fetched_from_the_issuer_renewed_when_a_token_names_a_new_one_and_kept, || {
        let mut mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("orders", "orders:8080");
        let web = mesh.pod("web", "");
        let _app = App::echo(&server, 8080);
        let issuer = Issuer::start(&mesh);
        let (first, second) = (Signer::new("first"), Signer::new("second"));
        issuer.keys.lock().expect("the keys").push(first.public());
        let indented = |text: &str| text.lines().map(|line| format!("        {line}\n")).collect::<String>();
        let users = |mesh: &Mesh, jwks: &str| {
            let spec = format!(
                "  targetRef: {{kind: Service, name: orders}}\n  providers:\n  - issuer: {}\n    audiences: [orders]\n    jwks:\n{jwks}      ca: |\n{}",
                issuer.uri,
                indented(&issuer.authority)
            );
            apply(mesh, "JwtAuthentication", "users", &spec);
        };
        // Where the issuer says that its keys are, by way of a redirect.
        users(&mesh, "");
        let by =
            |signer: &Signer| ask(&web, &server, "/", &bearer(&signer.token(&issuer.uri, json!({})))).status;
        eventually("the keys have come", Duration::from_secs(20), || by(&first) == 200);
        assert_eq!(by(&second), 401);

        // A new key is fetched for, though not at every such token.
        issuer.keys.lock().expect("the keys").push(second.public());
        let before = issuer.asked.load(Ordering::Relaxed);
        eventually("the new key has come", Duration::from_secs(30), || by(&second) == 200);
        assert!(issuer.asked.load(Ordering::Relaxed) <= before + 4, "{before}");

        // Without an issuer, and over a restart, what was fetched last holds.
        issuer.keys.lock().expect("the keys").clear();
        mesh.kill_control_plane();
        mesh.start_control_plane();
        eventually("the control plane is back", Duration::from_secs(30), || {
            server.metric("weft_control_plane_connected", &[]) == 1.0
        });
        eventually("it has tried to fetch them", Duration::from_secs(30), || {
            mesh.control_plane_log().contains("keys cannot be fetched")
        });
        assert_eq!((by(&first), by(&second)), (200, 200));

        // Nothing is fetched from inside the machine's cloud, and without keys nothing is let in.
        users(&mesh, &format!("      uri: {}/inside\n", issuer.uri));
        eventually("the redirect is refused", Duration::from_secs(30), || {
            mesh.control_plane_log().contains("169.254.169.254, from where nothing is fetched")
        });
        assert_eq!((by(&first), by(&second)), (401, 401));
    });
}

const ROUTE: &str = "apiVersion: v1
kind: Service
metadata: {name: orders}
spec: {selector: {app: orders}, ports: [{port: 8080, appProtocol: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders}
spec:
  parentRefs: [{group: \"\", kind: Service, name: orders}]
  rules:
  - name: gold
    matches:
    - {headers: [{name: weft-claim.tier, value: gold}]}
    - {headers: [{name: weft-claim.realm.roles, type: RegularExpression, value: admin|root}]}
    backendRefs: [{name: orders-v2, port: 8080}]
  - {name: rest, backendRefs: [{name: orders-v1, port: 8080}]}
";

#[test]
fn a_route_is_chosen_by_a_claim_that_was_proved_and_the_server_judges_the_token_all_the_same() {
    in_pods!(
        a_route_is_chosen_by_a_claim_that_was_proved_and_the_server_judges_the_token_all_the_same,
        || {
            let mesh = Mesh::start(weft(), Options::default());
            let version = |name: &str| {
                let token = mesh.weft_ok(&["token", "create", "--service-account", name]);
                mesh.pod_with_token(
                    name,
                    &format!("{name}:8080:http"),
                    &token,
                    &[("WEFT_LABELS", "app=orders")],
                )
            };
            let (one, two) = (version("orders-v1"), version("orders-v2"));
            // The second says what it was asked.
            let (_one, _two) = (named(&one, "v1"), App::echo(&two, 8080));
            let web = client(&mesh, "");

            // Without anyone to prove the claim, no request has it.
            let file = mesh.scratch().join("route.yaml");
            fs::write(&file, ROUTE).expect("a file");
            let applied = mesh.weft(&["apply", "-f", file.to_str().expect("a path")]);
            let said = String::from_utf8_lossy(&applied.stderr).into_owned();
            assert!(
                applied.status.success() && said.contains("route.yaml:14: no request fits this"),
                "{said}"
            );

            let issuer = Issuer::start(&mesh);
            let (first, second, third) = (Signer::new("first"), Signer::new("second"), Signer::new("third"));
            issuer.keys.lock().expect("the keys").push(first.public());
            let spec = format!(
                "  targetRef: {{kind: Service, name: orders}}\n  providers:\n  - issuer: {}\n    audiences: [orders]\n    jwks:\n      uri: {0}/jwks\n      ca: |\n{}",
                issuer.uri,
                issuer.authority.lines().map(|line| format!("        {line}\n")).collect::<String>()
            );
            apply(&mesh, "JwtAuthentication", "users", &spec);
            let orders = orders(&mesh, &web);
            let get = |more: &str| {
                web.run(|| {
                    let mut connection = HttpClient::connect(orders).expect("a connection");
                    let answer = connection.get("orders:8080", "/", more).expect("an answer");
                    (answer.status, answer.text().to_ascii_lowercase())
                })
            };
            let by = |signer: &Signer, more: Value| get(&bearer(&signer.token(&issuer.uri, more)));
            let is_gold = |(status, text): (u16, String)| status == 200 && text.starts_with("get /");
            let gold = || json!({"tier": "gold"});
            eventually("the keys have come to both ends", Duration::from_secs(20), || {
                is_gold(by(&first, gold()))
            });

            // A claim that is nested, in a list, or another one; and a header that only looks like one.
            assert!(is_gold(by(&first, json!({"realm": {"roles": ["user", "root"]}}))));
            for other in [json!({"tier": "golden"}), json!({"realm": {"roles": ["roots"]}}), json!({})] {
                assert_eq!(by(&first, other), (200, "v1".to_owned()));
            }
            let silver = bearer(&first.token(&issuer.uri, json!({"tier": "silver"})));
            assert_eq!(get(&format!("{silver}weft-claim.tier: gold\r\n")), (200, "v1".to_owned()));
            let token = first.token(&issuer.uri, gold());
            let (status, heard) = get(&format!("{}Weft-Claim.tier: silver\r\n", bearer(&token)));
            assert!(
                status == 200 && heard.contains("authorization: bearer") && !heard.contains("weft-claim"),
                "{heard}"
            );

            // What proves nothing takes the rule for everyone, where the server's sidecar refuses it.
            let forger = Signer::new("first");
            let refused = |outcome: &str| {
                let labels = ["policy=\"default/users\"", &*format!("outcome=\"{outcome}\"")];
                [&one, &two].map(|pod| pod.metric("weft_tokens_total", &labels))
            };
            let cases = [
                ("bad-signature", bearer(&forger.token(&issuer.uri, gold()))),
                ("expired", bearer(&first.token(&issuer.uri, json!({"tier": "gold", "exp": 1_000_000_000})))),
                ("wrong-issuer", bearer(&first.token("https://evil", gold()))),
                ("several-tokens", format!("{}{}", bearer(&token), bearer(&token))),
                ("missing", "weft-claim.tier: gold\r\n".to_owned()),
            ];
            for (outcome, more) in cases {
                let before = refused(outcome);
                let status = get(&more).0;
                assert_eq!(status, if outcome == "several-tokens" { 400 } else { 401 }, "{outcome}");
                assert_eq!(refused(outcome), [before[0] + 1.0, before[1]], "{outcome}");
            }

            // The same is explained.
            let file = mesh.scratch().join("user.token");
            fs::write(&file, &token).expect("a file");
            let jwt = ["--jwt", file.to_str().expect("a path"), "-o", "json"];
            let told = mesh.weft_ok(&[&["explain", "--from", "client", "--to", "orders"], &jwt[..]].concat());
            let told: Value = serde_json::from_str(&told).expect("JSON");
            assert_eq!((&told["rule"], &told["decision"]), (&json!("gold"), &json!("forward")), "{told}");
            assert!(!told.to_string().contains(&token));
            let without = mesh.weft(&["explain", "--from", "client", "--to", "orders"]);
            let said = String::from_utf8_lossy(&without.stdout).into_owned();
            assert!(said.contains("denied with 401 unauthenticated") && said.contains("rule rest"), "{said}");

            // Another key comes, and the first one goes.
            issuer.keys.lock().expect("the keys").push(second.public());
            eventually("the new key has come", Duration::from_secs(30), || is_gold(by(&second, gold())));
            issuer.keys.lock().expect("the keys").remove(0);
            eventually("the old key has gone", Duration::from_secs(30), || {
                assert_eq!(by(&third, gold()).0, 401, "it makes the control plane ask");
                by(&first, gold()).0 == 401
            });
            assert!(is_gold(by(&second, gold())));
        }
    );
}
