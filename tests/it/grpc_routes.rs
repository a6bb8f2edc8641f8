//! GRPCRoute with gRPC's own implementation at both ends: MeshGRPCRouteWeight, and mirrors.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use weft_tests::{Mesh, Options, Process, SidecarPod, eventually, python};

use crate::peers::RUN;
use crate::{in_pods, weft};

/// A caller and two versions of a server, `echo` being both.
struct Rig {
    mesh: Mesh,
    caller: SidecarPod,
    versions: [SidecarPod; 2],
    _apps: [Process; 2],
}

impl Rig {
    /// `None` where grpcio is not installed.
    fn start() -> Option<Self> {
        python("grpc_server.py")?;
        let services = "apiVersion: v1\nkind: Service\nmetadata: {name: echo}\nspec:\n  selector: {app: echo}\n  \
                        ports: [{port: 50051, appProtocol: kubernetes.io/h2c}]\n";
        let config = vec![("services.yaml", services.to_owned())];
        let mesh = Mesh::start(weft(), Options { config, ..Options::default() });
        let versions = ["echo-v1", "echo-v2"].map(|name| {
            let token = mesh.weft_ok(&["token", "create", "--service-account", name]);
            mesh.pod_with_token(name, &format!("{name}:50051"), &token, &[("WEFT_LABELS", "app=echo")])
        });
        let apps = [&versions[0], &versions[1]].map(|pod| {
            let mut command = python("grpc_server.py").expect("it was just there");
            command.arg("50051");
            let mut app = pod.app(command);
            eventually("the server listens", Duration::from_secs(30), || {
                assert!(app.is_running(), "{}", app.output());
                pod.run(|| TcpStream::connect(("127.0.0.1", 50051)).is_ok())
            });
            app
        });
        let caller = mesh.pod("caller", "");
        Some(Self { mesh, caller, versions, _apps: apps })
    }

    fn apply(&self, rule: &str) {
        let file = self.mesh.scratch().join("route.yaml");
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: echo}}\nspec:\n  \
             parentRefs: [{{group: \"\", kind: Service, name: echo}}]\n  rules:\n  - {rule}\n"
        );
        fs::write(&file, text).expect("a file");
        self.mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
        eventually("the sidecars have it", Duration::from_secs(10), || {
            let status = self.mesh.weft_json(&["status"]);
            status.as_array().is_some_and(|all| all.iter().all(|sidecar| sidecar["in_sync"] == true))
        });
    }

    /// So many calls over one channel, each of which must succeed.
    fn call(&self, count: u32) {
        let mut command = python("grpc_client.py").expect("it was there for the server");
        command.args(["calls", "echo:50051", &count.to_string()]);
        self.caller.succeed(command, RUN);
    }

    /// How many calls each version has been given.
    fn seen(&self) -> [f64; 2] {
        let labels = ["direction=\"inbound\"", "protocol=\"grpc\""];
        [&self.versions[0], &self.versions[1]].map(|pod| pod.metric("weft_requests_total", &labels))
    }
}

#[test]
fn calls_of_one_channel_are_shared_out_by_weight() {
    in_pods!(calls_of_one_channel_are_shared_out_by_weight, || {
        let Some(rig) = Rig::start() else { return };
        // MeshGRPCRouteWeight.
        rig.apply(
            "backendRefs: [{name: echo-v1, port: 50051, weight: 70}, {name: echo-v2, port: 50051, weight: 30}]",
        );
        rig.call(500);
        let [one, two] = rig.seen();
        // Five standard deviations.
        assert!(one + two == 500.0 && (one - 350.0).abs() < 52.0, "{one} and {two}");
        rig.apply(
            "backendRefs: [{name: echo-v1, port: 50051, weight: 0}, {name: echo-v2, port: 50051, weight: 1}]",
        );
        rig.call(50);
        assert_eq!(rig.seen(), [one, two + 50.0]);
    });
}

#[test]
fn calls_are_mirrored() {
    in_pods!(calls_are_mirrored, || {
        let Some(rig) = Rig::start() else { return };
        rig.apply(
            "{backendRefs: [{name: echo-v1, port: 50051}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 50051}}}]}",
        );
        rig.call(40);
        assert_eq!(rig.seen()[0], 40.0);
        eventually("the mirror has been given as many", Duration::from_secs(10), || rig.seen()[1] == 40.0);
        // What it was given were calls that it could answer.
        let answered = ["direction=\"inbound\"", "grpc_status=\"0\""];
        assert_eq!(rig.versions[1].metric("weft_requests_total", &answered), 40.0);
    });
}
