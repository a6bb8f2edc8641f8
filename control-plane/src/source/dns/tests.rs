//! DNS as a source, against a server that answers what it is told to.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use hickory_resolver::proto::serialize::binary::{BinDecodable as _, BinEncodable as _};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use weft_core::compile;
use weft_core::manifest::{SourceFile, read};
use weft_core::model::Endpoint;
use weft_core::world::Defaults;

use super::*;
use crate::leader::Leadership;
use crate::push::Hub;
use crate::store::Store;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a name has.
#[derive(Debug, Clone)]
enum Said {
    Records(Vec<RData>),
    Code(ResponseCode),
}

type Zone = Arc<Mutex<HashMap<(String, RecordType), Said>>>;

/// A control plane's world that asks a server of its own.
struct Place {
    zone: Zone,
    world: Arc<World>,
    metrics: Arc<Metrics>,
    _dir: TempDir,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Place {
    async fn start(documents: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let defaults = Defaults {
            trust_domain: "mesh.local".parse().unwrap(),
            service_cidrs: vec!["240.64.0.0/12".parse().unwrap()],
        };
        let (store, metrics) = (Store::open(dir.path()).unwrap(), Metrics::new());
        let world =
            World::open(defaults, store, Leadership::alone(), Arc::new(Hub::default()), metrics.clone())
                .await
                .unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let zone = Zone::default();
        let (publishing, asking) = (world.clone(), (world.clone(), metrics.clone()));
        let tasks = vec![
            task::spawn("test-dns", serve(socket, zone.clone())),
            task::spawn("test-world", publishing.run()),
            task::spawn("test-source", async move {
                Dns::open(asking.0, asking.1, vec![server]).await.run().await;
            }),
        ];
        let place = Self { zone, world, metrics, _dir: dir, tasks };
        place.document(documents);
        place
    }

    fn document(&self, text: &str) {
        let mut reading = read(&[SourceFile { name: "mesh.yaml", text }], &"shop".parse().unwrap());
        assert_eq!(reading.problems, []);
        let resources = std::mem::take(&mut reading.resources);
        self.world.apply(Change::Documents { source: "config-dir".into(), resources });
    }

    fn has(&self, name: &str, records: &[RData]) {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
            let own = records.iter().filter(|record| record.record_type() == kind).cloned().collect();
            lock(&self.zone).insert((format!("{name}."), kind), Said::Records(own));
        }
    }

    fn fails(&self, name: &str, code: ResponseCode) {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
            lock(&self.zone).insert((format!("{name}."), kind), Said::Code(code));
        }
    }

    /// Waits until these are the endpoints of `pg`, each by address, target port and weight.
    async fn until(&self, wanted: &[(&str, u16, u32)]) {
        let wanted: Vec<_> =
            wanted.iter().map(|(at, port, weight)| ((*at).to_owned(), *port, *weight)).collect();
        let waiting = async {
            let mut published = self.world.published();
            while self.endpoints() != wanted {
                published.changed().await.unwrap();
            }
        };
        let in_time = timeout(PATIENCE, waiting).await;
        assert!(in_time.is_ok(), "{:?} in place of {wanted:?}", self.endpoints());
    }

    fn endpoints(&self) -> Vec<(String, u16, u32)> {
        let shown = |endpoint: &Endpoint| {
            let (address, port) = (endpoint.addresses[0].to_string(), endpoint.ports[0].target_port);
            (address, port, endpoint.weight)
        };
        let service = "shop/pg".parse().unwrap();
        let all = self.world.read(|known| compile::endpoints(known, &service)).unwrap_or_default();
        all.iter().map(shown).collect()
    }

    /// Waits until it was asked in vain so often.
    async fn until_failed(&self, times: u64) {
        let failed = async {
            while self.metrics.dns_failed.value() < times {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, failed).await.expect("a failure in time");
    }
}

async fn serve(socket: UdpSocket, zone: Zone) {
    let mut buffer = [0; 1024];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let asked = Message::from_bytes(&buffer[..length]).unwrap();
        let query = asked.queries[0].clone();
        let name = query.name().to_string().to_lowercase();
        let said = lock(&zone).get(&(name, query.query_type())).cloned();
        let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
        answer.add_query(query.clone());
        match said.unwrap_or(Said::Code(ResponseCode::NXDomain)) {
            Said::Records(records) => {
                let record = |data| Record::from_rdata(query.name().clone(), 0, data);
                answer.add_answers(records.into_iter().map(record));
            }
            Said::Code(code) => answer.metadata.response_code = code,
        }
        socket.send_to(&answer.to_bytes().unwrap(), from).await.unwrap();
    }
}

fn a(last: u8) -> RData {
    RData::A(A(Ipv4Addr::new(10, 0, 0, last)))
}

fn aaaa(last: u16) -> RData {
    RData::AAAA(AAAA(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)))
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: pg}\nspec: {selector: {app: pg}, ports: [{port: 5432, targetPort: pg}]}\n---\n";

fn workload(spec: &str) -> String {
    format!(
        "{SERVICE}apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: pg, labels: {{app: pg}}}}\nspec: {spec}\n"
    )
}

#[tokio::test]
async fn addresses_of_both_families_come_and_go_and_no_answer_takes_nobody_away() {
    let place = Place::start(&workload("{address: pg.example, ports: [{port: 5433, name: pg}]}")).await;
    place.has("pg.example", &[a(2), a(1), aaaa(1)]);
    place.until(&[("10.0.0.1", 5433, 1), ("10.0.0.2", 5433, 1), ("fd00::1", 5433, 1)]).await;
    place.has("pg.example", &[a(2), a(3), RData::A(A(Ipv4Addr::new(240, 64, 0, 9)))]);
    let two = [("10.0.0.2", 5433, 1), ("10.0.0.3", 5433, 1)];
    place.until(&two).await;

    for code in [ResponseCode::NXDomain, ResponseCode::ServFail] {
        place.fails("pg.example", code);
        place.until_failed(place.metrics.dns_failed.value() + 1).await;
        place.until(&two).await;
    }
    // Nor does an answer without any address: whoever empties a zone by mistake does not empty the mesh.
    place.has("pg.example", &[]);
    place.until_failed(place.metrics.dns_failed.value() + 1).await;
    place.until(&two).await;
    place.has("pg.example", &[a(4)]);
    place.until(&[("10.0.0.4", 5433, 1)]).await;
}

#[tokio::test]
async fn service_records_say_port_and_weight_and_the_first_priority_is_taken() {
    let place = Place::start(&workload("{srv: _pg._tcp.example, ports: [{name: pg}]}")).await;
    place.has("one.example", &[a(1)]);
    place.has("two.example", &[a(2), aaaa(2)]);
    place.has(
        "_pg._tcp.example",
        &[
            srv(1, 60, 5433, "one.example."),
            srv(1, 20, 5434, "two.example."),
            srv(2, 1, 5435, "spare.example."),
        ],
    );
    place.until(&[("10.0.0.1", 5433, 60), ("10.0.0.2", 5434, 20), ("fd00::2", 5434, 20)]).await;
    // One host that cannot be found leaves all as they were.
    place.has("_pg._tcp.example", &[srv(1, 1, 5433, "one.example."), srv(1, 1, 5433, "nowhere.example.")]);
    place.until_failed(1).await;
    place.until(&[("10.0.0.1", 5433, 60), ("10.0.0.2", 5434, 20), ("fd00::2", 5434, 20)]).await;
    // RFC 2782: a target of "." says that the service is decidedly not available.
    place.has("_pg._tcp.example", &[srv(0, 0, 0, ".")]);
    place.until(&[]).await;
}

#[tokio::test]
async fn what_the_document_says_anew_holds_at_once_and_with_it_all_of_them_go() {
    let place = Place::start(&workload("{address: pg.example, ports: [{port: 5433, name: pg}]}")).await;
    place.has("pg.example", &[a(1)]);
    place.until(&[("10.0.0.1", 5433, 1)]).await;
    // DNS is not needed for that.
    place.fails("pg.example", ResponseCode::ServFail);
    place.document(&workload("{address: pg.example, ports: [{port: 6000, name: pg}], weight: 4}"));
    place.until(&[("10.0.0.1", 6000, 4)]).await;
    place.document(SERVICE);
    place.until(&[]).await;
}
