//! Spellings of paths and hosts: each is forwarded in its one normal form, or refused.

use super::Target;

const CLOSE: &str = "Connection: close\r\n\r\n";

#[tokio::test]
async fn a_path_reaches_the_app_in_its_normal_form_or_not_at_all() {
    let target = Target::new().await;
    let check = async |sent: &str, expected: Option<&str>| {
        let response =
            target.send(format!("GET {sent} HTTP/1.1\r\nHost: orders\r\n{CLOSE}").as_bytes()).await;
        let seen = target.seen();
        match expected {
            Some(path) => {
                assert!(response.starts_with("HTTP/1.1 200 "), "{sent}: {response}");
                let line = seen.first().and_then(|head| head.lines().next()).unwrap_or_default();
                assert_eq!(line, format!("GET {path} HTTP/1.1"), "{sent}");
            }
            None => {
                assert!(response.starts_with("HTTP/1.1 400 "), "{sent}: {response}");
                assert!(response.contains("weft-error: bad-request"), "{sent}: {response}");
                assert!(seen.is_empty(), "{sent}: {seen:?}");
            }
        }
    };
    target
        .under(async {
            for same in ["/", "/a%2Fb", "/a//b", "/a;x=y/b", "/%252e%252e/a", "/a?b=/../%2e%zz", "/a\\b"] {
                check(same, Some(same)).await;
            }
            check("/x/../admin", Some("/admin")).await;
            check("/x/%2e%2E/admin", Some("/admin")).await;
            check("/x/..;a=b/admin", Some("/admin")).await;
            check("/%61dmin/./%c3%a9", Some("/admin/%C3%A9")).await;
            for bad in [
                "/..",
                "/../admin",
                "/a%2F..%2Fadmin",
                "/a/..%5cadmin",
                "/a%00",
                "/%zz",
                "/a;x%2Fb",
                "*",
                "a",
            ] {
                check(bad, None).await;
            }
        })
        .await;
}

#[tokio::test]
async fn a_request_names_one_host_and_that_is_one() {
    let target = Target::new().await;
    let check = async |line: &str, hosts: &[&str], accepted: bool| {
        let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
        let response = target.send(format!("GET {line} HTTP/1.1\r\n{hosts}{CLOSE}").as_bytes()).await;
        let status = if accepted { "HTTP/1.1 200 " } else { "HTTP/1.1 400 " };
        assert!(response.starts_with(status), "{line} {hosts}: {response}");
        assert_eq!(response.contains("weft-error: bad-request"), !accepted, "{line} {hosts}: {response}");
        assert_eq!(target.seen().len(), usize::from(accepted), "{line} {hosts}");
    };
    target
        .under(async {
            for good in ["orders", "ORDERS.", "orders:80", "127.0.0.1", "[::1]:80", "a_b"] {
                check("/", &[good], true).await;
            }
            for bad in ["", "a b", "a@b", "orders:x", "orders:1:2", "a/b", "a,b", "[::1", "a..b", "a%00"] {
                check("/", &[bad], false).await;
            }
            check("/", &[], false).await;
            check("/", &["orders", "orders"], false).await;
            check("/", &["orders", "other"], false).await;
            check("http://orders/", &["Orders.:80"], true).await;
            check("http://orders/", &["other"], false).await;
            check("http://u:p@orders/", &["orders"], false).await;
        })
        .await;
}
