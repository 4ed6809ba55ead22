//! The unmodified servers and clients that scenarios use: nginx, socat, iperf3, curl.
//!
//! Every server listens on all addresses of its machine and is awaited by connecting to it, not by a pause.
//!
//! Not here: which of them stands behind which Service (see [`crate::mesh`]).

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::machine::Machine;
use crate::process::{Process, run};
use crate::wait::{secs, wait_until};
use crate::{Context, Result, ensure};

/// Text that is repeated through every payload that a capture is searched for.
pub const MARKER: &str = "payload-that-nobody-but-the-two-ends-may-read";

/// Waits until something accepts TCP connections on a port of the machine.
///
/// # Errors
/// When nothing does within 10 s.
pub fn wait_listening(machine: &Machine, port: u16) -> Result {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    wait_until(&format!("{} listens on {port}", machine.name), secs(10), || {
        machine.ns.enter(|| TcpStream::connect_timeout(&address, secs(1)))?.context("connect")?;
        Ok(())
    })
}

/// nginx that answers `/` with the machine's name, serves `/files/` from the shared directory of big files, the same at
/// so many bytes a second under `/at/<rate>/`, and stores what is PUT to `/upload/`.
///
/// # Errors
/// When it does not start to listen.
pub fn nginx(machine: &Machine, port: u16, files: &Path) -> Result<Process> {
    let root = machine.directory().join(format!("nginx-{port}"));
    fs::create_dir_all(root.join("upload")).context(root.display())?;
    let at = root.display();
    // One process and no other user: in a user namespace there is only one.
    let config = format!(
        "user root; daemon off; master_process off; pid {at}/pid; error_log stderr warn;
         events {{ worker_connections 2048; }}
         http {{
           access_log off; client_max_body_size 0; sendfile on; tcp_nopush on;
           client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
           uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
           server {{
             listen {port} backlog=1024;
             location / {{ return 200 \"{name}\\n\"; }}
             location ~ ^/at/(?<pace>[0-9]+[kmg])/(?<file>.+)$ {{ alias {files}/$file; limit_rate $pace; }}
             location /files/ {{ alias {files}/; }}
             location /upload/ {{ root {at}; dav_methods PUT; }}
           }}
         }}",
        name = machine.name,
        files = files.display(),
    );
    let file = root.join("nginx.conf");
    fs::write(&file, config).context(file.display())?;
    let (file, root) = (file.to_string_lossy().into_owned(), root.to_string_lossy().into_owned());
    let server = machine.spawn(&format!("nginx-{port}"), &["nginx", "-p", &root, "-c", &file])?;
    wait_listening(machine, port)?;
    Ok(server)
}

/// Where nginx on that port puts what was uploaded under the name.
pub fn uploaded(machine: &Machine, port: u16, name: &str) -> PathBuf {
    machine.directory().join(format!("nginx-{port}")).join("upload").join(name)
}

/// Where nginx on that port keeps uploads that have not ended.
pub fn uploading(machine: &Machine, port: u16) -> PathBuf {
    machine.directory().join(format!("nginx-{port}")).join("body")
}

/// Bytes in all files of a directory.
pub fn size_of_files(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
}

/// A server that runs a shell command per connection, by socat.
///
/// # Errors
/// When it does not start to listen.
pub fn per_connection(machine: &Machine, port: u16, command: &str) -> Result<Process> {
    let listen = format!("TCP4-LISTEN:{port},fork,reuseaddr,backlog=512");
    let server = machine
        .spawn(&format!("socat-{port}"), &["socat", "-t", "60", &listen, &format!("SYSTEM:{command}")])?;
    wait_listening(machine, port)?;
    Ok(server)
}

/// An iperf3 server.
///
/// # Errors
/// When it does not start to listen.
pub fn iperf(machine: &Machine, port: u16) -> Result<Process> {
    let mut server = machine.spawn("iperf3", &["iperf3", "-s", "-p", &port.to_string(), "--forceflush"])?;
    server.wait_log("Server listening", secs(10))?;
    Ok(server)
}

/// Throughput in Mbit/s as the receiver counted it, over one TCP stream.
///
/// # Errors
/// When iperf3 fails.
pub fn throughput(client: &Machine, target: &str, port: u16, seconds: u32) -> Result<f64> {
    let (port, time) = (port.to_string(), seconds.to_string());
    let words = ["iperf3", "-J", "-c", target, "-p", &port, "-t", &time];
    let limit = secs(u64::from(seconds).saturating_add(30));
    let printed = client.run_within(&words, b"", limit)?;
    let report: serde_json::Value = serde_json::from_slice(&printed.stdout).context("iperf3 report")?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.context(format!("iperf3: {}", report["error"]))? / 1e6)
}

/// A file of `mebibytes` MiB in which every line is numbered and holds [`MARKER`]; returns its SHA-256.
///
/// # Errors
/// When the disk is full.
pub fn big_file(path: &Path, mebibytes: u64) -> Result<String> {
    let size = mebibytes.saturating_mul(1 << 20);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).context(path.display())?);
    let (mut written, mut number) = (0_u64, 0_u64);
    while written < size {
        let line = format!("{number:018} {MARKER}\n");
        let left = usize::try_from(size.saturating_sub(written)).unwrap_or(usize::MAX);
        let bytes = line.as_bytes();
        let part = bytes.get(..bytes.len().min(left)).unwrap_or(bytes);
        out.write_all(part).context(path.display())?;
        written = written.saturating_add(part.len() as u64);
        number = number.wrapping_add(1);
    }
    out.flush().context(path.display())?;
    drop(out);
    sha256(path)
}

/// SHA-256 of a file in hexadecimal, by coreutils.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let printed = run(Command::new("sha256sum").arg(path), b"", secs(120))?.success()?;
    Ok(printed.split(' ').next().unwrap_or_default().to_owned())
}

/// One GET with curl; returns the body.
///
/// # Errors
/// When curl fails or takes more than 20 s.
pub fn curl(client: &Machine, url: &str) -> Result<String> {
    client.check(&["curl", "-sS", "--fail", "--max-time", "20", url])
}

/// A download that runs beside other things; ends with the file or curl's complaint.
#[derive(Debug)]
pub struct Transfer {
    process: Process,
    file: PathBuf,
}

impl Transfer {
    /// Starts to download `url`. One that is to last is served at a pace (see [`nginx`]): curl's own `--limit-rate`
    /// stops reading for as long as buffers have run ahead of it, which looks like a stall.
    ///
    /// # Errors
    /// When curl cannot be started.
    pub fn start(client: &Machine, label: &str, url: &str) -> Result<Self> {
        let file = client.directory().join(format!("{label}.download"));
        let path = file.to_string_lossy().into_owned();
        let words = ["curl", "-sS", "--fail", "-o", &path, url];
        Ok(Self { process: client.spawn(label, &words)?, file })
    }

    /// Whether curl still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// What curl complained about.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Bytes that have arrived so far.
    pub fn received(&self) -> u64 {
        fs::metadata(&self.file).map(|file| file.len()).unwrap_or(0)
    }

    /// Waits until more bytes have arrived than now.
    ///
    /// # Errors
    /// When none do within `limit`: the download stalls.
    pub fn wait_progress(&self, limit: Duration) -> Result {
        let before = self.received();
        wait_until("the download goes on", limit, || {
            ensure!(self.received() > before, "{before} bytes so far, none since");
            Ok(())
        })
    }

    /// Waits for the end; the SHA-256 must be `expected`.
    ///
    /// # Errors
    /// When curl fails, takes longer than `limit`, or the bytes are others.
    pub fn finish(mut self, expected: &str, limit: Duration) -> Result {
        let status = self.process.wait(limit).context(format!("{} bytes arrived", self.received()))?;
        ensure!(status.success(), "curl ended with {status}: {}", self.process.log());
        let sum = sha256(&self.file)?;
        ensure!(sum == expected, "checksum {sum}, expected {expected}");
        fs::remove_file(&self.file).context(self.file.display())
    }
}

/// Many transfers at once, by one curl.
#[derive(Debug)]
pub struct Crowd {
    process: Process,
    files: Vec<PathBuf>,
}

impl Crowd {
    /// Downloads `url` `count` times at once.
    ///
    /// # Errors
    /// When curl cannot be started.
    pub fn download(client: &Machine, label: &str, url: &str, count: usize) -> Result<Self> {
        let directory = client.directory().join(label);
        fs::create_dir_all(&directory).context(directory.display())?;
        let out = directory.join("#1").to_string_lossy().into_owned();
        let url = format!("{url}?[1-{count}]");
        let files = (1..=count).map(|number| directory.join(number.to_string())).collect();
        Ok(Self { process: Self::curl(client, label, count, &["-o", &out, &url])?, files })
    }

    /// Uploads `file` `count` times at once, each at most at `rate`, to nginx on port 8080 of `server`, reached by the name
    /// `host`.
    ///
    /// # Errors
    /// When curl cannot be started.
    pub fn upload(
        client: &Machine,
        label: &str,
        (host, server): (&str, &Machine),
        file: &Path,
        count: usize,
        rate: &str,
    ) -> Result<Self> {
        let path = file.to_string_lossy();
        let urls: Vec<String> = (1..=count).map(|n| format!("http://{host}/upload/{label}-{n}")).collect();
        let each = urls.iter().flat_map(|url| ["-T", &*path, url.as_str()]);
        let words: Vec<&str> = ["--limit-rate", rate].into_iter().chain(each).collect();
        let files = (1..=count).map(|n| uploaded(server, 8080, &format!("{label}-{n}"))).collect();
        Ok(Self { process: Self::curl(client, label, count, &words)?, files })
    }

    fn curl(client: &Machine, label: &str, count: usize, words: &[&str]) -> Result<Process> {
        let count = count.to_string();
        let all = ["curl", "-sS", "--fail", "-Z", "--parallel-immediate", "--parallel-max", &count];
        client.spawn(label, &[&all[..], words].concat())
    }

    /// Whether curl still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Waits for the end; every file's SHA-256 must be `expected`.
    ///
    /// # Errors
    /// When curl complains of one, takes longer than `limit`, or the bytes of one are others.
    pub fn finish(mut self, expected: &str, limit: Duration) -> Result {
        let status = self.process.wait(limit)?;
        ensure!(status.success(), "curl ended with {status}: {}", self.process.log());
        for file in &self.files {
            let sum = sha256(file)?;
            ensure!(sum == expected, "{}: checksum {sum}, expected {expected}", file.display());
            fs::remove_file(file).context(file.display())?;
        }
        Ok(())
    }
}
