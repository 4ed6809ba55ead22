//! The test API server as a program, for scenarios that are driven from a shell.
//!
//! Objects come from files at start, and from `curl -X PUT` (or `POST`, `DELETE`) on their own URLs after that.
//! The first line on standard output is the URL it serves.

use clap::Parser;
use edgemesh_testapi::{ApiServer, Options, Resource};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "A Kubernetes API server for tests")]
struct Cli {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Serve HTTPS and write the certificate authority to this file.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Further name or address in the certificate.
    #[arg(long, value_name = "NAME")]
    tls_name: Vec<String>,
    /// Ask for this bearer token.
    #[arg(long)]
    token: Option<String>,
    /// A ServiceAccount token that TokenReview knows, as TOKEN=NAMESPACE:NAME[@NODE].
    #[arg(long, value_name = "TOKEN=NAMESPACE:NAME[@NODE]", value_parser = account)]
    account: Vec<(String, Value)>,
    /// Whom these tokens are for.
    #[arg(long, value_name = "NAME", default_value = "https://kubernetes.default.svc")]
    audience: String,
    /// Behave as KubeEdge's metaServer.
    #[arg(long)]
    meta_server: bool,
    /// Do not serve this resource.
    #[arg(long, value_name = "PLURAL", value_parser = resource)]
    absent: Vec<Resource>,
    /// Seconds between bookmarks.
    #[arg(long, value_name = "SECONDS")]
    bookmarks: Option<u64>,
    /// YAML or JSON files, one object in each document.
    files: Vec<PathBuf>,
}

fn resource(text: &str) -> Result<Resource, String> {
    let found = Resource::ALL.into_iter().find(|r| r.plural() == text);
    found.ok_or_else(|| format!("accepted: {}", Resource::ALL.map(Resource::plural).join(", ")))
}

fn account(text: &str) -> Result<(String, Value), String> {
    let accepted = || "accepted: TOKEN=NAMESPACE:NAME[@NODE]".to_owned();
    let (token, rest) = text.split_once('=').ok_or_else(accepted)?;
    let (name, node) = rest.split_once('@').map_or((rest, None), |(name, node)| (name, Some(node)));
    let (namespace, name) = name.split_once(':').ok_or_else(accepted)?;
    let groups =
        ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), "system:authenticated"];
    let mut user = json!({"username": format!("system:serviceaccount:{namespace}:{name}"), "groups": groups});
    if let Some(node) = node {
        user["extra"] = json!({"authentication.kubernetes.io/node-name": [node]});
    }
    Ok((token.to_owned(), user))
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Box<dyn std::error::Error>> {
    let server = ApiServer::start(Options {
        listen: cli.listen,
        tls: cli.tls_ca.is_some(),
        names: cli.tls_name,
        token: cli.token,
        meta_server: cli.meta_server,
        absent: cli.absent,
        bookmarks: cli.bookmarks.map(Duration::from_secs),
        ..Options::default()
    })
    .await?;
    if let (Some(file), Some(pem)) = (&cli.tls_ca, server.ca_pem()) {
        std::fs::write(file, pem)?;
    }
    for (token, user) in cli.account {
        server.know_token_for(&cli.audience, &token, user);
    }
    for file in &cli.files {
        let named = |what: String| format!("{}: {what}", file.display());
        let text = std::fs::read_to_string(file).map_err(|e| named(e.to_string()))?;
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&text).map_err(|e| named(e.without_snippet().to_string()))?;
        for object in objects.into_iter().filter(|o| !o.is_null()) {
            if server.put(object) == 0 {
                return Err(
                    named("an object without a name or of a kind that is not served".to_owned()).into()
                );
            }
        }
    }
    println!("{}", server.url());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
