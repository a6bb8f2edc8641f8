//! What of a service's requests is tried again.

use std::time::Duration;

use weft_core::model;
use weft_core::model::{HedgeAfter, RetryMethods, RetryOn, StatusCode};

use super::ConvertError;
use super::traffic::{duration, milliseconds, positive, ratio};
use crate::v1;
use crate::v1::hedging::After;
use crate::v1::retries::Methods;
use crate::v1::retry_on::Of;

impl TryFrom<v1::Retries> for model::Retries {
    type Error = ConvertError;

    fn try_from(wire: v1::Retries) -> Result<Self, ConvertError> {
        Ok(Self {
            attempts: wire.attempts,
            on: wire.on.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            per_try: wire.per_try_ms.map(|ms| duration("retries.per_try_ms", ms)).transpose()?,
            backoff: model::Backoff {
                base: Duration::from_millis(wire.base_ms),
                max: Duration::from_millis(wire.max_ms),
            },
            budget: model::RetryBudget {
                ratio: ratio("retries.ratio_per_million", wire.ratio_per_million)?,
                min_per_second: wire.min_per_second,
                window: duration("retries.window_ms", wire.window_ms)?,
            },
            max_body: wire.max_body,
            methods: match wire.methods {
                None => RetryMethods::Idempotent,
                Some(Methods::Any(_)) => RetryMethods::Any,
                Some(Methods::These(these)) => RetryMethods::These(these.names),
            },
        })
    }
}

impl From<&model::Retries> for v1::Retries {
    fn from(retries: &model::Retries) -> Self {
        let model::Retries { attempts, on, per_try, backoff, budget, max_body, methods } = retries;
        Self {
            attempts: *attempts,
            on: on.iter().map(Into::into).collect(),
            per_try_ms: per_try.map(milliseconds),
            base_ms: milliseconds(backoff.base),
            max_ms: milliseconds(backoff.max),
            ratio_per_million: budget.ratio.per_million(),
            min_per_second: budget.min_per_second,
            window_ms: milliseconds(budget.window),
            max_body: *max_body,
            methods: match methods {
                RetryMethods::Idempotent => None,
                RetryMethods::Any => Some(Methods::Any(v1::Nothing {})),
                RetryMethods::These(names) => Some(Methods::These(v1::Methods { names: names.clone() })),
            },
        }
    }
}

impl TryFrom<v1::RetryOn> for RetryOn {
    type Error = ConvertError;

    fn try_from(wire: v1::RetryOn) -> Result<Self, ConvertError> {
        Ok(match wire.of.ok_or(ConvertError::Missing("retries.on"))? {
            Of::ServerErrors(_) => Self::ServerErrors,
            Of::GatewayErrors(_) => Self::GatewayErrors,
            Of::ConnectFailure(_) => Self::ConnectFailure,
            Of::Reset(_) => Self::Reset,
            Of::RefusedStream(_) => Self::RefusedStream,
            Of::Status(code) => {
                let range = |_| ConvertError::Range("retries.on.status", code.into());
                Self::Status(StatusCode::try_from(code).map_err(range)?)
            }
            Of::Grpc(code) => {
                let found = u8::try_from(code).ok().filter(|code| (1..=16).contains(code));
                Self::Grpc(found.ok_or_else(|| ConvertError::Range("retries.on.grpc", code.into()))?)
            }
        })
    }
}

impl From<&RetryOn> for v1::RetryOn {
    fn from(on: &RetryOn) -> Self {
        let nothing = v1::Nothing {};
        let of = match on {
            RetryOn::ServerErrors => Of::ServerErrors(nothing),
            RetryOn::GatewayErrors => Of::GatewayErrors(nothing),
            RetryOn::ConnectFailure => Of::ConnectFailure(nothing),
            RetryOn::Reset => Of::Reset(nothing),
            RetryOn::RefusedStream => Of::RefusedStream(nothing),
            RetryOn::Status(code) => Of::Status(code.code().into()),
            RetryOn::Grpc(code) => Of::Grpc((*code).into()),
        };
        Self { of: Some(of) }
    }
}

impl TryFrom<v1::Hedging> for model::Hedging {
    type Error = ConvertError;

    fn try_from(wire: v1::Hedging) -> Result<Self, ConvertError> {
        let after = match wire.after.ok_or(ConvertError::Missing("hedging.after"))? {
            After::TimeMs(ms) => hedge_time(ms)?,
            After::QuantilePerMillion(share) => hedge_quantile(share)?,
        };
        Ok(Self { after, max: positive("hedging.max", wire.max)? })
    }
}

impl From<&model::Hedging> for v1::Hedging {
    fn from(hedging: &model::Hedging) -> Self {
        let after = match hedging.after {
            HedgeAfter::Time(time) => After::TimeMs(milliseconds(time)),
            HedgeAfter::Quantile(share) => After::QuantilePerMillion(share.per_million()),
        };
        Self { after: Some(after), max: hedging.max }
    }
}

pub(super) fn hedge_time(ms: u64) -> Result<HedgeAfter, ConvertError> {
    Ok(HedgeAfter::Time(duration("hedging.time_ms", ms)?))
}

pub(super) fn hedge_quantile(share: u32) -> Result<HedgeAfter, ConvertError> {
    Ok(HedgeAfter::Quantile(ratio("hedging.quantile_per_million", share)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_core::model::{Hedging, Ratio, Retries};

    #[test]
    fn what_is_tried_again_survives_the_wire() {
        let every = [
            RetryOn::ServerErrors,
            RetryOn::GatewayErrors,
            RetryOn::ConnectFailure,
            RetryOn::Reset,
            RetryOn::RefusedStream,
            RetryOn::Status(StatusCode::try_from(429).unwrap()),
            RetryOn::Grpc(14),
        ];
        let these = RetryMethods::These(vec!["GET".into(), "POST".into()]);
        for methods in [RetryMethods::Idempotent, RetryMethods::Any, these] {
            let per_try = Some(Duration::from_secs(1));
            let retries = Retries { on: every.to_vec(), per_try, methods, ..Retries::default() };
            assert_eq!(Retries::try_from(v1::Retries::from(&retries)).unwrap(), retries);
        }
        for after in [HedgeAfter::Time(Duration::from_millis(50)), HedgeAfter::Quantile(Ratio::percent(95))] {
            let hedging = Hedging { after, max: 1 };
            assert_eq!(Hedging::try_from(v1::Hedging::from(&hedging)).unwrap(), hedging);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let nothing = v1::Retries { window_ms: 0, ..Default::default() };
        assert!(Retries::try_from(nothing).is_err());
        for of in [None, Some(Of::Status(200)), Some(Of::Grpc(0)), Some(Of::Grpc(17)), Some(Of::Grpc(256))] {
            assert!(RetryOn::try_from(v1::RetryOn { of }).is_err());
        }
        assert!(Hedging::try_from(v1::Hedging::default()).is_err());
    }
}
