//! Whose a ServiceAccount token is, and on which node its pod runs: asked of the API server (`TokenReview`).
//!
//! Life: one [`Reviewer`] for a server's life; each question makes a client of its own, with what is on disk then.
//! Bounds: two requests a question, each within [`PATIENCE`]. Tokens are passed on and forgotten: they are in no
//! log, no error and no memory afterwards. What is asked needs `create` on `tokenreviews`, and `get` on `pods` where
//! tokens do not name a node (before Kubernetes 1.32, or an agent whose pod is not bound to one).

use super::request::{Failure, escaped, get_object, post};
use super::{AccessError, Settings, access};
use serde_json::{Value, json};
use std::str::FromStr;
use std::time::Duration;

/// What tokens must be made for: `audience` of the agent's projected volume.
const AUDIENCE: &str = "edgemesh";
/// How long the API server may take for an answer: the node waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(4);
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// What the API server says of a token beside its user (KEP-4193).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// A ServiceAccount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    namespace: String,
    name: String,
}

impl FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |part: &str| {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
            (1..=253).contains(&part.len()) && part.chars().all(fits)
        };
        match text.split_once(':') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("accepted: NAMESPACE:NAME of a ServiceAccount".to_owned()),
        }
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.namespace, self.name)
    }
}

/// Asks about tokens of one ServiceAccount.
pub struct Reviewer {
    settings: Settings,
    account: Account,
}

impl Reviewer {
    /// Asks the API server that these settings name.
    pub fn new(settings: Settings, account: Account) -> Self {
        Self { settings, account }
    }

    /// Whose tokens count.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The node that the pod with this token runs on.
    ///
    /// # Errors
    /// Why the token proves nothing, or why nobody can say, in words for the operator of the node; it never
    /// contains the token.
    pub async fn node_of(&self, token: &str) -> Result<String, String> {
        let client = access::client(&self.settings).await;
        let client = client.map_err(|AccessError(e)| format!("the API server cannot be asked: {e}"))?;
        let question = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        });
        let answer = post(&client, REVIEWS, question.to_string().into_bytes(), PATIENCE).await;
        let answer = answer.map_err(|e| unasked(&e, "`create` on tokenreviews.authentication.k8s.io"))?;
        match self.place(&answer)? {
            Place::Node(node) => Ok(node),
            Place::Pod { name, uid } => {
                let path = format!("/api/v1/namespaces/{}/pods/{}", self.account.namespace, escaped(&name));
                let pod = get_object(&client, &path, PATIENCE).await.map_err(|e| match e {
                    Failure::Absent => format!("the token's pod {name} does not exist"),
                    e => unasked(&e, &format!("`get` on pods in namespace {}", self.account.namespace)),
                })?;
                node_of_pod(&pod, &name, &uid)
            }
        }
    }

    /// Where the answer to a review says that the token's pod is.
    fn place(&self, review: &Value) -> Result<Place, String> {
        let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str);
        if review.pointer("/status/authenticated").and_then(Value::as_bool) != Some(true) {
            let why = text("/status/error").unwrap_or("it does not say why");
            return Err(format!("the API server does not accept the token for audience {AUDIENCE:?}: {why}"));
        }
        // A server that does not know audiences leaves them out: then the token may have been made for anyone.
        let audiences = review.pointer("/status/audiences").and_then(Value::as_array);
        if !audiences.is_some_and(|all| all.iter().any(|a| a == AUDIENCE)) {
            return Err(format!("the token is not for audience {AUDIENCE:?}"));
        }
        let user = text("/status/user/username").unwrap_or_default();
        let Account { namespace, name } = &self.account;
        if user != format!("system:serviceaccount:{namespace}:{name}") {
            return Err(format!("the token is of {user:?}, not of the ServiceAccount {}", self.account));
        }
        let extras = review.pointer("/status/user/extra");
        let extra =
            |key| match extras.and_then(|all| all.get(key)).and_then(Value::as_array).map(Vec::as_slice) {
                Some([one]) => one.as_str().map(str::to_owned),
                _ => None,
            };
        match (extra(NODE_NAME), extra(POD_NAME), extra(POD_UID)) {
            (Some(node), ..) => Ok(Place::Node(node)),
            (None, Some(name), Some(uid)) => Ok(Place::Pod { name, uid }),
            _ => Err("the token is bound to no pod: it has to come from a projected volume".to_owned()),
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Place {
    Node(String),
    Pod { name: String, uid: String },
}

/// A pod of that name that is not the token's pod says nothing: it was made anew, perhaps on another node.
fn node_of_pod(pod: &Value, name: &str, uid: &str) -> Result<String, String> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
    if text("/metadata/uid") != Some(uid) {
        return Err(format!("the token's pod {name} has been replaced"));
    }
    let node = text("/spec/nodeName").filter(|node| !node.is_empty());
    node.map(str::to_owned).ok_or_else(|| format!("the token's pod {name} is on no node"))
}

fn unasked(failure: &Failure, right: &str) -> String {
    match failure {
        Failure::Forbidden(_) => {
            format!(
                "the API server lets this EdgeMesh server not ask: its ServiceAccount needs {right} ({failure})"
            )
        }
        _ => format!("the API server cannot be asked: {failure}"),
    }
}
