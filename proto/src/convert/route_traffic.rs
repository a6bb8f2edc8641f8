//! What policies for a route say of its requests.

use std::time::Duration;

use weft_core::model;
use weft_core::model::{HedgeAfter, HedgingLayer, Ratio, RetriesLayer, RetryMethods};

use super::ConvertError;
use super::retries::{hedge_quantile, hedge_time};
use super::route::all;
use super::traffic::{duration, milliseconds, positive, sampling};
use crate::v1;
use crate::v1::hedging_layer::After;
use crate::v1::retries_layer::Methods;

impl TryFrom<v1::RouteTraffic> for model::RouteTraffic {
    type Error = ConvertError;

    fn try_from(wire: v1::RouteTraffic) -> Result<Self, ConvertError> {
        Ok(Self {
            request: wire.request_ms.map(Duration::from_millis),
            idle: wire.idle_ms.map(|ms| duration("traffic.idle_ms", ms)).transpose()?,
            retries: wire.retries.map(TryInto::try_into).transpose()?.map(Box::new),
            hedging: wire.hedging.map(TryInto::try_into).transpose()?,
            faults: all(wire.faults)?,
            sampling: sampling(wire.sampling_per_million)?,
        })
    }
}

impl From<&model::RouteTraffic> for v1::RouteTraffic {
    fn from(traffic: &model::RouteTraffic) -> Self {
        let model::RouteTraffic { request, idle, retries, hedging, faults, sampling } = traffic;
        Self {
            request_ms: request.map(milliseconds),
            idle_ms: idle.map(milliseconds),
            retries: retries.as_deref().map(Into::into),
            hedging: hedging.as_ref().map(Into::into),
            faults: faults.iter().map(Into::into).collect(),
            sampling_per_million: sampling.map(Ratio::per_million),
        }
    }
}

impl TryFrom<v1::RetriesLayer> for RetriesLayer {
    type Error = ConvertError;

    fn try_from(wire: v1::RetriesLayer) -> Result<Self, ConvertError> {
        let on = (!wire.on.is_empty()).then(|| all(wire.on)).transpose()?;
        Ok(Self {
            attempts: wire.attempts,
            on,
            per_try: wire.per_try_ms.map(|ms| duration("traffic.per_try_ms", ms)).transpose()?,
            base: wire.base_ms.map(Duration::from_millis),
            max: wire.max_ms.map(Duration::from_millis),
            max_body: wire.max_body,
            methods: wire.methods.map(|methods| match methods {
                Methods::Idempotent(_) => RetryMethods::Idempotent,
                Methods::Any(_) => RetryMethods::Any,
                Methods::These(these) => RetryMethods::These(these.names),
            }),
            ..Self::default()
        })
    }
}

impl From<&RetriesLayer> for v1::RetriesLayer {
    fn from(layer: &RetriesLayer) -> Self {
        // The budget is the service's, and never said of a route.
        let RetriesLayer { attempts, on, per_try, base, max, max_body, methods, .. } = layer;
        Self {
            attempts: *attempts,
            on: on.iter().flatten().map(Into::into).collect(),
            per_try_ms: per_try.map(milliseconds),
            base_ms: base.map(milliseconds),
            max_ms: max.map(milliseconds),
            max_body: *max_body,
            methods: methods.as_ref().map(|methods| match methods {
                RetryMethods::Idempotent => Methods::Idempotent(v1::Nothing {}),
                RetryMethods::Any => Methods::Any(v1::Nothing {}),
                RetryMethods::These(names) => Methods::These(v1::Methods { names: names.clone() }),
            }),
        }
    }
}

impl TryFrom<v1::HedgingLayer> for HedgingLayer {
    type Error = ConvertError;

    fn try_from(wire: v1::HedgingLayer) -> Result<Self, ConvertError> {
        let after = |after: After| match after {
            After::TimeMs(ms) => hedge_time(ms),
            After::QuantilePerMillion(share) => hedge_quantile(share),
        };
        let max = wire.max.map(|max| positive("traffic.hedging.max", max)).transpose()?;
        Ok(Self { after: wire.after.map(after).transpose()?, max })
    }
}

impl From<&HedgingLayer> for v1::HedgingLayer {
    fn from(layer: &HedgingLayer) -> Self {
        let after = layer.after.map(|after| match after {
            HedgeAfter::Time(time) => After::TimeMs(milliseconds(time)),
            HedgeAfter::Quantile(share) => After::QuantilePerMillion(share.per_million()),
        });
        Self { after, max: layer.max }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_core::model::{Abort, Fault, Ratio, RetryOn, Route, RouteRules, RouteTraffic};

    use super::*;

    fn check(traffic: RouteTraffic) {
        let name = "default/orders".parse().unwrap();
        let rules = RouteRules::Grpc(Vec::new());
        let route = Route { name, ports: Vec::new(), rules, traffic: Some(Arc::new(traffic)) };
        assert_eq!(Route::try_from(v1::Route::from(&route)).unwrap(), route);
    }

    #[test]
    fn what_is_said_of_a_route_survives_the_wire() {
        let second = Duration::from_secs(1);
        check(RouteTraffic::default());
        let these = RetryMethods::These(vec!["POST".into()]);
        for methods in [RetryMethods::Idempotent, RetryMethods::Any, these] {
            let retries = RetriesLayer {
                attempts: Some(0),
                on: Some(vec![RetryOn::Reset]),
                per_try: Some(second),
                base: Some(Duration::ZERO),
                max: Some(second),
                max_body: Some(7),
                methods: Some(methods),
                ..RetriesLayer::default()
            };
            check(RouteTraffic { retries: Some(Box::new(retries)), ..RouteTraffic::default() });
        }
        let abort = Abort { status: 503, grpc_status: 14 };
        let fault = Fault {
            policy: "default/down".into(),
            from: Vec::new(),
            headers: Vec::new(),
            delay: None,
            abort: Some((abort, Ratio::WHOLE)),
            expires: None,
        };
        for after in [None, Some(HedgeAfter::Time(second)), Some(HedgeAfter::Quantile(Ratio::percent(99)))] {
            check(RouteTraffic {
                request: Some(Duration::ZERO),
                idle: Some(second),
                retries: Some(Box::default()),
                hedging: Some(HedgingLayer { after, max: Some(1) }),
                faults: vec![fault.clone()],
                sampling: Some(Ratio::NONE),
            });
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let idle = v1::RouteTraffic { idle_ms: Some(0), ..Default::default() };
        assert!(RouteTraffic::try_from(idle).is_err());
        let per_try = v1::RetriesLayer { per_try_ms: Some(0), ..Default::default() };
        assert!(RetriesLayer::try_from(per_try).is_err());
        assert!(HedgingLayer::try_from(v1::HedgingLayer { max: Some(0), ..Default::default() }).is_err());
    }
}
