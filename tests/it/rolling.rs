//! The shop under load while each of its services is replaced by a new copy, as a rolling update does: no purchase fails.

use std::fs;
use std::process::Command;
use std::time::Duration;

use weft_tests::{Process, eventually, program};

use crate::run::{User, processes_of};
use crate::weft_for_everyone;

const PATIENCE: Duration = Duration::from_secs(90);

/// The services and what each offers.
const SERVICES: [(&str, &str); 4] =
    [("inventory", "9090, 7000, 8080"), ("payments", "8080"), ("orders", "8080"), ("web", "8080")];

/// Buys and looks, without a pause, until it is told to stop; each answer that is not as it should be is written down.
const SHOPPER: &str = r#"
while [ ! -e stop ]; do
    for ask in "-X POST http://web:8080/buy?item=book&quantity=1" "http://web:8080/"; do
        $CURL -sS -g --max-time 20 -o answer -w '%{http_code}\n' $ask > code 2> error
        case $(cat code) in
            200 | 201) echo >> done ;;
            *) { echo "$ask: $(cat code error answer)"; } >> failed ;;
        esac
    done
done"#;

/// One copy of a service, as a `weft run` of its own.
fn start(user: &User, (service, ports): (&str, &str), copy: &str) -> Process {
    let (shop, file) = (weft_for_everyone().display(), format!("{service}-{copy}"));
    let plan = format!(
        "services:\n  {service}:\n    command: [{shop}, example, shop, {service}]\n    ports: [{ports}]\n    \
         healthcheck: {{path: /health/ready, port: 8080}}\n"
    );
    fs::write(user.folder.path().join(&file), plan).expect("a plan");
    Process::start(user.run(&["-f", &file]), &user.folder.path().join(format!("{file}.log")), Command::spawn)
}

#[test]
fn every_service_of_the_shop_is_replaced_under_load_and_no_purchase_fails() {
    let _beside = weft_tests::beside_others();
    let Some(curl) = program(&["/usr/bin/curl", "curl"]) else { return };
    let user = User::new(None);
    let file = |name: &str| user.folder.path().join(name);
    let read = |name: &str| fs::read_to_string(file(name)).unwrap_or_default();
    let works = |copy: &mut Process| {
        eventually("it works", PATIENCE, || {
            assert!(copy.is_running(), "{}", copy.output());
            copy.output().contains(": works, ")
        });
    };
    let mut copies: Vec<_> = SERVICES.iter().map(|service| start(&user, *service, "old")).collect();
    copies.iter_mut().for_each(works);

    let mut shopping = user.run(&["--service", "shopper", "--", "/bin/sh", "-c", SHOPPER]);
    shopping.env("CURL", curl);
    let mut shopper = Process::start(shopping, &file("shopper.log"), Command::spawn);
    let served = || read("done").lines().count();
    let asked = |more: usize| {
        let goal = served() + more;
        eventually("there is load", PATIENCE, || served() >= goal || !read("failed").is_empty());
    };
    asked(4);
    for (copy, service) in copies.iter_mut().zip(SERVICES) {
        // As an orchestrator does: the old one is told to end when the new one works.
        let mut new = start(&user, service, "new");
        works(&mut new);
        asked(4);
        let mut old = std::mem::replace(copy, new);
        assert_eq!(old.terminate().code(), Some(143), "{}", old.output());
        asked(4);
    }
    fs::write(file("stop"), "").expect("a file");
    let status = shopper.wait(PATIENCE);
    assert!(status.success(), "{status}: {}", shopper.output());
    assert_eq!(read("failed"), "");
    assert!(served() > 30, "{}", served());
    for mut copy in copies {
        assert_eq!(copy.terminate().code(), Some(143), "{}", copy.output());
    }
    eventually("nothing is left", PATIENCE, || processes_of(user.folder.path()).is_empty());
}
