//! Policies in layers: what the more specific one leaves open, the next one says.

/// Defines a struct of optional fields, each with the name that documents have for it, and lays one over another, field by
/// field.
macro_rules! layers {
    ($(#[$about:meta])* pub struct $name:ident {
        $($(#[$doc:meta])* pub $field:ident as $spelt:literal: $type:ty,)*
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct $name {
            $($(#[$doc])* pub $field: Option<$type>,)*
        }

        impl $name {
            /// This one where it says something, else the one below.
            #[must_use]
            pub fn over(self, below: &Self) -> Self {
                Self { $($field: self.$field.or_else(|| below.$field.clone()),)* }
            }

            /// The fields that it says something of, as documents name them.
            pub fn said(&self) -> Vec<&'static str> {
                let fields = [$(($spelt, self.$field.is_some()),)*];
                fields.into_iter().filter_map(|(name, is_said)| is_said.then_some(name)).collect()
            }
        }
    };
}
pub(crate) use layers;
