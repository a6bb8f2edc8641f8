//! The one command of the mesh.

fn main() {}
