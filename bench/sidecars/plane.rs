//! The programs under test: a control plane, and a real sidecar beside the simulated ones.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use weft_certs::{alpn, anchored_client_config, pem};
use weft_core::model::SpiffeId;
use weft_proto::v1;
use weft_proto::v1::admin_client::AdminClient;
use weft_runtime::task;

use crate::control_plane::{self, PATIENCE, cpu};
use crate::wire::{Counters, Security, connect};

/// A control plane, with its data in a folder of its own.
pub(crate) struct Plane {
    /// Where it is called.
    pub(crate) address: SocketAddr,
    /// Whom its callers believe.
    pub(crate) anchors: Vec<Vec<u8>>,
    http: SocketAddr,
    program: std::path::PathBuf,
    data: TempDir,
    child: Child,
}

impl Plane {
    /// Starts one.
    pub(crate) async fn start(bin: &Path) -> anyhow::Result<Self> {
        let data = TempDir::new()?;
        let program = bin.join("weft-control-plane");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (child, address, http) = run(&program, data.path(), any).await?;
        let anchors = pem::certificates(&fs::read_to_string(data.path().join("ca.pem"))?)?;
        Ok(Self { address, anchors, http, program, data, child })
    }

    /// Ends it in good order, and starts it again on the same data and address.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        let pid = self.pid()?.to_string();
        Command::new("kill").arg(&pid).status().await?;
        timeout(PATIENCE, self.child.wait()).await.context("the control plane does not end")??;
        (self.child, self.address, self.http) = run(&self.program, self.data.path(), self.address).await?;
        Ok(())
    }

    /// A caller without a certificate.
    pub(crate) async fn stranger(&self, counters: &Arc<Counters>) -> anyhow::Result<Channel> {
        let tls = anchored_client_config(&self.anchors, &identity()?, &[alpn::H2])?;
        connect(self.address, Security::Anew(tls), counters.clone()).await
    }

    /// Tokens to join by, one for each set of services.
    pub(crate) async fn tokens(&self, wanted: Vec<(String, Vec<String>)>) -> anyhow::Result<Vec<String>> {
        let admin_token = fs::read_to_string(self.data.path().join("admin.token"))?;
        let bearer: MetadataValue<_> = format!("Bearer {}", admin_token.trim()).parse()?;
        let mut admin = AdminClient::new(self.stranger(&Arc::default()).await?);
        let mut tokens = Vec::with_capacity(wanted.len());
        for (service_account, services) in wanted {
            let mut request =
                Request::new(v1::CreateTokenRequest { service_account, services, ..Default::default() });
            request.metadata_mut().insert("authorization", bearer.clone());
            tokens.push(admin.create_token(request).await?.into_inner().token);
        }
        Ok(tokens)
    }

    /// The sum of a metric's series.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let stream = TokioIo::new(TcpStream::connect(self.http).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        task::spawn("metrics", async move { drop(connection.await) });
        let request = hyper::Request::get("/metrics").header("host", "plane").body(Empty::<&[u8]>::new())?;
        let text = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        let text = String::from_utf8(text.to_vec())?;
        let series = text.lines().filter(|line| line.starts_with(name));
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Its resident memory.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        status(self.pid()?, "VmRSS:")
    }

    /// The most that it ever had.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<u64> {
        status(self.pid()?, "VmHWM:")
    }

    /// The CPU time that it has used.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu(self.pid()?)
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the control plane has ended")
    }
}

/// The control plane's identity.
pub(crate) fn identity() -> anyhow::Result<SpiffeId> {
    Ok("spiffe://mesh.local/ns/weft/sa/control-plane".parse()?)
}

async fn run(
    program: &Path,
    data: &Path,
    grpc: SocketAddr,
) -> anyhow::Result<(Child, SocketAddr, SocketAddr)> {
    let any = "127.0.0.1:0";
    let mut command = Command::new(program);
    command.args(["--http-addr", any, "--otlp-addr", any, "--grpc-addr", &grpc.to_string()]);
    command.arg("--data-dir").arg(data);
    let (child, [grpc, http]) = control_plane::start(command, ["grpc", "http"]).await?;
    Ok((child, grpc, http))
}

fn status(pid: u32, field: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib: u64 = line.and_then(|line| line.split_whitespace().next()).context("no such field")?.parse()?;
    Ok(kib << 10)
}

/// A real sidecar, without an app, that calls nobody.
pub(crate) struct Proxy {
    child: Child,
    _home: TempDir,
}

impl Proxy {
    /// Starts one, and waits until it is ready.
    pub(crate) async fn start(bin: &Path, plane: &Plane) -> anyhow::Result<Self> {
        let home = TempDir::new()?;
        let token = plane.tokens(vec![("idle".into(), Vec::new())]).await?.concat();
        fs::write(home.path().join("token"), token)?;
        let any = "127.0.0.1:0";
        let mut child = Command::new(bin.join("weft-proxy"))
            .env("WEFT_CONTROL_PLANE", format!("https://{}", plane.address))
            .env("WEFT_CA", plane.data.path().join("ca.pem"))
            .env("WEFT_TOKEN_FILE", home.path().join("token"))
            .env("WEFT_CACHE_DIR", home.path())
            .envs([("WEFT_WORKLOAD", "idle"), ("WEFT_POD_IP", "10.0.0.1"), ("WEFT_OUTBOUND_ADDR", any)])
            .envs([
                ("WEFT_INBOUND_ADDR", "127.0.0.77:4143"),
                ("WEFT_ADMIN_ADDR", any),
                ("WEFT_DNS_ADDR", any),
            ])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start weft-proxy")?;
        let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        let mut said = String::new();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if line.contains(": in sync") {
                    return Ok(());
                }
                said = line;
            }
            anyhow::bail!("the sidecar ended: {said}")
        };
        timeout(PATIENCE, ready).await.context("the sidecar is not in sync in time")??;
        task::spawn("log", async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, _home: home })
    }

    /// Its resident memory.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        status(self.child.id().context("the sidecar has ended")?, "VmRSS:")
    }
}
