//! Whether the control plane did only what its roles let it: what a double of the API server was asked, against the rules that
//! `weft install` writes.

use std::collections::BTreeSet;

use serde_json::Value;
use weft_core::install::{Settings, objects};

/// What was asked, as a rule of RBAC has it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    verb: &'static str,
    group: String,
    resource: String,
    name: String,
}

/// Fails where one of these requests (`GET /api/v1/pods?limit=500`) would have been forbidden to what is installed so.
pub(super) fn check(requests: &[String], settings: &Settings) {
    let asked: BTreeSet<_> = requests.iter().map(|request| read(request)).collect();
    let rules = rules(settings);
    for asked in &asked {
        assert!(rules.iter().any(|rule| allows(rule, asked)), "{asked:?} is in no role");
    }
    let verbs: BTreeSet<_> = asked.iter().map(|asked| asked.verb).collect();
    assert!(verbs.is_superset(&["list", "watch", "patch"].into()), "too little was asked: {asked:?}");
}

/// What these roles allow and none of these requests asked for: `create tokenreviews`. Who patches what may not be there has to be
/// allowed to make it.
pub(super) fn never_asked(requests: &[String], settings: &Settings) -> Vec<String> {
    let asked: Vec<_> = requests.iter().map(|request| read(request)).collect();
    let texts = |rule: &Value, field: &str| {
        rule[field].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut never = Vec::new();
    for rule in rules(settings) {
        for resource in texts(&rule, "resources") {
            for verb in texts(&rule, "verbs") {
                let is_asked = asked.iter().any(|it| {
                    it.resource == resource
                        && texts(&rule, "apiGroups").contains(&it.group)
                        && (it.verb == verb || (it.verb, verb.as_str()) == ("patch", "create"))
                });
                if !is_asked {
                    never.push(format!("{verb} {resource}"));
                }
            }
        }
    }
    never
}

fn rules(settings: &Settings) -> Vec<Value> {
    let objects = objects(settings);
    let roles =
        objects.iter().filter(|object| matches!(object["kind"].as_str(), Some("ClusterRole" | "Role")));
    roles.flat_map(|role| role["rules"].as_array().unwrap().clone()).collect()
}

fn allows(rule: &Value, asked: &Asked) -> bool {
    let has = |field: &str, wanted: &str| {
        rule[field].as_array().is_some_and(|all| all.iter().any(|one| one.as_str() == Some(wanted)))
    };
    let is_named = rule.get("resourceNames").is_none() || has("resourceNames", &asked.name);
    has("apiGroups", &asked.group)
        && has("resources", &asked.resource)
        && has("verbs", asked.verb)
        && is_named
}

fn read(request: &str) -> Asked {
    let (method, target) = request.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut parts: Vec<_> = path.split('/').skip(1).collect();
    let group = match parts.remove(0) {
        "api" => String::new(),
        _ => parts.remove(0).to_owned(),
    };
    parts.remove(0);
    if parts.len() > 2 && parts[0] == "namespaces" {
        parts.drain(..2);
    }
    let name = parts.get(1).copied().unwrap_or_default().to_owned();
    let resource = match parts.get(2) {
        Some(part) => format!("{}/{part}", parts[0]),
        None => parts[0].to_owned(),
    };
    let is_watch = query.split('&').any(|pair| pair.starts_with("watch"));
    let verb = match method {
        "GET" if is_watch => "watch",
        "GET" if name.is_empty() => "list",
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        other => panic!("{other}"),
    };
    Asked { verb, group, resource, name }
}

#[test]
fn what_no_role_says_is_found() {
    let forbidden =
        |request: &str| !rules(&Settings::default()).iter().any(|rule| allows(rule, &read(request)));
    assert!(forbidden("GET /api/v1/secrets"));
    assert!(forbidden("GET /api/v1/namespaces/weft/secrets/weft-admin"));
    assert!(forbidden("DELETE /api/v1/namespaces/shop/pods/orders-1"));
    assert!(forbidden("PATCH /api/v1/namespaces/shop/configmaps/other"));
    assert!(forbidden("PATCH /apis/weft.mesh/v1alpha1/namespaces/shop/trafficpolicies/orders"));
    assert!(!forbidden("PATCH /apis/weft.mesh/v1alpha1/namespaces/shop/trafficpolicies/orders/status?x=1"));
    assert!(!forbidden("GET /api/v1/pods?watch=1&allowWatchBookmarks=true"));
}
