//! Access rules. What this version does not know is refused: a rule that is read by half would let in too much.

use std::fmt::Display;
use std::str::FromStr;

use weft_core::model::{self, AccessAction, AccessMode, Attribute, Selection};

use super::mesh::known;
use super::{ConvertError, port_from_wire, qualified};
use crate::v1;

impl TryFrom<v1::AccessPolicy> for model::AccessPolicy {
    type Error = ConvertError;

    fn try_from(wire: v1::AccessPolicy) -> Result<Self, ConvertError> {
        Ok(Self {
            name: qualified("policy.name", &wire.name)?,
            action: match known("policy.action", wire.action)? {
                v1::AccessAction::Allow => AccessAction::Allow,
                v1::AccessAction::DenyAccess => AccessAction::Deny,
            },
            mode: match known("policy.mode", wire.mode)? {
                v1::AccessMode::Enforce => AccessMode::Enforce,
                v1::AccessMode::Audit => AccessMode::Audit,
            },
            ports: ports("policy.ports", &wire.ports)?,
            rules: wire.rules.iter().map(rule).collect::<Result<Vec<_>, _>>()?.into(),
        })
    }
}

/// The ports that a policy is about.
pub(super) fn ports(field: &'static str, wire: &[u32]) -> Result<Vec<u16>, ConvertError> {
    wire.iter().map(|port| port_from_wire(field, *port)).collect()
}

pub(super) fn rule(wire: &v1::AccessRule) -> Result<model::AccessRule, ConvertError> {
    Ok(model::AccessRule {
        from: wire.from.iter().map(callers).collect::<Result<_, _>>()?,
        to: wire.to.iter().map(operations).collect::<Result<_, _>>()?,
        when: wire.when.iter().map(condition).collect::<Result<_, _>>()?,
    })
}

pub(super) fn callers(wire: &v1::Callers) -> Result<model::Callers, ConvertError> {
    Ok(model::Callers {
        principals: selection("principals", wire.principals.as_ref())?,
        service_accounts: selection("service_accounts", wire.service_accounts.as_ref())?,
        namespaces: selection("namespaces", wire.namespaces.as_ref())?,
        cidrs: selection("cidrs", wire.cidrs.as_ref())?,
    })
}

fn operations(wire: &v1::Operations) -> Result<model::Operations, ConvertError> {
    Ok(model::Operations {
        ports: selection("ports", wire.ports.as_ref())?,
        methods: selection("methods", wire.methods.as_ref())?,
        paths: selection("paths", wire.paths.as_ref())?,
        hosts: selection("hosts", wire.hosts.as_ref())?,
    })
}

fn condition(wire: &v1::Condition) -> Result<model::Condition, ConvertError> {
    let values = selection("values", wire.values.as_ref())?;
    let of = match (wire.header.as_str(), wire.claim.as_str()) {
        ("", "") => return Err(ConvertError::Missing("condition")),
        (header, "") => Attribute::Header(header.to_owned()),
        ("", claim) => {
            let claim = claim.parse().map_err(|_| ConvertError::Pattern("claim", claim.to_owned()))?;
            Attribute::Claim(claim)
        }
        // Half of it would be understood.
        (_, claim) => return Err(ConvertError::Pattern("condition", claim.to_owned())),
    };
    Ok(model::Condition { of, values })
}

fn selection<T: FromStr>(
    field: &'static str,
    wire: Option<&v1::Selection>,
) -> Result<Selection<T>, ConvertError> {
    let Some(wire) = wire else { return Ok(Selection::default()) };
    let read = |text: &String| text.parse().map_err(|_| ConvertError::Pattern(field, text.clone()));
    Ok(Selection {
        one_of: wire.one_of.iter().map(read).collect::<Result<_, _>>()?,
        none_of: wire.none_of.iter().map(read).collect::<Result<_, _>>()?,
    })
}

impl From<&model::AccessPolicy> for v1::AccessPolicy {
    fn from(policy: &model::AccessPolicy) -> Self {
        let action = match policy.action {
            AccessAction::Allow => v1::AccessAction::Allow,
            AccessAction::Deny => v1::AccessAction::DenyAccess,
        };
        let mode = match policy.mode {
            AccessMode::Enforce => v1::AccessMode::Enforce,
            AccessMode::Audit => v1::AccessMode::Audit,
        };
        Self {
            name: policy.name.to_string(),
            action: action.into(),
            mode: mode.into(),
            ports: policy.ports.iter().map(|port| u32::from(*port)).collect(),
            rules: policy.rules.iter().map(Into::into).collect(),
        }
    }
}

impl From<&model::Callers> for v1::Callers {
    fn from(callers: &model::Callers) -> Self {
        Self {
            principals: written(&callers.principals),
            service_accounts: written(&callers.service_accounts),
            namespaces: written(&callers.namespaces),
            cidrs: written(&callers.cidrs),
        }
    }
}

impl From<&model::AccessRule> for v1::AccessRule {
    fn from(rule: &model::AccessRule) -> Self {
        let operations = |operations: &model::Operations| v1::Operations {
            ports: written(&operations.ports),
            methods: written(&operations.methods),
            paths: written(&operations.paths),
            hosts: written(&operations.hosts),
        };
        let condition = |condition: &model::Condition| {
            let (header, claim) = match &condition.of {
                Attribute::Header(name) => (name.clone(), String::new()),
                Attribute::Claim(name) => (String::new(), name.to_string()),
            };
            v1::Condition { header, claim, values: written(&condition.values) }
        };
        Self {
            from: rule.from.iter().map(Into::into).collect(),
            to: rule.to.iter().map(operations).collect(),
            when: rule.when.iter().map(condition).collect(),
        }
    }
}

fn written<T: Display>(selection: &Selection<T>) -> Option<v1::Selection> {
    let texts = |members: &[T]| members.iter().map(ToString::to_string).collect();
    Some(v1::Selection { one_of: texts(&selection.one_of), none_of: texts(&selection.none_of) })
}

#[cfg(test)]
mod tests {
    use weft_core::model::{AccessPolicy, AccessRule, Callers, Condition, Operations};

    use super::*;

    fn policy() -> AccessPolicy {
        AccessPolicy {
            name: "default/p".parse().unwrap(),
            action: AccessAction::Deny,
            mode: AccessMode::Audit,
            ports: vec![80, 8080],
            rules: vec![AccessRule {
                from: vec![Callers {
                    principals: Selection {
                        one_of: vec!["spiffe://d/*".parse().unwrap()],
                        none_of: Vec::new(),
                    },
                    service_accounts: Selection { one_of: vec!["a/b".parse().unwrap()], none_of: Vec::new() },
                    namespaces: Selection { one_of: Vec::new(), none_of: vec!["*x".parse().unwrap()] },
                    cidrs: Selection { one_of: vec!["10.0.0.0/8".parse().unwrap()], none_of: Vec::new() },
                }],
                to: vec![Operations {
                    ports: Selection { one_of: vec![8080], none_of: Vec::new() },
                    methods: Selection { one_of: vec!["GET".to_owned()], none_of: Vec::new() },
                    paths: Selection {
                        one_of: vec!["/a/{*}/{**}".parse().unwrap(), "*".parse().unwrap()],
                        none_of: Vec::new(),
                    },
                    hosts: Selection { one_of: Vec::new(), none_of: vec!["h".parse().unwrap()] },
                }],
                when: vec![
                    Condition {
                        of: Attribute::Header("x-env".to_owned()),
                        values: Selection { one_of: vec!["prod*".parse().unwrap()], none_of: Vec::new() },
                    },
                    Condition {
                        of: Attribute::Claim("scope".parse().unwrap()),
                        values: Selection { one_of: Vec::new(), none_of: vec!["read".parse().unwrap()] },
                    },
                ],
            }]
            .into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(AccessPolicy::try_from(v1::AccessPolicy::from(&policy())).unwrap(), policy());
    }

    #[test]
    fn what_is_not_understood_is_refused_whole() {
        let spoil: [fn(&mut v1::AccessPolicy); 6] = [
            |wire| wire.rules[0].when[0].claim = "sub".to_owned(),
            |wire| wire.rules[0].when[0].header.clear(),
            |wire| wire.action = 7,
            |wire| wire.mode = 7,
            |wire| wire.ports.push(70_000),
            |wire| wire.rules[0].to[0].paths.as_mut().unwrap().one_of.push("a*b".to_owned()),
        ];
        for spoil in spoil {
            let mut wire = v1::AccessPolicy::from(&policy());
            spoil(&mut wire);
            assert!(AccessPolicy::try_from(wire.clone()).is_err(), "{wire:?}");
        }
    }
}
