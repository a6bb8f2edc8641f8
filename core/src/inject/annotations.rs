//! What a pod asks of its sidecar by annotations.

use std::fmt;

use serde_json::Value;

use super::text;
use crate::manifest::nearest;
use crate::model::Ratio;

/// An annotation or label of ours that a pod may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Annotation {
    /// Whether the pod gets a sidecar; as a label too, and of namespaces.
    Inject,
    /// Ports of the app that are not intercepted.
    SkipInboundPorts,
    /// Destination ports that are not intercepted.
    SkipOutboundPorts,
    /// Destination networks that are not intercepted.
    SkipOutboundCidrs,
    /// Ports that carry bytes, whatever they look like.
    OpaquePorts,
    /// How many traces are kept.
    TraceSampling,
    /// What the sidecar logs.
    LogLevel,
    /// The sidecar's image.
    Image,
    /// Processor time that is set aside for the sidecar.
    CpuRequest,
    /// The most processor time that it gets.
    CpuLimit,
    /// Memory that is set aside for the sidecar.
    MemoryRequest,
    /// The most memory that it gets.
    MemoryLimit,
}

/// An annotation that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnnotation {
    /// There is none of this name.
    #[error("there is no annotation {name:?}{}", hint.map(|known| format!("; did you mean {known:?}?")).unwrap_or_default())]
    Unknown {
        /// What was written.
        name: String,
        /// What may have been meant.
        hint: Option<&'static str>,
    },
    /// Its value is wrong.
    #[error("{annotation} cannot be {value:?}; write {}", annotation.expected())]
    Value {
        /// Which.
        annotation: Annotation,
        /// What it says.
        value: String,
    },
}

impl Annotation {
    /// Every one.
    pub const ALL: [Self; 12] = [
        Self::Inject,
        Self::SkipInboundPorts,
        Self::SkipOutboundPorts,
        Self::SkipOutboundCidrs,
        Self::OpaquePorts,
        Self::TraceSampling,
        Self::LogLevel,
        Self::Image,
        Self::CpuRequest,
        Self::CpuLimit,
        Self::MemoryRequest,
        Self::MemoryLimit,
    ];

    /// As manifests spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inject => "weft.mesh/inject",
            Self::SkipInboundPorts => "weft.mesh/skip-inbound-ports",
            Self::SkipOutboundPorts => "weft.mesh/skip-outbound-ports",
            Self::SkipOutboundCidrs => "weft.mesh/skip-outbound-cidrs",
            Self::OpaquePorts => "weft.mesh/opaque-ports",
            Self::TraceSampling => "weft.mesh/trace-sampling",
            Self::LogLevel => "weft.mesh/proxy-log-level",
            Self::Image => "weft.mesh/proxy-image",
            Self::CpuRequest => "weft.mesh/proxy-cpu-request",
            Self::CpuLimit => "weft.mesh/proxy-cpu-limit",
            Self::MemoryRequest => "weft.mesh/proxy-memory-request",
            Self::MemoryLimit => "weft.mesh/proxy-memory-limit",
        }
    }

    /// What it may say.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Inject => "enabled or disabled",
            Self::SkipInboundPorts | Self::SkipOutboundPorts | Self::OpaquePorts => {
                "ports and ranges of them: 22,9100-9110"
            }
            Self::SkipOutboundCidrs => "networks: 10.96.0.0/16,fd00::/8",
            Self::TraceSampling => "a ratio: 0.01 or 1%",
            Self::LogLevel => "a level, or one for each part: info,weft_proxy=debug",
            Self::Image => "an image",
            Self::CpuRequest | Self::CpuLimit => "a quantity: 100m",
            Self::MemoryRequest | Self::MemoryLimit => "a quantity: 64Mi",
        }
    }

    fn allows(self, value: &str) -> bool {
        match self {
            Self::Inject => matches!(value, "enabled" | "disabled"),
            Self::SkipInboundPorts | Self::SkipOutboundPorts | Self::OpaquePorts => all(value, is_ports),
            Self::SkipOutboundCidrs => all(value, |text| text.parse::<crate::model::Cidr>().is_ok()),
            Self::TraceSampling => value.parse::<Ratio>().is_ok(),
            Self::LogLevel | Self::Image => !value.is_empty() && !value.contains(char::is_whitespace),
            Self::CpuRequest | Self::CpuLimit | Self::MemoryRequest | Self::MemoryLimit => is_quantity(value),
        }
    }
}

impl fmt::Display for Annotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a pod's annotations and labels ask for.
pub(super) struct Wishes<'p> {
    said: Vec<(Annotation, &'p str)>,
}

impl<'p> Wishes<'p> {
    /// Reads a pod's metadata.
    pub(super) fn read(metadata: &'p Value) -> Result<Self, BadAnnotation> {
        let mut said = Vec::new();
        let label = metadata.get("labels").and_then(|labels| text(labels, Annotation::Inject.as_str()));
        let annotations = metadata.get("annotations").and_then(Value::as_object).into_iter().flatten();
        let annotations =
            annotations.map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default()));
        // What an annotation says goes before what a label says.
        for (name, value) in annotations.chain(label.map(|value| (Annotation::Inject.as_str(), value))) {
            if !name.starts_with("weft.mesh/") || name == super::INJECTED {
                continue;
            }
            let Some(annotation) = Annotation::ALL.into_iter().find(|known| known.as_str() == name) else {
                let hint = nearest(name, Annotation::ALL.map(Annotation::as_str));
                return Err(BadAnnotation::Unknown { name: name.to_owned(), hint });
            };
            if !annotation.allows(value) {
                return Err(BadAnnotation::Value { annotation, value: value.to_owned() });
            }
            said.push((annotation, value));
        }
        Ok(Self { said })
    }

    /// What one of them says.
    pub(super) fn get(&self, wanted: Annotation) -> Option<&'p str> {
        self.said.iter().find(|(annotation, _)| *annotation == wanted).map(|(_, value)| *value)
    }

    /// The sidecar's settings that follow, as variables.
    pub(super) fn variables(&self) -> Vec<(&'static str, &'p str)> {
        let mut variables = Vec::new();
        variables.extend(self.get(Annotation::LogLevel).map(|level| ("WEFT_LOG_LEVEL", level)));
        if let Some(share) = self.get(Annotation::TraceSampling) {
            variables.push(("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"));
            variables.push(("OTEL_TRACES_SAMPLER_ARG", share));
        }
        variables
    }
}

fn all(list: &str, allowed: impl Fn(&str) -> bool) -> bool {
    list.split(',').all(|item| allowed(item.trim()))
}

fn is_ports(text: &str) -> bool {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    port(first).zip(port(last)).is_some_and(|(first, last)| first <= last)
}

/// Kubernetes' quantities: a decimal number and, perhaps, a unit of thousands or of 1,024s.
pub fn is_quantity(text: &str) -> bool {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(number.len()..).unwrap_or_default();
    let units = ["", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let dots = number.bytes().filter(|byte| *byte == b'.').count();
    units.contains(&unit) && digits > 0 && dots <= 1 && digits.saturating_add(dots) == number.len()
}
