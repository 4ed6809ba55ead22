//! Where the API server is and who we are there, as a client.
//!
//! One of: a kubeconfig, the ServiceAccount of the pod, or a plain address. A client is made anew after a refused
//! token and after a failed connection, so what was replaced on disk counts at once; token and authority are also
//! read again by the minute while all is well. No proxies, no compression, no retries of its own, and never a
//! credential over plain HTTP.

use super::{AccessError, Settings};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Config;
use kube::client::{Body, ConfigExt};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use std::path::PathBuf;
use std::time::Duration;
use tower::{BoxError, ServiceBuilder};

/// Where a pod finds its ServiceAccount.
pub(super) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

fn wrong(text: impl Into<String>) -> AccessError {
    AccessError(text.into())
}

/// A client by the settings, with what is on disk now.
pub(super) async fn client(settings: &Settings) -> Result<kube::Client, AccessError> {
    let config = config(settings).await?;
    let timing = &settings.timing;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(timing.connect));
    // A path that goes away without a word: three probes within `dead`, also while a request is under way.
    let quarter = (timing.dead / 4).max(Duration::from_secs(1));
    connector.set_keepalive(Some(quarter));
    connector.set_keepalive_interval(Some(quarter));
    connector.set_keepalive_retries(Some(3));
    connector.set_tcp_user_timeout(Some(timing.dead));
    let named = |what: &str, e: kube::Error| wrong(format!("{what}: {e}"));
    let connector =
        config.rustls_https_connector_with_connector(connector).map_err(|e| named("certificates", e))?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(|e| named("credentials", e))?)
        .layer(config.extra_headers_layer().map_err(|e| named("headers", e))?)
        .map_err(BoxError::from)
        .service(
            hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector),
        );
    Ok(kube::Client::new(service, config.default_namespace))
}

async fn config(settings: &Settings) -> Result<Config, AccessError> {
    let server = settings.server.as_deref().map(url).transpose()?;
    if let Some(path) = &settings.kubeconfig {
        let named = |e: &dyn std::fmt::Display| wrong(format!("kubeconfig {}: {e}", path.display()));
        let kubeconfig = Kubeconfig::read_from(path).map_err(|e| named(&e))?;
        let authority = authority(&kubeconfig);
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| named(&e))?;
        config.root_cert_file = authority;
        if let Some(url) = server {
            config.cluster_url = url;
        }
        if is_plain(&config.cluster_url) {
            config.auth_info = AuthInfo::default();
        }
        return Ok(config);
    }
    match server {
        Some(url) if is_plain(&url) => Ok(Config::new(url)),
        Some(url) => in_cluster(settings, url),
        None => {
            let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
            let (Some(host), Some(port)) = (variable(HOST), variable(PORT)) else {
                return Err(wrong(format!(
                    "not in a pod ({HOST} and {PORT} are not set), and neither a kubeconfig nor an address is given"
                )));
            };
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            in_cluster(settings, url(&format!("https://{host}:{port}"))?)
        }
    }
}

fn in_cluster(settings: &Settings, url: http::Uri) -> Result<Config, AccessError> {
    let directory = settings.service_account.clone().unwrap_or_else(|| SERVICE_ACCOUNT.into());
    let (token, authority) = (directory.join("token"), directory.join("ca.crt"));
    for file in [&token, &authority] {
        if let Err(e) = std::fs::metadata(file) {
            return Err(wrong(format!(
                "{}: {e}; {url} needs a ServiceAccount's token and authority, or a kubeconfig",
                file.display()
            )));
        }
    }
    let mut config = Config::new(url);
    config.root_cert_file = Some(authority);
    config.auth_info = AuthInfo { token_file: Some(token.display().to_string()), ..AuthInfo::default() };
    Ok(config)
}

/// The file with the authority of the current context's cluster; embedded ones need no reading again.
fn authority(kubeconfig: &Kubeconfig) -> Option<PathBuf> {
    let context = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|c| c.name == *context)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|c| c.name == context.cluster)?.cluster.as_ref()?;
    if cluster.certificate_authority_data.is_some() {
        return None;
    }
    cluster.certificate_authority.as_ref().map(PathBuf::from)
}

fn is_plain(url: &http::Uri) -> bool {
    url.scheme_str() == Some("http")
}

fn url(text: &str) -> Result<http::Uri, AccessError> {
    let accepted = || wrong(format!("value {text:?}; accepted: http://HOST:PORT or https://HOST:PORT"));
    let url: http::Uri = text.parse().map_err(|_| accepted())?;
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    if known && url.host().is_some_and(|h| !h.is_empty()) { Ok(url) } else { Err(accepted()) }
}
