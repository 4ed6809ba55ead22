//! From the bytes of one object to what is kept of it.
//!
//! What does not matter (managed fields, most labels and annotations, images of nodes) is skipped while it is read.
//! A value that a newer API server may have invented is not an error (row L11): what it belongs to counts as not
//! said, or, where that would change the meaning, as not there. What remains is judged by [`object::parse`], as
//! manifests are.

use crate::object::{self, FieldError, Identity, Kind, Object};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// Annotation of endpoints: when the pod or Service changed that they were last made anew for.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What is read of an object, and of a `Status` in its place.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slim {
    kind: Option<String>,
    metadata: Option<Meta>,
    spec: Option<Value>,
    status: Option<Status>,
    address_type: Option<Value>,
    endpoints: Option<Value>,
    ports: Option<Value>,
    subsets: Option<Value>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<Value>,
    namespace: Option<Value>,
    #[serde(skip_serializing)]
    resource_version: Option<String>,
    #[serde(default)]
    labels: Kept,
    #[serde(default)]
    annotations: Kept,
}

/// Parts of statuses that matter. Strings are statuses of `Status` objects.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conditions: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_balancer: Option<Value>,
    /// Of pods alone.
    #[serde(skip)]
    pod: PodStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: String,
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            addresses: Option<Value>,
            conditions: Option<Value>,
            load_balancer: Option<Value>,
            #[serde(flatten)]
            pod: PodStatus,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Fields(Fields),
            Other(IgnoredAny),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Fields(Fields { addresses, conditions, load_balancer, pod }) => {
                Self { addresses, conditions, load_balancer, pod }
            }
            Either::Other(_) => Self::default(),
        })
    }
}

/// Labels or annotations that Kubernetes or EdgeMesh give a meaning to.
#[derive(Serialize, Default)]
#[serde(transparent)]
struct Kept(Map<String, Value>);

fn is_kept(key: &str) -> bool {
    (key.contains("kubernetes.io/") && !key.starts_with("kubectl.")) || key.contains("edgemesh")
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keep;
        impl<'de> Visitor<'de> for Keep {
            type Value = Kept;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of strings")
            }

            fn visit_unit<E>(self) -> Result<Kept, E> {
                Ok(Kept::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kept, A::Error> {
                let mut out = Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    if is_kept(&key) {
                        out.insert(key, map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Kept(out))
            }
        }
        deserializer.deserialize_any(Keep)
    }
}

/// A decoded object.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) identity: Identity,
    pub(super) object: Object,
    /// Stands for its resource version.
    pub(super) version: u64,
    /// See [`Change::triggered`](crate::change::Change::triggered).
    pub(super) triggered: Option<u64>,
}

/// An object that does not apply.
#[derive(Debug)]
pub(super) struct Bad {
    /// Which one, as far as it says.
    pub(super) identity: Option<Identity>,
    pub(super) version: u64,
    pub(super) error: FieldError,
}

/// An event of a watch.
#[derive(Debug)]
pub(super) enum Event {
    /// `ADDED` (true) or `MODIFIED`.
    Set(bool, Result<Decoded, Bad>),
    /// `DELETED`, with what it names.
    Gone(Option<Identity>),
    /// `BOOKMARK`
    Bookmark,
    /// `ERROR` with code and message.
    Error(u16, String),
    /// A type of event that this version does not know.
    Other,
}

/// A member `metadata` that is a list's.
#[derive(Deserialize, Default, Debug)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMeta {
    pub(super) resource_version: Option<String>,
    pub(super) r#continue: Option<String>,
}

/// Milliseconds since 1970 of a moment as RFC 3339 writes it; `None` for anything else.
fn unix_millis(text: &str) -> Option<u64> {
    let at = text.parse::<k8s_openapi::jiff::Timestamp>().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

/// What a resource version is compared by.
fn version_hash(version: Option<&str>) -> u64 {
    let mut state = DefaultHasher::new();
    version.hash(&mut state);
    state.finish()
}

/// The `kind` of objects of this kind.
pub(super) const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "Service",
        Kind::EndpointSlice => "EndpointSlice",
        Kind::Endpoints => "Endpoints",
        Kind::Namespace => "Namespace",
        Kind::Node => "Node",
        Kind::ServiceCidr => "ServiceCIDR",
        Kind::Pod => "Pod",
    }
}

/// Decodes an item of a list.
pub(super) fn item(kind: Kind, bytes: &[u8]) -> Result<Decoded, Bad> {
    match serde_json::from_slice::<Slim>(bytes) {
        Ok(slim) => object(kind, slim),
        Err(error) => Err(unreadable(kind, serde_json::from_slice(bytes).ok().as_ref(), &error)),
    }
}

/// Decodes a line of a watch; with it the resource version that it brings.
///
/// # Errors
/// A text when the line is no event: then the stream is not what it should be.
pub(super) fn event(kind: Kind, line: &[u8]) -> Result<(Event, Option<String>), String> {
    #[derive(Deserialize)]
    struct Line<'a> {
        r#type: String,
        #[serde(borrow)]
        object: &'a serde_json::value::RawValue,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Failure {
        code: u16,
        reason: String,
        message: String,
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let text = line.object.get();
    let slim = || serde_json::from_str::<Slim>(text);
    let version = |slim: &Slim| slim.metadata.as_ref().and_then(|m| m.resource_version.clone());
    Ok(match line.r#type.as_str() {
        "ADDED" | "MODIFIED" => {
            let added = line.r#type == "ADDED";
            match slim() {
                Ok(slim) => {
                    let version = version(&slim);
                    (Event::Set(added, object(kind, slim)), version)
                }
                Err(e) => {
                    let bad = unreadable(kind, serde_json::from_str(text).ok().as_ref(), &e);
                    (Event::Set(added, Err(bad)), None)
                }
            }
        }
        "DELETED" => {
            let value: Option<Value> = serde_json::from_str(text).ok();
            let version = value.as_ref().and_then(|v| v.pointer("/metadata/resourceVersion"));
            let version = version.and_then(Value::as_str).map(str::to_owned);
            (Event::Gone(value.as_ref().and_then(|v| named(kind, v))), version)
        }
        "BOOKMARK" => (Event::Bookmark, slim().ok().as_ref().and_then(version)),
        "ERROR" => {
            let failure: Failure = serde_json::from_str(text).unwrap_or_default();
            (Event::Error(failure.code, format!("{} ({})", failure.message, failure.reason)), None)
        }
        _ => (Event::Other, None),
    })
}

fn object(kind: Kind, slim: Slim) -> Result<Decoded, Bad> {
    let meta = slim.metadata.unwrap_or_default();
    let version = version_hash(meta.resource_version.as_deref());
    let triggered = meta.annotations.0.get(TRIGGER).and_then(Value::as_str).and_then(unix_millis);
    let found = slim.kind.unwrap_or_else(|| kind_name(kind).to_owned());
    if kind == Kind::Pod && found == kind_name(kind) {
        let meta = serde_json::json!({ "metadata": meta });
        let none = || Bad { identity: None, version, error: FieldError::new("metadata.name", "missing") };
        let identity = named(kind, &meta).ok_or_else(none)?;
        let object = Object::Pod(slim.status.map(|status| addresses(status.pod)).unwrap_or_default());
        return Ok(Decoded { identity, object, version, triggered });
    }
    let mut fields = Map::new();
    fields.insert("kind".to_owned(), kind_name(kind).into());
    let whole = [
        ("metadata", serde_json::to_value(&meta).ok()),
        ("spec", slim.spec),
        ("status", slim.status.and_then(|s| serde_json::to_value(&s).ok())),
        ("addressType", slim.address_type),
        ("endpoints", slim.endpoints),
        ("ports", slim.ports),
        ("subsets", slim.subsets),
    ];
    fields.extend(whole.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    let mut value = Value::Object(fields);
    let identity = named(kind, &value);
    if found != kind_name(kind) {
        let text = format!("value {found:?}; accepted here: {}", kind_name(kind));
        return Err(Bad { identity, version, error: FieldError::new("kind", text) });
    }
    lenient(kind, &mut value);
    let mut out = Vec::with_capacity(1);
    if let Err(errors) = object::parse(value, &mut out) {
        let none = || FieldError::new("", "cannot be used");
        return Err(Bad { identity, version, error: errors.into_iter().next().unwrap_or_else(none) });
    }
    match out.pop() {
        Some((identity, object)) => Ok(Decoded { identity, object, version, triggered }),
        None => Err(Bad { identity, version, error: FieldError::new("kind", "unknown") }),
    }
}

/// The addresses of a pod that has not ended.
fn addresses(status: PodStatus) -> Vec<IpAddr> {
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let listed = status.pod_ips.into_iter().flatten().map(|pod| pod.ip);
    let mut all: Vec<IpAddr> =
        listed.chain(status.pod_ip).filter(|_| !ended).filter_map(|ip| object::parse_ip(&ip)).collect();
    all.sort();
    all.dedup();
    all
}

fn unreadable(kind: Kind, value: Option<&Value>, error: &serde_json::Error) -> Bad {
    let version = value.and_then(|v| v.pointer("/metadata/resourceVersion")).and_then(Value::as_str);
    let identity = value.and_then(|v| named(kind, v));
    Bad { identity, version: version_hash(version), error: FieldError::new("", error.to_string()) }
}

/// Which object a value says it is.
fn named(kind: Kind, value: &Value) -> Option<Identity> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").filter(|n| !n.is_empty() && n.len() <= 253)?.to_owned();
    let namespace = match kind {
        Kind::Service | Kind::EndpointSlice | Kind::Endpoints | Kind::Pod => {
            text("/metadata/namespace").filter(|n| !n.is_empty() && n.len() <= 253).unwrap_or("default")
        }
        Kind::Namespace | Kind::Node | Kind::ServiceCidr => "",
    };
    Some(Identity { kind, namespace: namespace.to_owned(), name })
}

/// Takes away what only a newer API can have said.
fn lenient(kind: Kind, value: &mut Value) {
    let known = |all: &[&str], v: &Value| v.as_str().is_none_or(|s| all.contains(&s));
    let protocols = |ports: Option<&mut Value>| {
        if let Some(ports) = ports.and_then(Value::as_array_mut) {
            ports.retain(|p| p.get("protocol").is_none_or(|v| known(&["TCP", "UDP", "SCTP"], v)));
        }
    };
    match kind {
        Kind::Service => {
            let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else { return };
            let fields: [(&str, &[&str]); 4] = [
                ("type", &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
                ("sessionAffinity", &["None", "ClientIP"]),
                ("internalTrafficPolicy", &["Cluster", "Local"]),
                ("externalTrafficPolicy", &["Cluster", "Local"]),
            ];
            for (field, all) in fields {
                if spec.get(field).is_some_and(|v| !known(all, v)) {
                    spec.remove(field);
                }
            }
            protocols(spec.get_mut("ports"));
        }
        Kind::EndpointSlice => {
            if let Some(family) = value.get_mut("addressType")
                && !known(&["IPv4", "IPv6", "FQDN"], family)
            {
                // Addresses of an unknown sort: as good as names, which nobody can forward to.
                *family = "FQDN".into();
            }
            protocols(value.get_mut("ports"));
        }
        Kind::Endpoints => {
            for subset in value.get_mut("subsets").and_then(Value::as_array_mut).into_iter().flatten() {
                protocols(subset.get_mut("ports"));
            }
        }
        Kind::Namespace | Kind::Node | Kind::ServiceCidr | Kind::Pod => {}
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
