//! How a worker leaves: others go elsewhere first, and the app is served until it is gone itself.

use std::time::Duration;

use tokio::time::timeout;
use weft_runtime::drain::{self, Drain, DrainWatch};

/// How long callers are still served after it was said that we leave: that is how long they may take to hear it.
const FAREWELL: Duration = Duration::from_millis(500);

/// Hears that we leave, in steps.
#[derive(Debug, Clone)]
pub struct Leaving {
    /// It is being said: what is answered from now on also asks the caller not to come back on this connection.
    pub announced: DrainWatch,
    /// Nothing new is begun for others any more.
    pub inbound: DrainWatch,
    /// Nothing new is begun for the app any more.
    pub outbound: DrainWatch,
}

/// Takes the steps.
#[derive(Debug)]
pub(crate) struct Steps {
    inbound: Drain,
    outbound: Drain,
}

/// Whether anyone may have been told to call us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callers {
    Some,
    None,
}

impl Leaving {
    /// Who is told by `drain` that we leave, and who takes the steps then.
    pub(crate) fn new(drain: &DrainWatch) -> (Self, Steps) {
        let (inbound, hears_inbound) = drain::channel();
        let (outbound, hears_outbound) = drain::channel();
        let leaving = Self { announced: drain.clone(), inbound: hears_inbound, outbound: hears_outbound };
        (leaving, Steps { inbound, outbound })
    }
}

impl Steps {
    /// The drain has begun: closes what is for others, then, when `app` says that the app is gone, what is for the app.
    pub(crate) async fn take(&self, drain: &mut DrainWatch, app: &mut DrainWatch, callers: Callers) {
        if callers == Callers::Some {
            // They are being told that we leave; until they have heard, they are still served.
            let _ = timeout(FAREWELL, drain.stopped()).await;
        }
        self.inbound.start();
        tokio::select! {
            () = app.draining() => {}
            () = drain.stopped() => {}
        }
        self.outbound.start();
    }
}
