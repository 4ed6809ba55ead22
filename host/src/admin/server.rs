//! The server's side of the admin endpoint.

use super::{Address, BODY_MAX, HEAD_MAX, Method, Request, Response, decode};
use crate::metrics;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

const CONNECTIONS: usize = 32;
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// A handler that works for the user (a ping, a trace) may take longer than reading a request.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// After an accept error (too many open files) the listener waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a program answers on its admin endpoint.
pub trait Handler: Send + Sync + 'static {
    /// Whether the program can do its work; otherwise what it lacks, in words.
    fn ready(&self) -> impl Future<Output = Result<(), String>> + Send;
    /// What else people want to know who ask whether it is ready, a line each.
    fn remarks(&self) -> impl Future<Output = Vec<String>> + Send {
        std::future::ready(Vec::new())
    }
    /// Writes the program's metrics.
    fn metrics(&self, out: &mut metrics::Text) -> impl Future<Output = ()> + Send;
    /// Answers any other path; [`Response::not_found`] for unknown ones.
    fn route(&self, request: Request) -> impl Future<Output = Response> + Send;
}

/// A bound admin endpoint. Removes its Unix socket when dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    /// Binds `address`. A Unix socket gets mode 0600; one that a killed process left behind is replaced.
    ///
    /// # Errors
    /// When the address is in use or cannot be bound; the text names it.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("admin endpoint {address}: {e}"));
        let socket = match address {
            Address::Tcp(tcp) => Socket::Tcp(TcpListener::bind(tcp).await.map_err(named)?),
            Address::Unix(path) => Socket::Unix(bind_unix(path).map_err(named)?, path.clone()),
        };
        let address = match &socket {
            Socket::Tcp(listener) => Address::Tcp(listener.local_addr()?),
            Socket::Unix(..) => address.clone(),
        };
        Ok(Self { socket, address })
    }

    /// Where it is bound (with the port that the system chose, when 0 was asked for).
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there")),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(e) => return Err(e),
        }
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers requests until the future is dropped.
pub async fn serve<H: Handler>(listener: Listener, handler: Arc<H>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let handler = handler.clone();
        match &listener.socket {
            Socket::Unix(socket, _) => match socket.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(async move {
                    connection(stream, &*handler).await;
                    drop(slot);
                })),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Socket::Tcp(socket) => match socket.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(async move {
                    connection(stream, &*handler).await;
                    drop(slot);
                })),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, handler: &impl Handler) {
    let response = match tokio::time::timeout(REQUEST_TIME, read(&mut stream)).await {
        Ok(Ok(request)) => match tokio::time::timeout(ANSWER_TIME, answer(request, handler)).await {
            Ok(response) => response,
            Err(_) => Response::text(504, "the answer took too long\n"),
        },
        Ok(Err(Some(response))) => response,
        Ok(Err(None)) | Err(_) => return,
    };
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        response.status,
        reason(response.status),
        response.content_type,
        response.body.len()
    );
    let write = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&response.body).await?;
        stream.shutdown().await
    };
    // A client that went away does not need its answer.
    let _ = tokio::time::timeout(REQUEST_TIME, write).await;
}

async fn answer(request: Request, handler: &impl Handler) -> Response {
    match (request.method, request.path.as_str()) {
        (Method::Get, "/livez") => Response::text(200, "ok\n"),
        (Method::Get, "/readyz") => {
            let (status, mut text) = match handler.ready().await {
                Ok(()) => (200, "ok\n".to_owned()),
                Err(lack) => (503, format!("not ready: {lack}\n")),
            };
            handler.remarks().await.iter().for_each(|line| text.extend([line, "\n"]));
            Response::text(status, text)
        }
        (Method::Get, "/metrics") => {
            let mut text = metrics::Text::new();
            handler.metrics(&mut text).await;
            let body = text.finish().into_bytes();
            Response { status: 200, content_type: metrics::CONTENT_TYPE, body }
        }
        _ => handler.route(request).await,
    }
}

/// Reads one request. `Err(Some(_))`: answer this; `Err(None)`: the client is gone.
async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Request, Option<Response>> {
    let mut bytes = Vec::with_capacity(1024);
    let (mut request, head, length) = loop {
        if stream.read_buf(&mut bytes).await.map_err(|_| None)? == 0 {
            return Err(None);
        }
        if let Some(parsed) = parse(&bytes).map_err(Some)? {
            break parsed;
        }
        if bytes.len() >= HEAD_MAX {
            return Err(Some(Response::text(431, "request head too large\n")));
        }
    };
    if length > BODY_MAX {
        return Err(Some(Response::text(413, "request body too large\n")));
    }
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.map_err(|_| None)? == 0 {
            return Err(None);
        }
    }
    request.body = bytes.get(head..head + length).unwrap_or_default().to_vec();
    Ok(request)
}

/// The request's head, where its body begins, and how long that is.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize, usize)>, Response> {
    let bad = |text: &str| Response::text(400, format!("{text}\n"));
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(bad("not an HTTP request")),
    };
    let method = match request.method {
        Some("GET") => Method::Get,
        Some("POST") => Method::Post,
        _ => return Err(Response::text(405, "accepted methods: GET, POST\n")),
    };
    let mut length = 0;
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).unwrap_or_default();
            length = text.trim().parse().map_err(|_| bad("wrong Content-Length"))?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Response::text(501, "chunked bodies are not accepted\n"));
        }
    }
    let (path, query) =
        request.path.unwrap_or("/").split_once('?').unwrap_or((request.path.unwrap_or("/"), ""));
    let pair = |text: &str| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (decode(key), decode(value))
    };
    let query = query.split('&').filter(|text| !text.is_empty()).map(pair).collect();
    Ok(Some((Request { method, path: decode(path), query, body: Vec::new() }, head, length)))
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Answer",
    }
}
