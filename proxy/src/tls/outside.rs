//! TLS with servers outside the mesh, for apps that speak none.

use std::sync::Arc;

use rustls::ClientConfig;
use weft_certs::{CertError, outside_client_config, pem};
use weft_core::model::Origination;

use super::{Carries, PublicRoots, RootsError};

/// Why a server outside the mesh cannot be called in TLS.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// Nobody knows by whom it is to be believed.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// Whom its document names is no authority.
    #[error("the settings towards a server outside the mesh")]
    Settings(#[from] CertError),
}

/// Settings towards a server outside the mesh; where its document names no authority, `public` has them.
pub fn outside_config(
    origination: &Origination,
    carries: Carries,
    public: &PublicRoots,
) -> Result<Arc<ClientConfig>, OutsideError> {
    let anchors = match origination.ca.as_str() {
        "" => public.read()?,
        ca => pem::certificates(ca)?,
    };
    let alpn: &[&[u8]] = match carries {
        Carries::Http1 | Carries::Http2 => &[carries.alpn()],
        Carries::Tcp => &[],
    };
    Ok(outside_client_config(&anchors, alpn)?)
}
