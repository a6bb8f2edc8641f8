//! What an administrator asks of this sidecar by way of the control plane: the same pages that its admin port shows the
//! pod itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use weft_proto::v1::{self, ask::What};
use weft_runtime::http::Peer;

use crate::admin::Admin;

/// What an answer may hold; what is longer is cut off, and says so.
const LONGEST: usize = 1 << 20;
const CUT: &[u8] = b"\n... (the rest does not fit)\n";

/// Answers a question; what a later version asks is answered as unknown.
pub(super) async fn answer(admin: &Arc<Admin>, ask: v1::Ask) -> v1::Answer {
    let v1::Ask { id, what } = ask;
    let (method, path, body) = match what {
        Some(What::Config(_)) => (Method::GET, "/config", String::new()),
        Some(What::Metrics(_)) => (Method::GET, "/metrics", String::new()),
        Some(What::Drain(_)) => (Method::POST, "/drain", String::new()),
        Some(What::LogLevel(level)) if level.is_empty() => (Method::GET, "/log-level", level),
        Some(What::LogLevel(level)) => (Method::PUT, "/log-level", level),
        None => {
            let text = b"this sidecar's version does not know what is asked\n".to_vec();
            return v1::Answer { id, status: 501, text };
        }
    };
    let mut request = Request::new(Bytes::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::from_static(path);
    request.extensions_mut().insert(Peer(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
    let page = Arc::clone(admin).handle(request).await;
    let status = page.status().as_u16().into();
    let Ok(body) = page.into_body().collect().await;
    let mut text = body.to_bytes().to_vec();
    if text.len() > LONGEST {
        text.truncate(LONGEST - CUT.len());
        text.extend_from_slice(CUT);
    }
    v1::Answer { id, status, text }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, watch};
    use weft_runtime::metrics::Registry;

    use super::*;
    use crate::admin::Order;
    use crate::credentials::CredentialStore;
    use crate::health::Thoughts;
    use crate::state;
    use crate::upstream::Site;

    #[tokio::test]
    async fn questions_are_answered_with_the_pages_of_the_admin_port() {
        let (orders, mut ordered) = mpsc::channel(1);
        let registry = Registry::new();
        registry.gauge_from("weft_long", "Long.", ["text"], || vec![(["x".repeat(LONGEST)], 1.0)]);
        let admin = Arc::new(Admin {
            discovery: state::channel(Vec::new()).0,
            credentials: CredentialStore::default(),
            registry,
            ready: watch::channel(false).1,
            level: None,
            orders,
            site: Site::default(),
            health: watch::channel(Thoughts::new()).1,
        });
        let ask = async |what| answer(&admin, v1::Ask { id: 3, what }).await;
        let config = ask(Some(What::Config(true))).await;
        assert_eq!((config.id, config.status), (3, 200));
        assert!(String::from_utf8(config.text).unwrap().contains("\"revision\": 0"));
        let metrics = ask(Some(What::Metrics(true))).await;
        assert!(metrics.text.len() == LONGEST && metrics.text.ends_with(CUT));
        assert_eq!(ask(Some(What::Drain(true))).await.status, 202);
        assert_eq!(ordered.try_recv(), Ok(Order::Drain));
        // Logs that are somebody else's have no level here.
        assert_eq!(ask(Some(What::LogLevel("debug".into()))).await.status, 404);
        assert_eq!(ask(None).await.status, 501);
    }
}
