//! Secrets of a server stay in its state directory, whatever it logs and answers.

use crate::node::{Heard, Node};
use crate::process::{BINARY, Scratch, Server, operate, printed};
use edgemesh_core::noise::StaticSecret;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// The four secrets of a file of keys: version, then 32 bytes each.
fn keys(state: &Scratch) -> Vec<Vec<u8>> {
    let file = std::fs::read(state.0.join("keys")).unwrap();
    file[1..].chunks_exact(32).take(4).map(<[u8]>::to_vec).collect()
}

/// How a secret might be shown: in hex, in base64 (from each of its offsets), as Rust's and JSON's lists, as it is.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    let hex: String = secret.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<String> = secret.iter().take(6).map(u8::to_string).collect();
    let mut forms = vec![hex.to_uppercase(), hex, list.join(", "), list.join(",")];
    for offset in 0..3 {
        let part = &secret[offset..offset + 12];
        forms.extend([STANDARD.encode(part), URL_SAFE.encode(part)]);
    }
    let mut forms: Vec<Vec<u8>> = forms.into_iter().map(String::into_bytes).collect();
    forms.push(secret[..12].to_vec());
    forms
}

#[test]
fn a_join_new_keys_and_a_backup_show_no_secret_to_anybody() {
    let state = Scratch::new("secrecy");
    let mut command = Command::new(BINARY);
    command.env("EDGEMESH_LOG", "trace").args(["run", "--listen", "127.0.0.1:0", "--admin"]);
    command.arg(format!("unix:{}", state.0.join("public.sock").display())).arg("--state-dir").arg(&state.0);
    let mut server = Server::spawn(&mut command, &state.0);
    let mut secrets = keys(&state);
    let token = server.token("a", &[]);
    secrets.push(token.secret.to_vec());
    let mut a = Node::join(&token, server.address, 1, true);
    secrets.extend([a.relay_key.to_vec(), vec![1; 32]]);
    a.rekey(StaticSecret::from_bytes([7; 32]).public().0);
    assert!(matches!(a.hear(), Some(Heard::Rekeyed(..))));
    let mut seen = printed(server.operate(&["rotate-key"])).into_bytes();
    secrets.extend(keys(&state));
    seen.extend(printed(server.operate(&["backup", state.0.join("backup").to_str().unwrap()])).into_bytes());
    for path in ["/status", "/nodes", "/metrics", "/readyz"] {
        seen.extend(server.get(path).into_bytes());
    }
    seen.extend(printed(server.operate(&["nodes"])).into_bytes());
    seen.extend(printed(server.operate(&["nodes", "--json"])).into_bytes());
    for file in ["cmdline", "environ"] {
        seen.extend(std::fs::read(format!("/proc/{}/{file}", server.child.id())).unwrap());
    }
    server.terminate();
    let log = server.rest_of_log();
    assert!(log.contains("node has another key") && log.contains("node disconnected"), "{log}");
    seen.extend(log.into_bytes());
    for (number, secret) in secrets.iter().enumerate() {
        for form in forms(secret) {
            let shown = seen.windows(form.len()).any(|window| window == form);
            assert!(!shown, "secret {number} is shown");
        }
    }
    // The directory holds hashes of tokens only.
    let directory = std::fs::read(state.0.join("directory")).unwrap();
    assert!(!directory.windows(16).any(|window| window == token.secret));
}

/// What is in memory stays there when the program crashes. The control shows that this machine would write a core.
#[test]
fn a_server_that_crashes_leaves_no_core() {
    let state = Scratch::new("core");
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(&state.0);
        command
    };
    let control = shell("ulimit -c unlimited 2>/dev/null; kill -ABRT $$").status().unwrap();
    assert_eq!(control.signal(), Some(6));
    let line = format!(
        "ulimit -c unlimited 2>/dev/null; exec {BINARY} run --listen 127.0.0.1:0 --admin unix:{0}/p.sock --state-dir {0}",
        state.0.display()
    );
    let mut server = Server::spawn(&mut shell(&line), &state.0);
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-ABRT", &pid]).status().unwrap().success());
    let status = server.child.wait().unwrap();
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped(), "a core was written; control: {}", control.core_dumped());
    assert!(printed(operate(&state.0, &["nodes"])).contains("NODE"), "and its state is whole");
}
