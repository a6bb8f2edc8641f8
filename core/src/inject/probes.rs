//! What the kubelet asks of a pod's containers over the network, as their sidecar is told of it (`WEFT_PROBES`).

use serde_json::Value;

use super::{pod, text};
use crate::authorize::OutsideProbe;

/// The probes of a container, and the hooks, which are asked in the same way.
const ASKED: [&[&str]; 5] = [
    &["startupProbe"],
    &["readinessProbe"],
    &["livenessProbe"],
    &["lifecycle", "postStart"],
    &["lifecycle", "preStop"],
];

/// Those of all containers, each once; empty: there are none. What goes to another host is left out, and so is HTTPS, of which
/// the sidecar sees nothing that it could tell from anything else.
pub(super) fn of(spec: &Value) -> String {
    let mut found: Vec<String> = Vec::new();
    for container in pod::containers(spec) {
        for path in ASKED {
            let asked = path.iter().try_fold(container, |within, key| within.get(key));
            let probe = asked.and_then(|asked| written(container, asked));
            if let Some(probe) = probe.filter(|probe| !found.contains(probe)) {
                found.push(probe);
            }
        }
    }
    found.join(",")
}

fn written(container: &Value, asked: &Value) -> Option<String> {
    let port = |of: &Value| port(container, of.get("port")?);
    let probe = if let Some(http) = asked.get("httpGet") {
        let scheme = text(http, "scheme").unwrap_or("HTTP");
        if !scheme.eq_ignore_ascii_case("http") || http.get("host").is_some() {
            return None;
        }
        let path = text(http, "path").unwrap_or("/");
        // As the kubelet does.
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("http:{}:{slash}{path}", port(http)?)
    } else if let Some(grpc) = asked.get("grpc") {
        format!("grpc:{}", port(grpc)?)
    } else {
        let tcp = asked.get("tcpSocket").filter(|tcp| tcp.get("host").is_none())?;
        format!("tcp:{}", port(tcp)?)
    };
    // A sidecar would not start with what it does not understand.
    probe.parse::<OutsideProbe>().ok().map(|probe| probe.to_string())
}

/// A port by its number, or by the name that the container gives it.
fn port(container: &Value, said: &Value) -> Option<u16> {
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    let name = match said {
        Value::String(name) => name,
        said => return number(said),
    };
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let mut ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
    ports.find(|port| text(port, "name") == Some(name)).and_then(|port| number(port.get("containerPort")?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_probe_of_every_container_is_told_of_once() {
        let spec = json!({
            "initContainers": [{"name": "log", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 5170}}}],
            "containers": [
                {
                    "name": "web",
                    "ports": [{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9090}],
                    "startupProbe": {"httpGet": {"path": "/healthz", "port": "http"}},
                    "readinessProbe": {"httpGet": {"path": "ready?full=1,2", "port": "admin", "scheme": "HTTP"}},
                    "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 3},
                    "lifecycle": {"preStop": {"httpGet": {"path": "/stop", "port": "9090"}}},
                },
                {
                    "name": "rpc",
                    "readinessProbe": {"grpc": {"port": 9001, "service": "shop"}},
                    "livenessProbe": {"exec": {"command": ["true"]}},
                },
            ],
        });
        let expected = "tcp:5170,http:8080:/healthz,http:9090:/ready?full=1,2,http:9090:/stop,grpc:9001";
        assert_eq!(of(&spec), expected);
    }

    #[test]
    fn what_no_sidecar_could_tell_from_other_calls_is_left_out() {
        for probe in [
            json!({"httpGet": {"path": "/", "port": 8443, "scheme": "HTTPS"}}),
            json!({"httpGet": {"path": "/", "port": 80, "host": "example.com"}}),
            json!({"tcpSocket": {"port": 80, "host": "10.0.0.1"}}),
            json!({"httpGet": {"path": "/", "port": "nameless"}}),
            json!({"httpGet": {"path": "/../x", "port": 80}}),
            json!({"grpc": {"port": 0}}),
            json!({}),
        ] {
            assert_eq!(of(&json!({"containers": [{"name": "a", "livenessProbe": probe}]})), "", "{probe}");
        }
    }
}
