//! A certificate authority and a server certificate, made at start.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// Names and addresses that the certificate is valid for.
const NAMES: [&str; 4] = ["localhost", "kubernetes.default.svc", "127.0.0.1", "::1"];

/// See the module's documentation.
pub(crate) struct Identity {
    pub(crate) ca_pem: String,
    pub(crate) acceptor: TlsAcceptor,
}

/// A new authority and a certificate of it, also for `more` names.
pub(crate) fn identity(more: &[String]) -> Result<Identity, Box<dyn std::error::Error + Send + Sync>> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;
    let names: Vec<String> = NAMES.iter().map(|n| (*n).to_owned()).chain(more.iter().cloned()).collect();
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(names)?.signed_by(&key, &Issuer::from_params(&ca, &ca_key))?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )?;
    Ok(Identity { ca_pem: ca_certificate.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) })
}
