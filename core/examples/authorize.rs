//! How long a decision takes with 1,000 rules: `cargo run --release -p weft-core --example authorize`.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measuring tool: it reads the clock and prints, and what goes wrong ends it"
)]

use std::hint::black_box;
use std::time::Instant;

use weft_core::authorize::{Asked, Call, Peer, authorize};
use weft_core::host::Host;
use weft_core::model::{
    AccessAction, AccessMode, AccessPolicy, AccessRule, Callers, ConcurrencyMode, Mesh, Operations,
    Selection, Workload,
};
use weft_core::path::Path;

const RULES: u32 = 1_000;
const CALLS: u32 = 200_000;

struct Request<'a>(Path<'a>, Host<'a>);

impl Asked for Request<'_> {
    fn method(&self) -> &str {
        "GET"
    }

    fn path(&self) -> Option<&Path<'_>> {
        Some(&self.0)
    }

    fn host(&self) -> Option<&Host<'_>> {
        Some(&self.1)
    }

    fn each_value(&self, _name: &str, _see: &mut dyn FnMut(&[u8])) {}
}

fn one<T>(value: T) -> Selection<T> {
    Selection { one_of: vec![value], none_of: Vec::new() }
}

fn rule(account: Option<u32>, path: Option<String>) -> AccessRule {
    let account = account.map(|number| format!("default/app-{number}").parse().unwrap());
    let from = account.map(|account| Callers { service_accounts: one(account), ..Callers::default() });
    let paths = path.map(|path| one(path.parse().unwrap()));
    let to = paths.map(|paths| Operations { methods: one("GET".to_owned()), paths, ..Operations::default() });
    AccessRule { from: from.into_iter().collect(), to: to.into_iter().collect(), when: Vec::new() }
}

fn main() {
    let last = RULES - 1;
    measure(
        "a caller for each rule",
        AccessAction::Allow,
        |number| rule(Some(number), Some("/orders/*".to_owned())),
        "/orders/7",
    );
    measure(
        "a path for each rule",
        AccessAction::Allow,
        |number| rule(None, Some(format!("/api/v1/thing-{number}/*"))),
        &format!("/api/v1/thing-{last}/7"),
    );
    measure(
        "a caller and a path for each rule",
        AccessAction::Allow,
        |number| rule(Some(number), Some(format!("/thing-{number}/{{*}}"))),
        &format!("/thing-{last}/7"),
    );
    measure(
        "denials, none of which matches",
        AccessAction::Deny,
        |number| rule(None, Some(format!("/secret-{number}/*"))),
        "/orders/7",
    );
    measure(
        "an ending for each rule",
        AccessAction::Allow,
        |number| rule(None, Some(format!("*.type-{number}"))),
        &format!("/x.type-{last}"),
    );
    measure(
        "the last segments for each rule",
        AccessAction::Allow,
        |number| rule(None, Some(format!("/{{*}}/thing-{number}/view"))),
        &format!("/x/thing-{last}/view"),
    );
}

fn measure(name: &str, action: AccessAction, make: impl Fn(u32) -> AccessRule, path: &str) {
    let policy = AccessPolicy {
        name: "default/p".parse().unwrap(),
        action,
        mode: AccessMode::Enforce,
        ports: Vec::new(),
        rules: (0..RULES).map(make).collect::<Vec<_>>().into(),
    };
    let workload = Workload {
        name: "default/orders-1".parse().unwrap(),
        service_account: "orders".parse().unwrap(),
        ports: Vec::new(),
        policies: vec![policy],
        limits: Vec::new(),
        concurrency: ConcurrencyMode::Off,
        checks: Vec::new(),
        tokens: Vec::new(),
        mtls: None,
    };
    let mesh = Mesh::with_defaults("mesh.local".parse().unwrap(), Vec::new());
    let peer = Peer::Known(format!("spiffe://mesh.local/ns/default/sa/app-{}", RULES - 1).parse().unwrap());
    let request = Request(Path::parse(path.as_bytes()).unwrap(), Host::parse(b"orders").unwrap());
    let call = Call { peer: &peer, address: [10, 0, 0, 1].into(), port: 8080, request: Some(&request) };
    let decide = || authorize(Some(&mesh), black_box(&workload), black_box(&call), |_, _| {}).is_ok();
    assert!(decide());
    let begun = Instant::now();
    for _ in 0..CALLS {
        black_box(decide());
    }
    println!("{name:<36}{:>8.0} ns", begun.elapsed().as_nanos() as f64 / f64::from(CALLS));
}
