//! What the public surface of the decisions promises: tables and properties.

// Marked so that clippy knows the helpers for tests as well.
#[cfg(test)]
mod access;
#[cfg(test)]
mod admission;
#[cfg(test)]
mod balancing;
#[cfg(test)]
mod breaker;
#[cfg(test)]
mod claims;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod compile;
#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod hedging;
#[cfg(test)]
mod inject;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod rates;
#[cfg(test)]
mod rehearse;
#[cfg(test)]
mod restricted;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod schemas;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod world;
#[cfg(test)]
mod yaml;
