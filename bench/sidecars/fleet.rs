//! All the simulated sidecars: what each offers and calls, and what they do together.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, timeout};
use weft_runtime::task;

use crate::plane::Plane;
use crate::sidecar::{Event, POPULAR, Phase, Sidecar};
use crate::wire::{Counters, Wire};

/// For all sidecars to do what they are told.
const PATIENCE: Duration = Duration::from_secs(120);

/// How large a mesh it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Sidecars that offer services.
    pub(crate) streams: usize,
    /// Services.
    pub(crate) services: usize,
    /// Services that a sidecar offers.
    pub(crate) offers: usize,
    /// Services that a sidecar calls, besides the one that all of them call.
    pub(crate) calls: usize,
}

/// The sidecars.
pub(crate) struct Fleet {
    shape: Shape,
    members: Vec<Member>,
    /// Those of `members` that came first and offer services.
    phase: watch::Sender<Phase>,
    callers: watch::Sender<Phase>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    counters: Arc<Counters>,
    plane: SocketAddr,
    rng: fastrand::Rng,
}

struct Member {
    offers: Vec<String>,
    toggles: mpsc::Sender<String>,
}

impl Fleet {
    /// Makes them, with a token each; none is connected yet.
    pub(crate) async fn join(plane: &Plane, shape: Shape) -> anyhow::Result<Self> {
        let (sender, events) = mpsc::channel(100_000);
        let mut fleet = Self {
            shape,
            members: Vec::new(),
            phase: watch::Sender::new(Phase::Away),
            callers: watch::Sender::new(Phase::Away),
            events,
            sender,
            counters: Arc::default(),
            plane: plane.address,
            // The same mesh each time.
            rng: fastrand::Rng::with_seed(6),
        };
        let offered = |member: usize| {
            (0..shape.offers)
                .map(|index| format!("s{}", (member * shape.offers + index) % shape.services))
                .collect()
        };
        let phase = fleet.phase.subscribe();
        fleet.add(plane, "w", (0..shape.streams).map(offered).collect(), &phase).await?;
        Ok(fleet)
    }

    /// Makes more of them, that offer nothing.
    pub(crate) async fn join_callers(&mut self, plane: &Plane, number: usize) -> anyhow::Result<()> {
        let phase = self.callers.subscribe();
        self.add(plane, "c", vec![Vec::new(); number], &phase).await
    }

    async fn add(
        &mut self,
        plane: &Plane,
        prefix: &str,
        offers: Vec<Vec<String>>,
        phase: &watch::Receiver<Phase>,
    ) -> anyhow::Result<()> {
        let account = |(index, offers): (usize, &Vec<String>)| (format!("{prefix}{index}"), offers.clone());
        let tokens = plane.tokens(offers.iter().enumerate().map(account).collect()).await?;
        let anchors = Arc::new(plane.anchors.clone());
        for (index, (token, offers)) in tokens.into_iter().zip(offers).enumerate() {
            let [.., high, low] = u32::try_from(self.members.len())?.to_be_bytes();
            let (toggles, receiver) = mpsc::channel(64);
            let sidecar = Sidecar {
                workload: format!("{prefix}{index}"),
                address: [10, 1, high, low],
                token,
                offers: offers.clone(),
                calls: self.some_services(),
                phase: phase.clone(),
                toggles: receiver,
                events: self.sender.clone(),
                counters: self.counters.clone(),
                plane: self.plane,
                anchors: anchors.clone(),
            };
            self.members.push(Member { offers, toggles });
            task::spawn("sidecar", sidecar.run());
        }
        Ok(())
    }

    fn some_services(&mut self) -> Vec<String> {
        let mut services = BTreeSet::new();
        while services.len() < self.shape.calls.min(self.shape.services - 1) {
            services.insert(self.rng.usize(1..self.shape.services));
        }
        services.into_iter().map(|number| format!("default/s{number}")).collect()
    }

    /// All connect for the first time.
    pub(crate) async fn start(&mut self) -> anyhow::Result<Wire> {
        self.back().await?;
        // The last to come was told to the others; until they have it there is no rest.
        self.rest().await?;
        Ok(self.counters.take())
    }

    /// All connect again.
    pub(crate) async fn back(&mut self) -> anyhow::Result<Wire> {
        self.counters.take();
        self.phase.send_replace(Phase::Connected);
        self.all(self.shape.streams, |event| matches!(event, Event::Complete)).await?;
        Ok(self.counters.take())
    }

    /// Those that offer nothing connect.
    pub(crate) async fn start_callers(&mut self) -> anyhow::Result<Wire> {
        self.counters.take();
        self.callers.send_replace(Phase::Connected);
        let number = self.members.len() - self.shape.streams;
        self.all(number, |event| matches!(event, Event::Complete)).await?;
        Ok(self.counters.take())
    }

    /// All go away, each without a word.
    pub(crate) async fn cut(&mut self) -> anyhow::Result<()> {
        self.phase.send_replace(Phase::Away);
        self.all(self.shape.streams, |event| matches!(event, Event::Gone)).await
    }

    async fn all(&mut self, number: usize, is_it: impl Fn(&Event) -> bool) -> anyhow::Result<()> {
        let mut count = 0;
        while count < number {
            let event = timeout(PATIENCE, self.events.recv()).await;
            let event = event.with_context(|| format!("{count} of {number} in time"))?;
            match event.context("no sidecar lives")? {
                Event::Failed(error) => return Err(error),
                event if is_it(&event) => count += 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until nothing has been told to anyone for a while.
    async fn rest(&mut self) -> anyhow::Result<()> {
        loop {
            match timeout(Duration::from_millis(500), self.events.recv()).await {
                Ok(Some(Event::Failed(error))) => return Err(error),
                Ok(_) => {}
                Err(_) => return Ok(()),
            }
        }
    }

    /// Changes one endpoint of what all of them call; how long until the last of them has acked.
    pub(crate) async fn probe(&mut self) -> anyhow::Result<Duration> {
        while self.events.try_recv().is_ok() {}
        let begun = Instant::now();
        self.toggle(0, POPULAR).await?;
        self.last_ack(begun).await
    }

    async fn toggle(&self, member: usize, service: &str) -> anyhow::Result<()> {
        let member = self.members.get(member).context("no such sidecar")?;
        Ok(member.toggles.send(service.to_owned()).await?)
    }

    /// Until all have acked the newest set of endpoints.
    async fn last_ack(&mut self, begun: Instant) -> anyhow::Result<Duration> {
        let (mut acked, mut newest, mut last) = (0, None, begun);
        while acked < self.members.len() {
            match timeout(PATIENCE, self.events.recv()).await.context("not acked by all")? {
                Some(Event::Acked { hash, at }) => {
                    if newest != Some(hash) {
                        (acked, newest) = (0, Some(hash));
                    }
                    acked += 1;
                    last = last.max(at);
                }
                Some(Event::Failed(error)) => return Err(error),
                Some(Event::Complete | Event::Gone) => {}
                None => anyhow::bail!("no sidecar lives"),
            }
        }
        Ok(last - begun)
    }

    /// Changes endpoints of other services at this rate, and each second one that all of them call.
    pub(crate) async fn churn(&mut self, rate: u32, end: Instant) -> anyhow::Result<(Vec<Duration>, u32)> {
        let mut spread = Vec::new();
        let mut changes = 0;
        while Instant::now() < end {
            let second = Instant::now() + Duration::from_secs(1);
            let picked: Vec<_> =
                (0..rate).map(|_| self.pick()).collect::<Option<_>>().context("no offers")?;
            let toggles: Vec<_> = picked
                .into_iter()
                .filter_map(|(index, service)| Some((self.members.get(index)?.toggles.clone(), service)))
                .collect();
            changes += u32::try_from(toggles.len())? + 1;
            let changing = task::spawn("churn", async move {
                let mut due = interval(Duration::from_secs(1) / rate);
                for (toggle, service) in toggles {
                    due.tick().await;
                    if toggle.send(service).await.is_err() {
                        return;
                    }
                }
            });
            spread.push(self.probe().await?);
            changing.await?;
            tokio::time::sleep_until(second.into()).await;
        }
        Ok((spread, changes))
    }

    /// Somebody, and a service that it offers, but for what all of them call.
    fn pick(&mut self) -> Option<(usize, String)> {
        let index = self.rng.usize(1..self.shape.streams);
        let offers = &self.members.get(index)?.offers;
        let service = offers.get(self.rng.usize(..offers.len()))?;
        let popular = format!("default/{service}") == POPULAR;
        let service = if popular { offers.last()? } else { service };
        Some((index, format!("default/{service}")))
    }
}
