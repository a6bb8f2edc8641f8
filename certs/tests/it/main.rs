//! Keys, requests, authorities and handshakes, as the mesh's programs use them. Time stands still at [`support::now`].

// Marked so that clippy knows the helpers for tests as well.
#[cfg(test)]
mod authority;
#[cfg(test)]
mod given;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod ninety_days;
#[cfg(test)]
mod random;
#[cfg(test)]
mod request;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod roots;
#[cfg(test)]
mod support;
