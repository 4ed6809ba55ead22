//! Credentials: where they come from, and what happens when they change.

use crate::support::{Feed, SERVICES, asked, asked_times, names_of, quick, service, start, watched};
use edgemesh_discovery::kubernetes::{Settings, Source};
use edgemesh_testapi::{ApiServer, Options, Order, Verb};
use std::path::{Path, PathBuf};

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("edgemesh-kubernetes-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn secured() -> ApiServer {
    let server = start(Options { tls: true, token: Some("first".to_owned()), ..Options::default() }).await;
    server.put(service("a"));
    server
}

fn account(server: &ApiServer, directory: &Path) -> Settings {
    Settings {
        server: Some(server.url()),
        service_account: Some(directory.to_owned()),
        timing: quick(),
        ..Settings::default()
    }
}

/// A source that follows a server with the files of a ServiceAccount.
async fn followed(name: &str) -> (Directory, ApiServer, Feed) {
    let (directory, server) = (Directory::new(name), secured().await);
    directory.write("ca.crt", &server.ca_pem().unwrap());
    directory.write("token", "first");
    let mut feed = Feed::new(account(&server, &directory.0));
    feed.services(&["a"], &[]).await;
    watched(&server, SERVICES, 1).await;
    (directory, server, feed)
}

#[tokio::test]
async fn l8_a_replaced_token_counts_after_the_first_refusal() {
    let (directory, server, mut feed) = followed("token").await;
    server.set_token(Some("second"));
    server.put(service("b"));
    feed.services(&["a", "b"], &["a"]).await;
    server.order(SERVICES, Order::End);
    server.requested(|all| all.iter().any(|r| r.unauthorized)).await;
    directory.write("token", "second");
    watched(&server, SERVICES, 1).await;
    server.put(service("c"));
    feed.services(&["a", "b", "c"], &["a", "b"]).await;
    assert_eq!(asked(&server, Verb::List).len(), 1);
    assert!(feed.reports().iter().all(|r| !r.contains("second") && !r.contains("first")));
}

#[tokio::test]
async fn l8_a_replaced_authority_counts_after_the_first_failure() {
    let (directory, server, mut feed) = followed("authority").await;
    server.rotate_ca().unwrap();
    server.cut();
    let failures = feed.health().counters().failures;
    feed.reached(|feed| feed.health().counters().failures >= failures + 5).await;
    server.put(service("b"));
    assert_eq!((feed.more(), names_of(feed.latest())), (0, vec!["a".to_owned()]));
    directory.write("ca.crt", &server.ca_pem().unwrap());
    feed.services(&["a", "b"], &["a"]).await;
}

#[tokio::test]
async fn l8_files_that_cannot_be_read_leave_what_was_read() {
    let (directory, mut server, mut feed) = followed("unreadable").await;
    std::fs::remove_file(directory.0.join("token")).unwrap();
    server.stop().await;
    let told = |feed: &Feed| feed.reports().iter().any(|r| r.contains("token") && r.contains("stay in use"));
    feed.reached(told).await;
    server.put(service("b"));
    server.resume().await.unwrap();
    feed.services(&["a", "b"], &["a"]).await;
}

#[tokio::test]
async fn a_kubeconfig_with_files_or_embedded() {
    let directory = Directory::new("kubeconfig");
    let server = secured().await;
    let authority = directory.write("authority.pem", &server.ca_pem().unwrap());
    let token = directory.write("bearer", "first");
    let yaml = |cluster: &str, user: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: '{}', {cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n",
            server.url()
        )
    };
    let files = yaml(
        &format!("certificate-authority: '{}'", authority.display()),
        &format!("tokenFile: '{}'", token.display()),
    );
    let embedded = yaml("insecure-skip-tls-verify: true", "token: first");
    for text in [files, embedded] {
        let kubeconfig = Some(directory.write("config", &text));
        let mut feed = Feed::new(Settings { kubeconfig, timing: quick(), ..Settings::default() });
        feed.services(&["a"], &[]).await;
    }
}

#[tokio::test]
async fn an_authority_that_is_not_the_servers_is_refused() {
    let directory = Directory::new("stranger");
    let (server, stranger) = (secured().await, secured().await);
    directory.write("ca.crt", &stranger.ca_pem().unwrap());
    directory.write("token", "first");
    let mut feed = Feed::new(account(&server, &directory.0));
    feed.reached(|feed| feed.health().counters().failures >= 10).await;
    assert_eq!((feed.more(), server.requests().len()), (0, 0));
    assert!(feed.reports()[0].contains("certificate"), "{:?}", feed.reports());
}

#[tokio::test]
async fn no_credentials_go_over_plain_http() {
    let directory = Directory::new("plain");
    directory.write("token", "first");
    let server = start(Options { token: Some("first".to_owned()), ..Options::default() }).await;
    let _feed = Feed::new(account(&server, &directory.0));
    asked_times(&server, Verb::List, 3).await;
    assert!(server.requests().iter().all(|r| r.unauthorized));
}

#[test]
fn settings_that_cannot_work_are_named() {
    let directory = Directory::new("nothing");
    let error = |settings: Settings| match Source::spawn(settings, |_| {}, |_| {}) {
        Ok(_) => panic!("it works"),
        Err(error) => error.to_string(),
    };
    let none = Settings::default();
    assert!(error(none.clone()).contains("KUBERNETES_SERVICE_HOST"));
    let missing = directory.0.join("missing");
    let text = error(Settings { kubeconfig: Some(missing), ..none.clone() });
    assert!(text.starts_with("kubeconfig ") && text.contains("missing"), "{text}");
    let broken = directory.write("broken", "clusters: 7");
    assert!(error(Settings { kubeconfig: Some(broken), ..none.clone() }).starts_with("kubeconfig "));
    let server = Some("https://192.0.2.1:6443".to_owned());
    let text = error(Settings { server, service_account: Some(directory.0.clone()), ..none.clone() });
    assert!(text.contains("token") && text.contains("192.0.2.1"), "{text}");
    let text = error(Settings { server: Some("ftp://x".to_owned()), ..none });
    assert!(text.contains("accepted: http://HOST:PORT"), "{text}");
}
