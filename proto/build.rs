//! Compiles the `.proto` files with protox, so that no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=weft");
    println!("cargo:rerun-if-changed=etcd");
    let files = ["discovery", "identity", "admin", "replica"].map(|name| format!("weft/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["."])?;
    let build = tonic_prost_build::configure().codec_path("crate::codec::SmallCodec");
    build.bytes(".weft.v1.Resource.body").compile_fds(descriptors)?;
    let etcd = protox::compile(["etcd/rpc.proto"], ["."])?;
    tonic_prost_build::configure().build_server(false).compile_fds(etcd)?;
    Ok(())
}
