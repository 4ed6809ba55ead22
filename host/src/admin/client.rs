//! The blocking client that commands use.

use super::{Address, Method};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Largest answer, in bytes.
const ANSWER_MAX: u64 = 256 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a command got no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody answers there.
    Unreachable(Address, io::Error),
    /// The endpoint said no; its status and words.
    Refused(u16, String),
    /// What came is no HTTP answer, or it broke off.
    Broken(Address, io::Error),
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(address, e) => write!(f, "nothing answers at {address} ({e}): is it running?"),
            Self::Refused(_, text) => f.write_str(text.trim_end()),
            Self::Broken(address, e) => write!(f, "no complete answer from {address}: {e}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// Gets `path` (with query, already percent-encoded).
///
/// # Errors
/// See [`ClientError`].
pub fn get(address: &Address, path: &str) -> Result<Vec<u8>, ClientError> {
    call(address, Method::Get, path, &[])
}

/// Posts `body` to `path`.
///
/// # Errors
/// See [`ClientError`].
pub fn post(address: &Address, path: &str, body: &[u8]) -> Result<Vec<u8>, ClientError> {
    call(address, Method::Post, path, body)
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn call(address: &Address, method: Method, path: &str, body: &[u8]) -> Result<Vec<u8>, ClientError> {
    let mut stream = connect(address).map_err(|e| ClientError::Unreachable(address.clone(), e))?;
    let verb = match method {
        Method::Get => "GET",
        Method::Post => "POST",
    };
    let head = format!(
        "{verb} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut answer = Vec::new();
    let mut exchange = || {
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        Read::by_ref(&mut stream).take(ANSWER_MAX).read_to_end(&mut answer)
    };
    let broken = |e| ClientError::Broken(address.clone(), e);
    exchange().map_err(broken)?;
    let (status, body) = split(&answer).map_err(broken)?;
    if (200..300).contains(&status) {
        Ok(body.to_vec())
    } else {
        Err(ClientError::Refused(status, String::from_utf8_lossy(body).into_owned()))
    }
}

fn connect(address: &Address) -> io::Result<Box<dyn Stream>> {
    Ok(match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Box::new(stream)
        }
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Box::new(stream)
        }
    })
}

/// Status and body; the body must be as long as the head says.
fn split(answer: &[u8]) -> io::Result<(u16, &[u8])> {
    let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let status = response.parse(answer).map_err(|e| bad(&format!("not HTTP: {e}")))?;
    let (httparse::Status::Complete(head), Some(code)) = (status, response.code) else {
        return Err(bad("the answer broke off"));
    };
    let body = answer.get(head..).unwrap_or_default();
    let length = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.parse::<usize>().ok());
    match length {
        Some(length) => Ok((code, body.get(..length).ok_or_else(|| bad("the answer broke off"))?)),
        None => Ok((code, body)),
    }
}
