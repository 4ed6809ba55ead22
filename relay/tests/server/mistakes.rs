//! What an operator can get wrong: each ends with a message that names it, and the right exit code.

use crate::node::Node;
use crate::process::{BINARY, Scratch, Server, token_command};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(args: &[&str]) -> Output {
    Command::new(BINARY).arg("run").args(args).stdin(Stdio::null()).output().unwrap()
}

fn says(output: &Output, code: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty());
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn usage_and_configuration() {
    let scratch = Scratch::new("usage");
    let dir = scratch.0.to_str().unwrap();
    says(&run(&[]), 2, &["--state-dir"]);
    says(&run(&["--state-dir", dir, "--listen", "everywhere"]), 2, &["--listen", "everywhere", "IP:PORT"]);
    says(&run(&["--state-dir", dir, "--role", "cook"]), 2, &["--role", "cook", "directory", "relay"]);
    let relay = ["--state-dir", dir, "--role", "relay", "--manifests", dir, "--join", "emt1.x"];
    says(&run(&relay[..4]), 2, &["--join", "has not joined yet", "token --relay NAME"]);
    says(&run(&relay[..6]), 2, &["--manifests", "only relays", "accepted"]);
    says(&run(&[&relay[..4], &relay[6..]].concat()), 2, &["--join", "checksum"]);
    says(&run(&["--state-dir", dir, "--join", "emt1.x"]), 2, &["--join", "accepted: only with --role relay"]);
    says(&run(&["--state-dir", dir, "--mesh-cidr", "10.0.0.0/30"]), 2, &["--mesh-cidr", "8 to 24"]);
    says(&run(&["--state-dir", dir, "--manifests", "/no/such"]), 2, &["--manifests", "/no/such", "accepted"]);
    let account =
        ["--state-dir", dir, "--service-account", "agent", "--kubernetes", "--api-server", "http://[::1]:9"];
    says(&run(&account[..4]), 2, &["--service-account", "agent", "--kubernetes", "accepted"]);
    says(&run(&account), 2, &["--service-account", "agent", "accepted: NAMESPACE:NAME"]);
    says(&run(&["--state-dir", dir, "--admin", "here"]), 2, &["--admin", "unix:/PATH"]);
    scratch.write("c.yaml", "stateDirectory: /x\n");
    says(&run(&["--config", &format!("{dir}/c.yaml")]), 2, &["c.yaml", "stateDirectory", "stateDir"]);
    scratch.write("c.yaml", &format!("stateDir: {dir}\nadvertise: [nowhere]\n"));
    says(&run(&["--config", &format!("{dir}/c.yaml")]), 2, &["c.yaml", "advertise", "nowhere", "HOST:PORT"]);
    says(&token_command(Path::new("/no/such"), "a", &[]), 2, &["--state-dir", "/no/such"]);
    says(&token_command(&scratch.0, "Not_A_Name", &[]), 2, &["--node", "Not_A_Name", "accepted"]);
    says(&token_command(&scratch.0, "a", &["--ttl", "soon"]), 2, &["--ttl", "soon", "24h"]);
    let loud = Command::new(BINARY)
        .args(["run", "--state-dir", dir])
        .env("EDGEMESH_LOG", "a=loud")
        .output()
        .unwrap();
    says(&loud, 2, &["EDGEMESH_LOG", "loud", "debug"]);
    let version = Command::new(BINARY).arg("--version").output().unwrap();
    assert!(version.status.success() && version.stdout.starts_with(b"edgemesh-server "));
}

#[test]
fn ports_and_state_that_are_taken() {
    let (state, other) = (Scratch::new("taken"), Scratch::new("taken-other"));
    let server = Server::start(&state.0, 0, &[]);
    let (listen, dir) = (server.address.to_string(), other.0.to_str().unwrap());
    says(
        &run(&["--listen", &listen, "--state-dir", dir, "--admin", "127.0.0.1:0"]),
        1,
        &["--listen", &listen, "in use"],
    );
    // An address of this test alone: the server takes TCP first, and at 127.0.0.1 another test may have that port.
    let _udp = std::net::UdpSocket::bind("127.0.0.2:0").unwrap();
    let listen = _udp.local_addr().unwrap().to_string();
    says(
        &run(&["--listen", &listen, "--state-dir", dir, "--admin", "127.0.0.1:0"]),
        1,
        &["--listen", "UDP", "in use"],
    );
    let dir = state.0.to_str().unwrap();
    let admin = "127.0.0.1:0";
    says(
        &run(&["--listen", "127.0.0.1:0", "--state-dir", dir, "--admin", admin]),
        1,
        &["another process", dir],
    );
    let taken = format!("unix:{dir}/public.sock");
    let dir = other.0.to_str().unwrap();
    says(
        &run(&["--listen", "127.0.0.1:0", "--state-dir", dir, "--admin", &taken]),
        1,
        &["public.sock", "another process"],
    );
}

#[test]
fn state_that_is_damaged_or_of_another_network() {
    let state = Scratch::new("damaged");
    let dir = state.0.to_str().unwrap();
    drop(Server::start(&state.0, 0, &["--mesh-cidr", "10.9.0.0/16"]));
    let common = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", dir];
    let with = |more: &[&str]| run(&[&common[..], more].concat());
    says(&with(&["--mesh-cidr", "10.8.0.0/16"]), 2, &["--mesh-cidr", "10.8.0.0/16", "accepted: 10.9.0.0/16"]);
    std::fs::write(state.0.join("directory"), [0xFF; 100]).unwrap();
    says(&with(&[]), 1, &["directory", "damaged at byte 0"]);
    std::fs::remove_file(state.0.join("directory")).unwrap();
    std::fs::write(state.0.join("keys"), b"nonsense").unwrap();
    says(&with(&[]), 1, &["keys", "backup"]);
    std::fs::write(other_file(&state), b"").unwrap();
    let file = other_file(&state);
    says(&run(&["--state-dir", file.to_str().unwrap()]), 1, &["cannot make state directory", "a-file"]);
}

fn other_file(state: &Scratch) -> std::path::PathBuf {
    state.0.join("a-file")
}

/// A file-size limit stands for the full disk: appends fail in the same place, and nothing has to be mounted.
#[test]
fn a_full_disk_refuses_new_things_and_keeps_everything_old() {
    let state = Scratch::new("full");
    let server = Server::start(&state.0, 0, &[]);
    let (token, late) = (server.token("a", &[]), server.token("late", &[]));
    let before = Node::join(&token, server.address, 1, false).index;
    let size = std::fs::metadata(state.0.join("directory")).unwrap().len();
    drop(server);

    let limit = size.div_ceil(512) * 512;
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", limit / 512);
    let mut command = Command::new("sh");
    command.args(["-c", &script, BINARY, "run", "--listen", "127.0.0.1:0", "--admin"]);
    command.arg(format!("unix:{}", state.0.join("public.sock").display())).arg("--state-dir").arg(&state.0);
    let server = Server::spawn(&mut command, &state.0);
    let mut refused = token_command(&state.0, "b", &[]);
    for n in 0..20 {
        if !refused.status.success() {
            break;
        }
        refused = token_command(&state.0, &format!("b{n}"), &[]);
    }
    says(&refused, 1, &["cannot write", "directory", "last good version stays"]);
    assert!(Node::connect(&late, server.address, 2, false, 0).hear().is_none());
    assert!(server.log("cannot enrol").contains("directory"));
    assert_eq!(Node::join(&token, server.address, 1, false).index, before, "who is in stays in");
    drop(server);

    let server = Server::start(&state.0, 0, &[]);
    assert_eq!(Node::join(&token, server.address, 1, false).index, before);
    assert!(Node::join(&late, server.address, 2, false).index > before);
}
