//! The whole mesh, tried from outside: one file per promise.

mod tidy;
