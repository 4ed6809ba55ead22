//! Whose a ServiceAccount token is, asked of a real server.

use crate::support::settings;
use edgemesh_discovery::kubernetes::Reviewer;
use edgemesh_testapi::{ApiServer, Options, Resource};
use serde_json::{Value, json};

const NODE: &str = "authentication.kubernetes.io/node-name";
const POD: &str = "authentication.kubernetes.io/pod-name";
const UID: &str = "authentication.kubernetes.io/pod-uid";
/// What the server calls the first object that it is given.
const FIRST_UID: &str = "00000000-0000-4000-8000-0000000003e9";

async fn server() -> (ApiServer, Reviewer) {
    let server = ApiServer::start(Options::default()).await.unwrap();
    let reviewer = Reviewer::new(settings(&server), "mesh:agent".parse().unwrap());
    (server, reviewer)
}

fn user(account: &str, extra: Value) -> Value {
    json!({"username": format!("system:serviceaccount:{account}"), "extra": extra})
}

#[tokio::test]
async fn the_node_of_a_token_is_its_claim_or_that_of_its_pod() {
    let (server, reviewer) = server().await;
    server.know_token_for(
        "edgemesh",
        "new",
        user("mesh:agent", json!({NODE: ["edge-1"], POD: ["p"], UID: ["u"]})),
    );
    server.know_token_for("edgemesh", "old", user("mesh:agent", json!({POD: ["agent-x"], UID: [FIRST_UID]})));
    assert_eq!(reviewer.node_of("new").await, Ok("edge-1".to_owned()));

    let said = reviewer.node_of("old").await.unwrap_err();
    assert!(said.contains("pod agent-x does not exist"), "{said}");
    let pod = |spec: Value| {
        server.put(json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"namespace": "mesh", "name": "agent-x"}}));
    };
    pod(json!({}));
    let said = reviewer.node_of("old").await.unwrap_err();
    assert!(said.contains("on no node"), "{said}");
    pod(json!({"nodeName": "edge-2"}));
    assert_eq!(reviewer.node_of("old").await, Ok("edge-2".to_owned()));
    server.delete(Resource::Pods, "mesh", "agent-x");
    pod(json!({"nodeName": "edge-9"}));
    let said = reviewer.node_of("old").await.unwrap_err();
    assert!(said.contains("has been replaced"), "{said}");
}

#[tokio::test]
async fn a_token_of_anyone_or_for_anyone_else_says_nothing() {
    let (server, reviewer) = server().await;
    let on_edge_1 = || json!({NODE: ["edge-1"]});
    server.know_token_for("edgemesh", "of-another", user("mesh:other", on_edge_1()));
    server.know_token_for("edgemesh", "unbound", user("mesh:agent", json!({})));
    server.know_token_for("edgemesh", "many", user("mesh:agent", json!({NODE: ["edge-1", "edge-2"]})));
    server.know_token("for-another", user("mesh:agent", on_edge_1()));
    for (token, why) in [
        ("unknown", "does not accept the token"),
        ("for-another", "does not accept the token"),
        ("of-another", "not of the ServiceAccount mesh:agent"),
        ("unbound", "bound to no pod"),
        ("many", "bound to no pod"),
    ] {
        let said = reviewer.node_of(token).await.unwrap_err();
        assert!(said.contains(why), "{token}: {said}");
    }
}

#[tokio::test]
async fn what_keeps_the_server_from_asking_is_named() {
    let (mut server, reviewer) = server().await;
    server.let_review(false);
    let said = reviewer.node_of("a-token").await.unwrap_err();
    assert!(said.contains("`create` on tokenreviews"), "{said}");
    server.stop().await;
    let said = reviewer.node_of("a-token").await.unwrap_err();
    assert!(said.contains("cannot be asked") && !said.contains("a-token"), "{said}");
}
