//! Keys, certificates and the TLS settings made from them.
