//! The wire: generated messages and services, and their conversion to and from the model.
//!
//! Only this crate knows both sides; `convert` is the only place where one becomes the other. `etcd` is what the control
//! plane says to a store that others keep.

pub mod codec;
pub mod convert;

/// Messages and services of `weft/v1`, generated at build time.
pub mod v1 {
    #![expect(
        missing_docs,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        reason = "generated: documented in the .proto files"
    )]
    tonic::include_proto!("weft.v1");
}

/// What we say to etcd, generated at build time.
pub mod etcd {
    #![expect(
        missing_docs,
        unused_qualifications,
        clippy::allow_attributes_without_reason,
        reason = "generated: documented in the .proto file"
    )]
    tonic::include_proto!("etcdserverpb");
}
