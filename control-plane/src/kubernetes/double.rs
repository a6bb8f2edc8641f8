//! A double of the API server for tests: real HTTP, lists in pages, watches with bookmarks that expire, patches that are
//! merged, optimistic locking. It knows no schemas and admits nobody without its token.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use weft_runtime::task;

const TOKEN: &str = "the-token-of-the-control-plane";
/// What a list may be asked for without the whole of it at once.
const NOT_FOUND: (u16, &str) = (404, "the server could not find the requested resource");

/// The double. Dropped, it is away for good.
#[derive(Debug)]
pub(crate) struct Double {
    cluster: Arc<Cluster>,
    address: SocketAddr,
    folder: TempDir,
}

#[derive(Debug)]
struct Cluster {
    state: Mutex<State>,
    /// Counts what happens: watches look when it changes.
    happened: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// By the path of their collection of all namespaces, then by namespace and name.
    objects: BTreeMap<String, BTreeMap<(String, String), Value>>,
    version: u64,
    /// What has happened: version, collection, type, object.
    log: Vec<(u64, String, &'static str, Value)>,
    /// Watches from before here have expired.
    oldest: u64,
    bookmarks: u64,
    /// Kinds that there are.
    kinds: BTreeSet<String>,
    requests: Vec<String>,
    is_away: bool,
    /// Connections that it has taken and dropped since it went away.
    turned_away: u64,
    /// Grows when every connection is cut.
    cuts: u64,
    longest_page: usize,
    /// Writes that are still to be refused, by the path of their collection.
    refusals: BTreeMap<String, u32>,
}

type Body = BoxBody<Bytes, Infallible>;

/// What a request is about.
struct Subject {
    collection: String,
    namespace: String,
    name: String,
    is_status: bool,
}

impl Double {
    /// One that has these kinds, by the paths of their collections: `/api/v1/pods`.
    pub(crate) async fn start(kinds: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            version: 1,
            longest_page: 500,
            ..State::default()
        };
        let cluster = Arc::new(Cluster { state: Mutex::new(state), happened: watch::Sender::new(0) });
        task::spawn("double", serve(listener, Arc::downgrade(&cluster)));
        Self { cluster, address, folder: TempDir::new().unwrap() }
    }

    /// The way to it, as a file.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        let path = self.folder.path().join("config");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "double",
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "weft", "namespace": "weft"}}],
            "clusters": [{"name": "double", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "weft", "user": {"token": TOKEN}}],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Makes an object, or makes it be so.
    pub(crate) fn put(&self, collection: &str, object: Value) {
        self.cluster.lock().write(collection, object);
        self.cluster.wake();
    }

    pub(crate) fn delete(&self, collection: &str, namespace: &str, name: &str) {
        self.cluster.lock().delete(collection, namespace, name).expect("it is there");
        self.cluster.wake();
    }

    pub(crate) fn object(&self, collection: &str, namespace: &str, name: &str) -> Option<Value> {
        let state = self.cluster.lock();
        state.objects.get(collection)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Tells every watch how far it is.
    pub(crate) fn bookmark(&self) {
        self.cluster.lock().bookmarks += 1;
        self.cluster.wake();
    }

    /// Forgets what has happened so far.
    pub(crate) fn compact(&self) {
        let mut state = self.cluster.lock();
        state.oldest = state.version;
        state.log.clear();
    }

    /// Is away, or there again; what is open is cut.
    pub(crate) fn go_away(&self, is_away: bool) {
        let mut state = self.cluster.lock();
        state.is_away = is_away;
        state.turned_away = 0;
        state.cuts += 1;
        drop(state);
        self.cluster.wake();
    }

    /// How often it was called since it is away.
    pub(crate) fn calls_in_vain(&self) -> u64 {
        self.cluster.lock().turned_away
    }

    /// Waits until it was called so often while it is away.
    pub(crate) async fn turned_away(&self, connections: u64) {
        let mut happened = self.cluster.happened.subscribe();
        happened.wait_for(|_| self.cluster.lock().turned_away >= connections).await.unwrap();
    }

    /// Refuses so many writes of this kind as if somebody else had been quicker.
    pub(crate) fn refuse(&self, collection: &str, writes: u32) {
        self.cluster.lock().refusals.insert(collection.to_owned(), writes);
    }

    /// Answers a list with so many objects at most, whatever was asked for.
    pub(crate) fn shorten_pages(&self, objects: usize) {
        self.cluster.lock().longest_page = objects;
    }

    /// `GET /api/v1/pods?limit=500`, each since the last time.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.cluster.lock().requests)
    }
}

impl Cluster {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Counts whoever calls while it is.
    fn is_away(&self) -> bool {
        let mut state = self.lock();
        state.turned_away += u64::from(state.is_away);
        let is_away = state.is_away;
        drop(state);
        self.wake();
        is_away
    }

    fn wake(&self) {
        self.happened.send_modify(|count| *count += 1);
    }
}

impl State {
    fn write(&mut self, collection: &str, mut object: Value) -> Value {
        self.version += 1;
        let metadata = object["metadata"].as_object_mut().expect("an object has metadata");
        metadata.insert("resourceVersion".into(), self.version.to_string().into());
        let uid = format!("uid-{}", self.version);
        metadata.entry("uid").or_insert(uid.into());
        metadata.entry("creationTimestamp").or_insert("2026-01-01T00:00:00Z".into());
        metadata.entry("generation").or_insert(1.into());
        let key = key_of(&object);
        let before = self.objects.entry(collection.to_owned()).or_default().insert(key, object.clone());
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.log.push((self.version, collection.to_owned(), kind, object.clone()));
        object
    }

    fn delete(&mut self, collection: &str, namespace: &str, name: &str) -> Option<Value> {
        let mut object = self.objects.get_mut(collection)?.remove(&(namespace.into(), name.into()))?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.log.push((self.version, collection.to_owned(), "DELETED", object.clone()));
        Some(object)
    }

    fn list(
        &self,
        Subject { collection, namespace, .. }: &Subject,
        query: &BTreeMap<String, String>,
    ) -> Result<Value, (u16, &'static str)> {
        // `VERSION/OBJECTS BEFORE`: a page is of what was, which is no longer known after a compaction.
        let (version, begin) = match query.get("continue").and_then(|token| token.split_once('/')) {
            Some((version, begin)) => (version.parse().unwrap(), begin.parse().unwrap()),
            None => (self.version, 0_usize),
        };
        if version < self.oldest {
            return Err((410, "The provided continue parameter is too old"));
        }
        let limit: usize = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let limit = limit.min(self.longest_page);
        let all = self.objects.get(collection).into_iter().flat_map(BTreeMap::values);
        let all: Vec<_> = all.filter(|object| is_meant(object, namespace, query)).collect();
        let page: Vec<_> = all.iter().skip(begin).take(limit).map(|object| untyped(object)).collect();
        let next = begin + page.len();
        let next = if next < all.len() { format!("{version}/{next}") } else { String::new() };
        Ok(json!({"metadata": {"resourceVersion": version.to_string(), "continue": next}, "items": page}))
    }
}

/// Whether it is in the namespace, where one is named, and has the label, with its value where one is named.
fn is_meant(object: &Value, namespace: &str, query: &BTreeMap<String, String>) -> bool {
    let metadata = &object["metadata"];
    let selected = query.get("labelSelector").is_none_or(|selector| {
        let (label, value) =
            selector.split_once('=').map_or((selector.as_str(), None), |(l, v)| (l, Some(v)));
        metadata["labels"].get(label).is_some_and(|found| value.is_none_or(|value| found == value))
    });
    selected && (namespace.is_empty() || metadata["namespace"] == namespace)
}

/// More than this a Secret may not hold.
fn is_too_large(object: &Value) -> bool {
    let data = object["data"].as_object().into_iter().flatten();
    data.map(|(_, value)| value.as_str().unwrap_or_default().len() / 4 * 3).sum::<usize>() > 1 << 20
}

/// Lists of Kubernetes' own kinds leave out what the list says.
fn untyped(object: &Value) -> Value {
    let mut object = object.clone();
    object.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
    object
}

fn key_of(object: &Value) -> (String, String) {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

async fn serve(listener: TcpListener, cluster: std::sync::Weak<Cluster>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let Some(cluster) = cluster.upgrade() else { return };
        if cluster.is_away() {
            continue;
        }
        let (mut happened, cuts) = (cluster.happened.subscribe(), cluster.lock().cuts);
        let cut = cluster.clone();
        let service = service_fn(move |request| {
            let cluster = cluster.clone();
            async move { Ok::<_, Infallible>(answer(&cluster, request).await) }
        });
        task::spawn("double-connection", async move {
            tokio::select! {
                _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service) => {}
                _ = happened.wait_for(|_| cut.lock().cuts != cuts) => {}
            }
        });
    }
}

async fn answer(cluster: &Arc<Cluster>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    cluster.lock().requests.push(format!("{} {target}", head.method));
    let shown = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    if shown != Some(&format!("Bearer {TOKEN}")) {
        return refused((401, "Unauthorized"));
    }
    let query = query(head.uri.query().unwrap_or_default());
    let kind = head.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let object: Value = serde_json::from_slice(&body).unwrap_or_default();
    let subject = subject(head.uri.path());
    if !cluster.lock().kinds.contains(&subject.collection) {
        return refused(NOT_FOUND);
    }
    if query.contains_key("watch") {
        return watched(cluster, subject, query);
    }
    let answered = act(&mut cluster.lock(), &head.method, &subject, kind, object, &query);
    cluster.wake();
    match answered {
        Ok((status, object)) => said(status, &object),
        Err(refusal) => refused(refusal),
    }
}

fn act(
    state: &mut State,
    method: &Method,
    subject: &Subject,
    kind: &str,
    mut object: Value,
    query: &BTreeMap<String, String>,
) -> Result<(u16, Value), (u16, &'static str)> {
    let Subject { collection, namespace, name, is_status } = subject;
    let before =
        state.objects.get(collection).and_then(|all| all.get(&(namespace.clone(), name.clone()))).cloned();
    if *method != Method::GET
        && let Some(left) = state.refusals.get_mut(collection)
        && *left > 0
    {
        *left -= 1;
        return Err((409, "the object has been modified"));
    }
    match *method {
        Method::GET if name.is_empty() => state.list(subject, query).map(|list| (200, list)),
        Method::GET => before.map(|object| (200, object)).ok_or(NOT_FOUND),
        Method::POST => {
            let there = state.objects.get(collection).is_some_and(|all| all.contains_key(&key_of(&object)));
            if is_too_large(&object) {
                return Err((422, "data: Too long: may not be more than 1048576 bytes"));
            }
            if there { Err((409, "already exists")) } else { Ok((201, state.write(collection, object))) }
        }
        Method::PUT => {
            let before = before.ok_or(NOT_FOUND)?;
            if object["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"] {
                return Err((409, "the object has been modified"));
            }
            Ok((200, state.write(collection, object)))
        }
        Method::PATCH => {
            let applies = kind == "application/apply-patch+yaml";
            if !applies && kind != "application/merge-patch+json" {
                return Err((415, "no such patch"));
            }
            if applies && query.get("fieldManager").is_none() {
                return Err((400, "fieldManager is required for apply patch"));
            }
            let mut after = match before {
                Some(before) => before,
                None if applies && !is_status => json!({}),
                None => return Err(NOT_FOUND),
            };
            if *is_status {
                object = json!({"status": object["status"]});
            }
            let version = &object["metadata"]["resourceVersion"];
            if !version.is_null() && *version != after["metadata"]["resourceVersion"] {
                return Err((409, "the object has been modified"));
            }
            let unchanged = after.clone();
            merge(&mut after, &object);
            if is_too_large(&after) {
                return Err((422, "data: Too long: may not be more than 1048576 bytes"));
            }
            if after == unchanged { Ok((200, after)) } else { Ok((200, state.write(collection, after))) }
        }
        Method::DELETE => {
            state.delete(collection, namespace, name).map(|object| (200, object)).ok_or(NOT_FOUND)
        }
        _ => Err((405, "no such verb")),
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        patch.clone_into(target);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let object = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn watched(cluster: &Arc<Cluster>, subject: Subject, query: BTreeMap<String, String>) -> Response<Body> {
    let mut place: u64 = query["resourceVersion"].parse().unwrap();
    let (sender, receiver) = mpsc::channel(16);
    let (weak, Subject { collection, namespace, .. }) = (Arc::downgrade(cluster), subject);
    let mut happened = cluster.happened.subscribe();
    let mut bookmarks = cluster.lock().bookmarks;
    task::spawn("double-watch", async move {
        loop {
            let Some(cluster) = weak.upgrade() else { return };
            let mut lines = Vec::new();
            {
                let state = cluster.lock();
                if place < state.oldest {
                    lines.push(json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}));
                }
                let news = state.log.iter().filter(|(version, of, _, object)| {
                    *version > place && *of == collection && is_meant(object, &namespace, &query)
                });
                lines.extend(news.map(|(_, _, kind, object)| json!({"type": kind, "object": object})));
                if lines.first().is_none_or(|line| line["type"] != "ERROR") {
                    place = state.version;
                }
                if state.bookmarks != bookmarks {
                    bookmarks = state.bookmarks;
                    lines.push(json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": place.to_string()}}}));
                }
            }
            drop(cluster);
            for line in lines {
                let is_last = line["type"] == "ERROR";
                let frame = Frame::data(Bytes::from(format!("{line}\n")));
                if sender.send(Ok(frame)).await.is_err() || is_last {
                    return;
                }
            }
            tokio::select! {
                changed = happened.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    Response::new(StreamBody::new(ReceiverStream::new(receiver)).boxed())
}

fn subject(path: &str) -> Subject {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let is_status = parts.last() == Some(&"status");
    if is_status {
        parts.pop();
    }
    let head = if parts.first() == Some(&"api") { 2 } else { 3 };
    let mut rest = parts.split_off(head.min(parts.len()));
    let mut namespace = String::new();
    if rest.first() == Some(&"namespaces") && rest.len() > 2 {
        namespace = rest[1].to_owned();
        rest.drain(..2);
    }
    let name = rest.get(1).copied().unwrap_or_default().to_owned();
    let collection = format!("/{}/{}", parts.join("/"), rest.first().copied().unwrap_or_default());
    Subject { collection, namespace, name, is_status }
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(key, value)| (key.to_owned(), value.replace("%2F", "/").replace("%3D", "="))).collect()
}

fn said(status: u16, object: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(object.to_string())).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn refused((code, message): (u16, &str)) -> Response<Body> {
    said(code, &json!({"kind": "Status", "status": "Failure", "code": code, "message": message}))
}
