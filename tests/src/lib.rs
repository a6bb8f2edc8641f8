//! The whole mesh in real pods, tried from outside.
