//! Whom to believe.

use std::time::Duration;

use weft_core::model;

use super::{ConvertError, domain};
use crate::v1;

impl TryFrom<v1::Trust> for model::Trust {
    type Error = ConvertError;

    fn try_from(wire: v1::Trust) -> Result<Self, ConvertError> {
        // What cannot be read must not be passed over: somebody would be believed who is not to be.
        let revoked = wire.revoked.iter().map(|text| text.parse().map_err(ConvertError::Revoked));
        Ok(Self {
            trust_domain: domain(&wire.trust_domain)?,
            sequence: wire.sequence,
            anchors: wire.anchors,
            renew_within: Duration::from_millis(wire.renew_within_ms),
            revoked: revoked.collect::<Result<_, _>>()?,
        })
    }
}

impl From<&model::Trust> for v1::Trust {
    fn from(trust: &model::Trust) -> Self {
        Self {
            trust_domain: trust.trust_domain.to_string(),
            anchors: trust.anchors.clone(),
            sequence: trust.sequence,
            renew_within_ms: u64::try_from(trust.renew_within.as_millis()).unwrap_or(u64::MAX),
            revoked: trust.revoked.iter().map(ToString::to_string).collect(),
        }
    }
}
