//! `weft.mesh/v1alpha1 AuthorizationPolicy`.

use super::decode::{Field, Object};
use super::document::Places;
use super::resource::AuthorizationPolicySpec;
use super::target::{self, TargetKind};
use crate::model::{
    AccessAction, AccessMode, AccessRule, Attribute, Callers, Cidr, ClaimName, Condition, Name, Operations,
    PathPattern, QualifiedName, Selection, TextPattern, is_token,
};

/// Rules of a policy, and members of a list within one.
const MOST: usize = 1000;

const ACTION: [(&str, AccessAction); 2] = [("Allow", AccessAction::Allow), ("Deny", AccessAction::Deny)];
const MODE: [(&str, AccessMode); 2] = [("Enforce", AccessMode::Enforce), ("Audit", AccessMode::Audit)];
const TARGETS: [TargetKind; 4] =
    [TargetKind::Service, TargetKind::Workload, TargetKind::Namespace, TargetKind::Mesh];

pub(super) fn read(
    spec: &Field<'_>,
    namespace: Option<&Name>,
    places: &mut Places,
) -> Option<AuthorizationPolicySpec> {
    let spec = spec.object(&["targetRef", "action", "mode", "rules"])?;
    let target = target::read(&spec, namespace, &TARGETS, places);
    let action = spec.field("action").and_then(|field| field.choice(&ACTION)).unwrap_or_default();
    let mode = spec.field("mode").and_then(|field| field.choice(&MODE)).unwrap_or_default();
    let rules_field = spec.required("rules", "write a list of rules; one that is {} is about every call");
    let rules = rules_field.map(|field| rules(&field, namespace))?;
    Some(AuthorizationPolicySpec { target: target?, action, mode, rules })
}

/// What calls a policy in `namespace` is about.
pub(super) fn rules(field: &Field<'_>, namespace: Option<&Name>) -> Vec<AccessRule> {
    list(field, |rule| self::rule(rule, namespace?))
}

fn rule(field: &Field<'_>, namespace: &Name) -> Option<AccessRule> {
    let rule = field.object(&["from", "to", "when"])?;
    let members = |key: &str| rule.field(key);
    Some(AccessRule {
        from: members("from").map(|from| list(&from, |field| callers(field, namespace))).unwrap_or_default(),
        to: members("to").map(|to| list(&to, operations)).unwrap_or_default(),
        when: members("when").map(|when| list(&when, condition)).unwrap_or_default(),
    })
}

fn callers(field: &Field<'_>, namespace: &Name) -> Option<Callers> {
    const FIELDS: [&str; 8] = [
        "principals",
        "notPrincipals",
        "serviceAccounts",
        "notServiceAccounts",
        "namespaces",
        "notNamespaces",
        "cidrs",
        "notCidrs",
    ];
    let object = field.object(&FIELDS)?;
    says_something(field);
    Some(Callers {
        principals: selection(&object, "principals", "notPrincipals", principal),
        service_accounts: selection(&object, "serviceAccounts", "notServiceAccounts", |field| {
            account(field, namespace)
        }),
        namespaces: selection(&object, "namespaces", "notNamespaces", |field| {
            field.parse("write a namespace, or the beginning of one and '*'")
        }),
        cidrs: selection(&object, "cidrs", "notCidrs", range),
    })
}

/// Who calls, as far as the caller itself can tell.
pub(super) fn read_workloads(field: &Field<'_>, namespace: &Name) -> Vec<Callers> {
    const FIELDS: [&str; 4] = ["serviceAccounts", "notServiceAccounts", "namespaces", "notNamespaces"];
    list(field, |field| {
        let object = field.object(&FIELDS)?;
        says_something(field);
        Some(Callers {
            service_accounts: selection(&object, "serviceAccounts", "notServiceAccounts", |field| {
                account(field, namespace)
            }),
            namespaces: selection(&object, "namespaces", "notNamespaces", |field| {
                field.parse("write a namespace, or the beginning of one and '*'")
            }),
            ..Callers::default()
        })
    })
}

fn operations(field: &Field<'_>) -> Option<Operations> {
    const FIELDS: [&str; 8] =
        ["ports", "notPorts", "methods", "notMethods", "paths", "notPaths", "hosts", "notHosts"];
    let object = field.object(&FIELDS)?;
    says_something(field);
    Some(Operations {
        ports: selection(&object, "ports", "notPorts", |field| field.port()),
        methods: selection(&object, "methods", "notMethods", method),
        paths: selection(&object, "paths", "notPaths", path),
        hosts: selection(&object, "hosts", "notHosts", host),
    })
}

fn condition(field: &Field<'_>) -> Option<Condition> {
    let object = field.object(&["header", "claim", "values", "notValues"])?;
    let of = match (object.field("header"), object.field("claim")) {
        (Some(_), Some(claim)) => {
            claim.mistake("a condition is about a header or a claim", "write a condition for each");
            None
        }
        (None, Some(claim)) => claim.parse("write the claim's name").map(Attribute::Claim),
        (_, None) => {
            let header = object.required("header", "write header: NAME or claim: NAME");
            header.and_then(|field| header_name(&field)).map(Attribute::Header)
        }
    };
    let pattern = |field: &Field<'_>| field.parse("write a value, with '*' at one end only");
    let values = selection(&object, "values", "notValues", pattern);
    if values.is_empty() {
        field.mistake("a condition selects nothing", "write values: [..] or notValues: [..]");
    }
    Some(Condition { of: of?, values })
}

/// An entry without any field would be about everyone, which nobody writes on purpose.
fn says_something(field: &Field<'_>) {
    if field.entries().is_some_and(|entries| entries.is_empty()) {
        field.mistake("it says nothing", "leave it out, or write what is meant");
    }
}

fn principal(field: &Field<'_>) -> Option<TextPattern> {
    let hint = "write spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or the beginning of one and '*'";
    let pattern = field.parse::<TextPattern>(hint)?;
    let scheme = match &pattern {
        TextPattern::Exact(text) => text.parse::<crate::model::SpiffeId>().is_ok(),
        TextPattern::Prefix(text) => text.is_empty() || text.starts_with("spiffe://"),
        TextPattern::Suffix(_) => true,
    };
    if !scheme {
        field.mistake(format!("{pattern} is no SPIFFE identity"), hint);
    }
    scheme.then_some(pattern)
}

/// `web`, of the policy's own namespace, or `shop/web`.
fn account(field: &Field<'_>, namespace: &Name) -> Option<QualifiedName> {
    let hint = "write ACCOUNT, or NAMESPACE/ACCOUNT for one of another namespace";
    if field.text()?.contains('/') {
        return field.parse(hint);
    }
    field.parse(hint).map(|name| QualifiedName::new(namespace.clone(), name))
}

fn range(field: &Field<'_>) -> Option<Cidr> {
    // A single address is a range of one.
    match field.text()?.parse::<std::net::IpAddr>() {
        Ok(address) => {
            let length = if address.is_ipv4() { 32 } else { 128 };
            format!("{address}/{length}").parse().ok()
        }
        Err(_) => field.parse("write an address range such as 10.0.0.0/8"),
    }
}

fn method(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if !is_token(text) {
        field.mistake(format!("{text:?} is no method"), "write GET, POST and so on");
        return None;
    }
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        field.mistake(
            format!("methods are told apart by case, and {text:?} is none that is sent"),
            format!("did you mean {:?}?", text.to_ascii_uppercase()),
        );
        return None;
    }
    Some(text.to_owned())
}

fn path(field: &Field<'_>) -> Option<PathPattern> {
    let hint =
        "write a path, one with '*' at one end, or segments of which some are {*}, the last perhaps {**}";
    let pattern = field.parse::<PathPattern>(hint)?;
    if pattern.is_normal() {
        return Some(pattern);
    }
    let hint = "paths are compared in their normal form: leave out query and fragment, write no '%', '//', '.' or '..'";
    field.mistake(format!("{pattern} would never match"), hint);
    None
}

fn host(field: &Field<'_>) -> Option<TextPattern> {
    let pattern = field.parse::<TextPattern>("write a host name, or one with '*' at one end")?;
    let (TextPattern::Exact(text) | TextPattern::Prefix(text) | TextPattern::Suffix(text)) = &pattern;
    if text.bytes().any(|b| b.is_ascii_uppercase() || b == b'/')
        || (text.contains(':') && !text.starts_with('['))
    {
        field.mistake(
            format!("{pattern} would never match"),
            "hosts are compared in lower case and without their port",
        );
        return None;
    }
    Some(pattern)
}

fn header_name(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if let Some(claim) = ClaimName::of_match(text) {
        let hint =
            claim.map_or_else(|_| "write claim: NAME".to_owned(), |claim| format!("write claim: {claim}"));
        field.mistake(format!("{text:?} is how a route asks for a claim, and no request's header"), hint);
        return None;
    }
    if !is_token(text) {
        field.mistake(format!("{text:?} is no header's name"), "write letters, digits and '-'");
        return None;
    }
    Some(text.to_ascii_lowercase())
}

fn selection<T>(
    object: &Object<'_>,
    one_of: &str,
    none_of: &str,
    read: impl Fn(&Field<'_>) -> Option<T>,
) -> Selection<T> {
    let members = |key: &str| {
        let Some(field) = object.field(key) else { return Vec::new() };
        let members = list(&field, &read);
        if field.list().is_some_and(|members| members.is_empty()) {
            field.mistake("an empty list selects nothing", "leave it out, or write what is meant");
        }
        members
    };
    Selection { one_of: members(one_of), none_of: members(none_of) }
}

fn list<T>(field: &Field<'_>, read: impl Fn(&Field<'_>) -> Option<T>) -> Vec<T> {
    let members = field.list().unwrap_or_default();
    if members.len() > MOST {
        field.mistake(format!("{} are too many", members.len()), format!("write at most {MOST}"));
    }
    members.iter().take(MOST).filter_map(read).collect()
}
