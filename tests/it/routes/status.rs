//! What is said of a route that is wrong.

use std::fs;

use weft_tests::{Mesh, Options};

use super::{Rig, TO_V1, route};
use crate::{in_pods, weft};

#[test]
fn what_is_wrong_with_a_route_is_said_in_its_status() {
    in_pods!(what_is_wrong_with_a_route_is_said_in_its_status, || {
        let rig = Rig::start();
        let conditions = |kind: &str, name: &str| {
            let routes = rig.mesh.weft_json(&["get", kind, name]);
            let parent = &routes[0]["status"]["parents"][0];
            assert_eq!(parent["controllerName"], "weft.mesh/controller", "{routes}");
            assert_eq!(parent["parentRef"]["kind"], "Service");
            let reason = |kind: &str| {
                let all = parent["conditions"].as_array().expect("conditions");
                let one = all.iter().find(|condition| condition["type"] == kind).expect("the condition");
                format!("{} {}", one["status"].as_str().unwrap_or(""), one["reason"].as_str().unwrap_or(""))
            };
            (reason("Accepted"), reason("ResolvedRefs"))
        };
        let fine = ("True Accepted".to_owned(), "True ResolvedRefs".to_owned());
        rig.apply(&route("r", &format!("  - {{{TO_V1}}}")));
        assert_eq!(conditions("httproutes", "r"), fine);
        for (backends, reason) in [
            ("{name: missing, port: 80}", "False BackendNotFound"),
            ("{name: echo-v1, port: 81}", "False BackendNotFound"),
            ("{group: example.com, kind: Bucket, name: b}", "False InvalidKind"),
            ("{name: echo, namespace: other, port: 80}", "False RefNotPermitted"),
        ] {
            rig.apply(&route("r", &format!("  - {{backendRefs: [{backends}]}}")));
            assert_eq!(conditions("httproute", "r"), (fine.0.clone(), reason.to_owned()), "{backends}");
        }
        for (from, to) in
            [(", name: echo,", ", name: nobody-here,"), ("port: 80}]\n  rules", "port: 81}]\n  rules")]
        {
            rig.apply(&route("r", &format!("  - {{{TO_V1}}}")).replace(from, to));
            assert_eq!(conditions("HTTPRoute", "r").0, "False NoMatchingParent", "{to}");
        }
        // With leave it is permitted.
        rig.apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: echo, namespace: other}\nspec: {ports: [{port: 80}]}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\nspec:\n  \
             from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]\n  to: [{group: \"\", kind: Service}]\n",
        );
        rig.apply(&route("r", "  - {backendRefs: [{name: echo, namespace: other, port: 80}]}"));
        assert_eq!(conditions("httproute", "r"), fine);
        rig.check("/", "", "503 no-endpoints");
        rig.mesh.weft_ok(&["delete", "referencegrant", "g", "-n", "other"]);
        rig.settle();
        rig.check("/", "", "500 no-backend");
        // Of two kinds on one port the more specific one counts.
        rig.apply(
            "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: t}\nspec:\n  \
             parentRefs: [{group: \"\", kind: Service, name: echo, port: 80}]\n  rules: [{backendRefs: [{name: echo-v2, port: 80}]}]\n",
        );
        assert_eq!(conditions("tcproute", "t").0, "False Conflicted");
    });
}

#[test]
fn a_mistake_in_a_route_is_refused_with_its_line() {
    in_pods!(a_mistake_in_a_route_is_refused_with_its_line, || {
        let mesh = Mesh::start(weft(), Options::default());
        let check = |rules: &str, line: usize, says: &str| {
            let file = mesh.scratch().join("bad.yaml");
            fs::write(&file, route("r", rules)).expect("a file");
            let output = mesh.weft(&["apply", "-f", file.to_str().expect("a path")]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{rules}\n{error}");
            assert!(error.contains(&format!("bad.yaml:{line}")) && error.contains(says), "{says}: {error}");
        };
        check("  - matchs: []", 7, "matches");
        check("  - matches:\n    - path: {value: v2}", 8, "begin with '/'");
        check("  - matches:\n    - path: {type: RegularExpression, value: \"(a\"}", 8, "regular expression");
        check("  - timeouts: {request: 1s, backendRequest: 2s}", 7, "longer than the whole request");
    });
}
