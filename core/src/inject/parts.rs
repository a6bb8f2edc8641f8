//! The services that a Compose file is given: one control plane, and for each app's service its pod, its interception, its token
//! and its sidecar.

use serde_json::{Map, Value as Json, json};

use super::annotations::{Annotation, Wishes};
use super::{SIDECAR_UID, Settings};
use crate::model::Name;

/// What is behind a service's name in the names of its parts.
pub(super) const POD: &str = "-weft-pod";
pub(super) const PROXY: &str = "-weft-proxy";
const INIT: &str = "-weft-init";
const TOKEN: &str = "-weft-token";

const CONTROL_PLANE: &str = "weft-control-plane";
const DATA: &str = "weft-data";

/// How long a token may be used: a sidecar renews by its certificate, and needs it only where that ran out.
const TOKEN_TTL: &str = "720h";

/// What is added to a file.
pub(super) struct Parts<'s> {
    settings: &'s Settings,
    services: Map<String, Json>,
    volumes: Map<String, Json>,
    networks: Map<String, Json>,
}

impl<'s> Parts<'s> {
    pub(super) fn new(settings: &'s Settings) -> Self {
        Self { settings, services: Map::new(), volumes: Map::new(), networks: Map::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    pub(super) fn services(&self) -> &Map<String, Json> {
        &self.services
    }

    pub(super) fn volumes(&self) -> &Map<String, Json> {
        &self.volumes
    }

    /// Adds the parts of a service: as it is called in the file, what it is in the mesh, and what it says.
    pub(super) fn add(&mut self, key: &str, name: &Name, said: &Json, wishes: &Wishes<'_>) {
        let networks = networks(key, said.get("networks"));
        self.networks.extend(networks.keys().map(|name| (name.clone(), json!({}))));
        let identity = format!("weft-identity-{key}");
        self.volumes.insert(identity.clone(), json!({}));
        self.volumes.insert(DATA.to_owned(), json!({}));
        let proxy_image = wishes.get(Annotation::Image).map_or_else(|| self.settings.image(), str::to_owned);
        let with_profiles = |mut part: Json| {
            if let (Some(profiles), Some(part)) = (said.get("profiles"), part.as_object_mut()) {
                part.insert("profiles".to_owned(), profiles.clone());
            }
            part
        };
        let own = [
            (POD, self.pod(said, &networks, &proxy_image)),
            (INIT, self.init(key, said, wishes, &proxy_image)),
            (TOKEN, self.token(name, &identity, &networks)),
            (PROXY, self.proxy(key, name, wishes, &identity, &proxy_image)),
        ];
        self.services.extend(own.map(|(kind, part)| (format!("{key}{kind}"), with_profiles(part))));
        let control_plane = self.control_plane();
        self.services.insert(CONTROL_PLANE.to_owned(), control_plane);
    }

    /// Owns the network and waits.
    fn pod(&self, said: &Json, networks: &Map<String, Json>, image: &str) -> Json {
        let mut pod = restricted(image, json!(["pause"]), SIDECAR_UID);
        pod.insert("restart".to_owned(), json!("unless-stopped"));
        pod.insert("networks".to_owned(), networks.clone().into());
        for key in super::compose::network_keys().filter(|key| *key != "networks") {
            if let Some(value) = said.get(key) {
                pod.insert(key.to_owned(), value.clone());
            }
        }
        pod.into()
    }

    /// Programs the packet filter, for which it has the one right that it needs, and ends.
    fn init(&self, key: &str, said: &Json, wishes: &Wishes<'_>, image: &str) -> Json {
        let mut command = vec!["intercept".to_owned(), "up".to_owned()];
        // Published ports are for those outside the mesh, who have no identity: they stay as open as they are written.
        let mut inbound: Vec<String> = published(said.get("ports"));
        inbound.extend(wishes.get(Annotation::SkipInboundPorts).map(|ports| ports.replace(' ', "")));
        if !inbound.is_empty() {
            command.push(format!("--skip-inbound-ports={}", inbound.join(",")));
        }
        for (flag, annotation) in [
            ("--skip-outbound-ports", Annotation::SkipOutboundPorts),
            ("--skip-outbound-cidrs", Annotation::SkipOutboundCidrs),
        ] {
            command.extend(wishes.get(annotation).map(|value| format!("{flag}={}", value.replace(' ', ""))));
        }
        let mut init = restricted(image, json!(command), 0);
        init.insert("cap_add".to_owned(), json!(["NET_ADMIN"]));
        init.insert("restart".to_owned(), json!("no"));
        init.insert("network_mode".to_owned(), json!(format!("service:{key}{POD}")));
        init.insert(
            "depends_on".to_owned(),
            json!({format!("{key}{POD}"): {"condition": "service_started"}}),
        );
        init.into()
    }

    /// Asks the control plane for what the sidecar joins with, and ends.
    fn token(&self, name: &Name, identity: &str, networks: &Map<String, Json>) -> Json {
        let command = json!([
            "token",
            "create",
            "--service-account",
            name.as_str(),
            "--ttl",
            TOKEN_TTL,
            "--into",
            "/identity"
        ]);
        let mut token = restricted(&self.settings.image_of("weft"), command, SIDECAR_UID);
        token.insert("restart".to_owned(), json!("no"));
        token.insert("environment".to_owned(), self.asking());
        token.insert(
            "volumes".to_owned(),
            json!([format!("{DATA}:/data:ro"), format!("{identity}:/identity")]),
        );
        let networks: Vec<&String> = networks.keys().collect();
        token.insert("networks".to_owned(), json!(networks));
        token.insert("depends_on".to_owned(), json!({CONTROL_PLANE: {"condition": "service_healthy"}}));
        token.into()
    }

    fn proxy(&self, key: &str, name: &Name, wishes: &Wishes<'_>, identity: &str, image: &str) -> Json {
        let mut proxy = restricted(image, json!(["run"]), SIDECAR_UID);
        proxy.insert("restart".to_owned(), json!("unless-stopped"));
        proxy.insert("network_mode".to_owned(), json!(format!("service:{key}{POD}")));
        let mut environment = json!({
            "WEFT_CONTROL_PLANE": format!("https://{CONTROL_PLANE}:7443"),
            "WEFT_CA": "/identity/ca.pem",
            "WEFT_TOKEN_FILE": "/identity/token",
            "WEFT_CACHE_DIR": "/run/weft",
            "WEFT_WORKLOAD": name.as_str(),
            "WEFT_SERVICES": name.as_str(),
        });
        if let Some(environment) = environment.as_object_mut() {
            let asked = wishes.variables().into_iter();
            environment.extend(asked.map(|(name, value)| (name.to_owned(), json!(value))));
        }
        proxy.insert("environment".to_owned(), environment);
        proxy.insert("volumes".to_owned(), json!([format!("{identity}:/identity:ro")]));
        proxy.insert("tmpfs".to_owned(), json!(["/run/weft:mode=1777"]));
        let test = json!(["CMD", "/weft-proxy", "await", "--timeout=2s"]);
        proxy.insert(
            "healthcheck".to_owned(),
            json!({"test": test, "interval": "2s", "timeout": "5s", "retries": 60}),
        );
        proxy.insert(
            "depends_on".to_owned(),
            json!({
                format!("{key}{INIT}"): {"condition": "service_completed_successfully"},
                format!("{key}{TOKEN}"): {"condition": "service_completed_successfully"},
            }),
        );
        proxy.into()
    }

    /// On every network of those that ask it.
    fn control_plane(&self) -> Json {
        let command = json!(["control-plane", "--data-dir", "/data"]);
        let mut control_plane = restricted(&self.settings.image_of("weft"), command, SIDECAR_UID);
        control_plane.insert("restart".to_owned(), json!("unless-stopped"));
        control_plane.insert("environment".to_owned(), json!({"WEFT_DATA_DIR": "/data"}));
        control_plane.insert("volumes".to_owned(), json!([format!("{DATA}:/data")]));
        let networks: Vec<&String> = self.networks.keys().collect();
        control_plane.insert("networks".to_owned(), json!(networks));
        let test = json!(["CMD", "/weft", "status"]);
        control_plane.insert(
            "healthcheck".to_owned(),
            json!({"test": test, "interval": "2s", "timeout": "5s", "retries": 60}),
        );
        control_plane.into()
    }

    fn asking(&self) -> Json {
        json!({"WEFT_CONTROL_PLANE": format!("https://{CONTROL_PLANE}:7443"), "WEFT_DATA_DIR": "/data"})
    }
}

/// A container with no more rights than it needs.
fn restricted(image: &str, command: Json, user: u64) -> Map<String, Json> {
    let fields = json!({
        "image": image,
        "command": command,
        "user": format!("{user}:{user}"),
        "read_only": true,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    });
    fields.as_object().cloned().unwrap_or_default()
}

/// A service's networks, on each of which its own name leads to it still.
fn networks(key: &str, said: Option<&Json>) -> Map<String, Json> {
    let mut networks = match said {
        Some(Json::Object(networks)) => networks.clone(),
        Some(Json::Array(names)) => {
            names.iter().filter_map(Json::as_str).map(|name| (name.to_owned(), Json::Null)).collect()
        }
        _ => Map::new(),
    };
    if networks.is_empty() {
        networks.insert("default".to_owned(), Json::Null);
    }
    for settings in networks.values_mut() {
        if settings.is_null() {
            *settings = json!({});
        }
        let Some(settings) = settings.as_object_mut() else { continue };
        let aliases = settings.entry("aliases").or_insert_with(|| json!([]));
        if let Some(aliases) = aliases.as_array_mut() {
            aliases.insert(0, json!(key));
        }
    }
    networks
}

/// The container's side of published ports.
fn published(ports: Option<&Json>) -> Vec<String> {
    let target = |port: &Json| match port {
        Json::Number(port) => Some(port.to_string()),
        Json::Object(port) => {
            port.get("target").map(|target| target.as_str().map_or_else(|| target.to_string(), str::to_owned))
        }
        Json::String(port) => {
            let port = port.split('/').next().unwrap_or_default();
            port.rsplit(':').next().map(str::to_owned)
        }
        _ => None,
    };
    ports.and_then(Json::as_array).into_iter().flatten().filter_map(target).collect()
}
