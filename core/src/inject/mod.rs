//! A sidecar into a pod and out of it again: pure, and the same for `weft inject` and for an admission webhook.
//!
//! What is added is built as objects ([`container`]) and said as [`Change`]s of a pod. A webhook answers with them as a
//! JSON patch, [`manifests`] writes them into a text, of which everything else stays as it is, byte for byte.

mod admission;
mod annotations;
mod changes;
mod compose;
mod container;
mod manifests;
mod parts;
mod pod;
mod probes;
mod template;
mod text;

use serde_json::Value;

pub use admission::{BadReview, Decision, Verdict, review};
pub use annotations::{Annotation, BadAnnotation, is_quantity};
pub use changes::{Change, Step};
pub use manifests::{Outcome, Rewritten, What, inject, uninject};
pub use pod::{Injection, NotInjected, has_sidecar, into_pod};

/// The user that the sidecar runs as, and that interception lets through.
pub const SIDECAR_UID: u64 = 2102;

/// Where images are, where nobody says otherwise.
pub const REGISTRY: &str = "docker.io/weftmesh";

/// How pods are equipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    registry: String,
    tag: String,
    control_plane: String,
    sidecar: Form,
}

/// What kind of container the sidecar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// An init container that goes on (`restartPolicy: Always`, Kubernetes 1.29 and newer): there before the app's own init
    /// containers, gone after the app, and no hindrance to the end of a job.
    #[default]
    Native,
    /// A container beside the app's, for older clusters.
    Container,
}

/// A setting that there is not, or that cannot be so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSetting {
    /// It is not there.
    #[error("there is no setting {0:?}; there are image.registry, image.tag, controlPlane and sidecar")]
    Unknown(String),
    /// It cannot be that.
    #[error("{key} cannot be {value:?}; write {expected}")]
    Value {
        /// Which.
        key: &'static str,
        /// What it was to be.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registry: REGISTRY.into(),
            tag: env!("CARGO_PKG_VERSION").into(),
            control_plane: "https://weft-control-plane.weft:7443".into(),
            sidecar: Form::default(),
        }
    }
}

impl Settings {
    /// Changes one, as `--set KEY=VALUE` says it.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), BadSetting> {
        let bad = |key, expected| Err(BadSetting::Value { key, value: value.to_owned(), expected });
        let is_word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
        match key {
            "image.registry" if is_word(value) => value.trim_end_matches('/').clone_into(&mut self.registry),
            "image.registry" => return bad("image.registry", "HOST/PATH"),
            "image.tag" if is_word(value) => value.clone_into(&mut self.tag),
            "image.tag" => return bad("image.tag", "a version"),
            "controlPlane" if value.starts_with("https://") && is_word(value) => {
                value.clone_into(&mut self.control_plane);
            }
            "controlPlane" => return bad("controlPlane", "https://HOST:7443"),
            "sidecar" => match value {
                "native" => self.sidecar = Form::Native,
                "container" => self.sidecar = Form::Container,
                _ => return bad("sidecar", "native or container"),
            },
            _ => return Err(BadSetting::Unknown(key.to_owned())),
        }
        Ok(())
    }

    fn image(&self) -> String {
        self.image_of("weft-proxy")
    }

    fn image_of(&self, program: &str) -> String {
        format!("{}/{program}:{}", self.registry, self.tag)
    }
}

/// What a pod was given, as it is written into one of its annotations: what taking it out again must know.
const INJECTED: &str = "weft.mesh/injected";

/// The text of an object's key.
fn text<'v>(object: &'v Value, key: &str) -> Option<&'v str> {
    object.get(key).and_then(Value::as_str)
}
