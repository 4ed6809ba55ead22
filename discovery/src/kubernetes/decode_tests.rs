use super::*;
use crate::object::ServiceKind;
use serde_json::json;

fn decode(kind: Kind, value: &Value) -> Result<Decoded, Bad> {
    item(kind, value.to_string().as_bytes())
}

fn service(spec: &Value) -> Result<Object, String> {
    let value = json!({"metadata": {"name": "a", "resourceVersion": "5"}, "spec": spec});
    decode(Kind::Service, &value).map(|d| d.object).map_err(|b| b.error.to_string())
}

#[test]
fn what_does_not_matter_is_skipped() {
    let value = json!({
        "metadata": {
            "name": "a", "namespace": "n", "resourceVersion": "5",
            "managedFields": [{"weird": [1, {"x": "y"}]}],
            "labels": {"app": {"not": "a string"}, "service.kubernetes.io/service-proxy-name": "x"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        "spec": {"clusterIP": "10.0.0.1", "somethingNew": {"deep": []}},
        "status": "odd",
    });
    let got = decode(Kind::Service, &value).unwrap();
    assert_eq!((got.identity.namespace.as_str(), got.identity.name.as_str()), ("n", "a"));
    let Object::Service(service) = got.object else { panic!() };
    assert_eq!(service.flags, edgemesh_core::wire::feed::FLAG_NO_PROXY);
}

#[test]
fn l11_values_that_a_newer_server_invented_are_not_errors() {
    let new = json!({"clusterIP": "10.0.0.1", "type": "Galactic", "sessionAffinity": "Mood",
                     "internalTrafficPolicy": "Sometimes", "trafficDistribution": "PreferMars",
                     "ports": [{"port": 1, "protocol": "QUIC"}, {"port": 2}]});
    let Object::Service(got) = service(&new).unwrap() else { panic!() };
    assert_eq!(
        (got.kind, got.affinity_secs, got.flags),
        (ServiceKind::ClusterIp(vec!["10.0.0.1".parse().unwrap()]), 0, 0)
    );
    assert_eq!(got.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [2]);
    let slice = json!({"metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "a"}},
                       "addressType": "Onion", "endpoints": [{"addresses": ["xyz.onion"]}],
                       "ports": [{"name": "", "port": 1, "protocol": "QUIC"}]});
    let Object::EndpointSlice(got) = decode(Kind::EndpointSlice, &slice).unwrap().object else { panic!() };
    assert!(got.group.endpoints.is_empty() && got.group.ports.is_empty());
    let line = br#"{"type":"RENAMED","object":{}}"#;
    assert!(matches!(event(Kind::Service, line), Ok((Event::Other, None))));
}

#[test]
fn what_is_wrong_is_named() {
    let bad = |kind, value: &Value| decode(kind, value).unwrap_err();
    let foreign = bad(Kind::Service, &json!({"kind": "Secret", "metadata": {"name": "a"}}));
    assert_eq!((foreign.identity.unwrap().name, foreign.error.field), ("a".to_owned(), "kind".to_owned()));
    let typed =
        bad(Kind::Service, &json!({"metadata": {"name": "a", "namespace": "n", "labels": 5}, "spec": {}}));
    assert_eq!(typed.identity.unwrap().namespace, "n");
    assert!(bad(Kind::Service, &json!({"metadata": {"name": 5}})).identity.is_none());
    assert!(item(Kind::Service, b"{broken").unwrap_err().identity.is_none());
    let ports: Vec<Value> = (1..=10_000).map(|p| json!({"port": p, "name": format!("p{p}")})).collect();
    assert!(
        service(&json!({"clusterIP": "None", "ports": ports}))
            .unwrap_err()
            .starts_with("spec.ports: too many")
    );
    let long = bad(Kind::Service, &json!({"metadata": {"name": "x".repeat(100_000)}}));
    assert!(long.identity.is_none());
}

#[test]
fn events_are_told_apart() {
    let object = json!({"metadata": {"name": "a", "resourceVersion": "9"}, "spec": {"clusterIP": "None"}});
    let line = |kind: &str, object: &Value| json!({"type": kind, "object": object}).to_string().into_bytes();
    let (got, version) = event(Kind::Service, &line("ADDED", &object)).unwrap();
    assert!(matches!(got, Event::Set(true, Ok(_))) && version.as_deref() == Some("9"));
    let (got, version) = event(Kind::Service, &line("DELETED", &object)).unwrap();
    assert!(matches!(got, Event::Gone(Some(id)) if id.name == "a") && version.as_deref() == Some("9"));
    let (got, version) = event(Kind::Service, &line("BOOKMARK", &object)).unwrap();
    assert!(matches!(got, Event::Bookmark) && version.as_deref() == Some("9"));
    let status =
        json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "m"});
    let (got, _) = event(Kind::Service, &line("ERROR", &status)).unwrap();
    assert!(matches!(got, Event::Error(410, text) if text == "m (Expired)"));
    assert!(event(Kind::Service, b"{\"type\":\"ADDED\",\"obj").is_err());
    assert!(event(Kind::Service, b"<html>").is_err());
}

#[test]
fn r5_the_moment_of_the_change_is_that_of_the_annotation() {
    let triggered = |at: Value| {
        let value = json!({
            "metadata": {"name": "a", "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": at}},
            "addressType": "IPv4", "endpoints": [],
        });
        decode(Kind::EndpointSlice, &value).unwrap().triggered
    };
    assert_eq!(triggered(json!("2024-01-02T03:04:05Z")), Some(1_704_164_645_000));
    assert_eq!(triggered(json!("2024-01-02T04:04:05.678901+01:00")), Some(1_704_164_645_678));
    for none in [json!("yesterday"), json!(""), json!(5), json!("1960-01-01T00:00:00Z")] {
        assert_eq!(triggered(none), None);
    }
}
