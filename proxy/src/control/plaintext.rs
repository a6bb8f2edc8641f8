//! Who calls the app without an identity: what the control plane is told of it, seldom and in one bounded message.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use weft_proto::convert;
use weft_proto::v1::{self, sidecar_message::Message};

use crate::state::PlaintextCall;

/// Callers that are remembered; beyond, who was heard longest ago is forgotten.
const MOST: usize = 64;

/// How often it is told of at most.
const EVERY: Duration = Duration::from_secs(10);

/// Who was not heard for so long is not told of any more.
const REMEMBERED: Duration = Duration::from_hours(24);

/// The callers, and when each was heard last.
#[derive(Debug, Default)]
pub(super) struct PlaintextCallers {
    heard: BTreeMap<(IpAddr, u16), SystemTime>,
    /// There is something to tell.
    is_news: bool,
    told: Option<Instant>,
}

impl PlaintextCallers {
    /// Remembers a call.
    pub(super) fn hear(&mut self, call: &PlaintextCall, now: SystemTime) {
        let key = (call.from.to_canonical(), call.port);
        if self.heard.len() >= MOST && !self.heard.contains_key(&key) {
            let longest_ago = self.heard.iter().min_by_key(|(_, heard)| **heard).map(|(key, _)| *key);
            longest_ago.and_then(|key| self.heard.remove(&key));
        }
        self.heard.insert(key, now);
        self.is_news = true;
    }

    /// When there is to be told of them; none: there is no news.
    pub(super) fn due(&self) -> Option<Instant> {
        self.is_news.then(|| self.told.map_or_else(Instant::now, |told| told + EVERY))
    }

    /// Whoever is told from now on knows nothing yet.
    pub(super) fn begin(&mut self) {
        self.told = None;
        self.is_news = !self.heard.is_empty();
    }

    /// What is told.
    pub(super) fn tell(&mut self, now: SystemTime) -> Message {
        self.heard.retain(|_, heard| now.duration_since(*heard).is_ok_and(|ago| ago < REMEMBERED));
        self.is_news = false;
        self.told = Some(Instant::now());
        let caller = |((from, port), heard): (&(IpAddr, u16), &SystemTime)| v1::PlaintextCaller {
            address: convert::address_to_wire(from),
            port: (*port).into(),
            last_seen: heard.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        };
        Message::PlaintextCallers(v1::PlaintextCallers { callers: self.heard.iter().map(caller).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u8) -> PlaintextCall {
        PlaintextCall { from: [10, 0, 0, number].into(), port: 8080 }
    }

    fn told(callers: &mut PlaintextCallers, now: SystemTime) -> Vec<u8> {
        let Message::PlaintextCallers(told) = callers.tell(now) else { panic!("another message") };
        told.callers.iter().map(|caller| caller.address[3]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_of_at_once_and_all_others_every_ten_seconds() {
        let (mut callers, now) = (PlaintextCallers::default(), SystemTime::now());
        assert_eq!(callers.due(), None);
        callers.hear(&call(1), now);
        assert_eq!(callers.due(), Some(Instant::now()));
        assert_eq!(told(&mut callers, now), [1]);
        assert_eq!(callers.due(), None);
        for number in [2, 1, 3] {
            callers.hear(&call(number), now);
        }
        assert_eq!(callers.due(), Some(Instant::now() + EVERY));
        assert_eq!(told(&mut callers, now), [1, 2, 3]);
        callers.begin();
        assert_eq!(callers.due(), Some(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_takes_no_more_room_and_who_is_silent_for_a_day_is_forgotten() {
        let (mut callers, begun) = (PlaintextCallers::default(), SystemTime::now());
        for number in 0..=255 {
            callers.hear(&call(number), begun + Duration::from_secs(number.into()));
        }
        let expected: Vec<u8> = (192..=255).collect();
        assert_eq!(told(&mut callers, begun + Duration::from_secs(300)), expected);
        assert_eq!(told(&mut callers, begun + REMEMBERED + Duration::from_secs(254)), [255]);
    }
}
