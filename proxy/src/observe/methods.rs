//! Methods of gRPC, as metrics name them. They are on the wire: one is a label once an app has answered it otherwise than that it
//! has no such method, and only so many are.

use std::collections::HashSet;
use std::sync::Arc;

/// Methods that each worker names.
const METHODS: usize = 100;

/// What one is called at most.
const LONGEST: usize = 256;

/// `UNIMPLEMENTED`: the app has no such method.
const UNIMPLEMENTED: u8 = 12;

/// The method that a call asks for.
#[derive(Debug)]
pub enum RpcMethod {
    /// An app has it.
    Known(Arc<str>),
    /// Nobody has answered it yet.
    Unheard(Box<str>),
}

/// Methods that apps have.
#[derive(Debug, Default)]
pub(super) struct Methods(HashSet<Arc<str>>);

impl Methods {
    /// The method of this path.
    pub(super) fn find(&self, path: &str) -> RpcMethod {
        let name = path.trim_start_matches('/');
        match self.0.get(name) {
            Some(known) => RpcMethod::Known(Arc::clone(known)),
            None => RpcMethod::Unheard(if self.0.len() < METHODS { name.into() } else { "".into() }),
        }
    }

    /// A call of it ended so.
    pub(super) fn ended(&mut self, name: &str, grpc_status: Option<u8>) -> Option<Arc<str>> {
        let is_had = grpc_status.is_some_and(|status| status != UNIMPLEMENTED);
        if !is_had || !is_method(name) || (self.0.len() >= METHODS && !self.0.contains(name)) {
            return None;
        }
        let name: Arc<str> = name.into();
        self.0.insert(Arc::clone(&name));
        Some(name)
    }
}

/// `package.Service/Method`, in letters that names in protobuf have.
fn is_method(name: &str) -> bool {
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte))
    };
    name.len() <= LONGEST
        && name.split_once('/').is_some_and(|(service, method)| is_name(service) && is_name(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_named_once_an_app_has_answered_it() {
        let mut methods = Methods::default();
        assert!(
            matches!(methods.find("/shop.Orders/Place"), RpcMethod::Unheard(name) if &*name == "shop.Orders/Place")
        );
        assert_eq!(methods.ended("shop.Orders/Place", Some(UNIMPLEMENTED)), None);
        assert_eq!(methods.ended("shop.Orders/Place", None), None);
        assert_eq!(methods.ended("shop.Orders/Place", Some(14)).as_deref(), Some("shop.Orders/Place"));
        assert!(matches!(methods.find("/shop.Orders/Place"), RpcMethod::Known(_)));
        for odd in
            ["", "shop", "shop/", "/x", "a/b/c", "a b/c", "a/\u{e9}", &format!("a/{}", "b".repeat(LONGEST))]
        {
            assert_eq!(methods.ended(odd, Some(0)), None, "{odd}");
        }
    }

    #[test]
    fn only_so_many_are_named() {
        let mut methods = Methods::default();
        for number in 0..10 * METHODS {
            let named = methods.ended(&format!("shop.Orders/M{number}"), Some(0));
            assert_eq!(named.is_some(), number < METHODS, "{number}");
        }
        assert!(matches!(methods.find("/shop.Orders/M7"), RpcMethod::Known(_)));
        assert!(matches!(methods.find("/shop.Orders/M700"), RpcMethod::Unheard(name) if name.is_empty()));
    }
}
