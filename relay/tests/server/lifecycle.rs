//! Nodes that are put out and come back, keys that change, and a server that is restored: a real server process.

use crate::node::{Heard, Node};
use crate::process::{Scratch, Server, WAIT, complaint, operate, printed};
use edgemesh_core::control::Authority;
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::wire::control::Revocation;
use edgemesh_host::state::Directory;
use edgemesh_host::token::{Token, fingerprint};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Within which a revocation ends sessions wherever it arrives.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

fn token(text: &str) -> Token {
    assert_eq!(text.lines().count(), 1);
    text.parse().unwrap()
}

fn public(seed: u8) -> [u8; 32] {
    StaticSecret::from_bytes([seed; 32]).public().0
}

fn authority(node: &Node) -> Authority {
    *node.link.authority()
}

#[test]
fn a_revoked_node_is_put_out_at_once_and_comes_back_with_another_key_only() {
    let state = Scratch::new("revoke");
    let server = Server::start(&state.0, 0, &[]);
    let [first, second, spare] = ["a", "b", "a"].map(|node| server.token(node, &[]));
    let mut a = Node::join(&first, server.address, 1, false);
    let mut b = Node::join(&second, server.address, 2, false);
    let socket = a.bind_udp(server.address);
    b.ask(a.index);
    let (_, there, _) = b.hear_peer();
    let began = Instant::now();
    assert!(printed(server.operate(&["revoke", "--node", "a"])).contains("node a is revoked"));
    assert_eq!(b.hear_revocations(), (0, vec![Revocation { index: a.index, serial: 1 }]));
    while a.hear().is_some() {}
    assert!(began.elapsed() < ENDED_WITHIN, "{:?}", began.elapsed());

    let nodes = server.json("/nodes");
    assert_eq!((&nodes[0]["revoked"], &nodes[0]["connected"]), (&true.into(), &false.into()));
    assert!(nodes[0]["relay"].is_null(), "it is not bound any more");
    assert_eq!(Node::come_back("a", authority(&a), server.address, 1).refused(), "Revoked");
    assert_eq!(Node::connect(&spare, server.address, 3, false, 0).refused(), "WrongToken", "tokens are void");
    assert_eq!(server.metric("server_refused_total{reason=\"revoked\"}"), 1);
    b.ask(a.index);
    assert!(matches!(b.hear(), Some(Heard::NoPeer(_))));
    socket.send(&crate::node::data(there, b"data")).unwrap();
    server.log("node refused");

    assert!(complaint(server.operate(&["revoke", "--node", "a"])).contains("revoked already"));
    assert!(complaint(server.operate(&["revoke", "--node", "c"])).contains("no node \"c\" has joined"));
    assert!(complaint(server.operate(&["token", "--node", "a"])).contains("rejoin --node a"));
    assert!(complaint(server.operate(&["rejoin", "--node", "b"])).contains("is not revoked"));
    let rejoin = token(&printed(server.operate(&["rejoin", "--node", "a"])));
    assert_eq!(Node::connect(&rejoin, server.address, 1, false, 0).refused(), "Revoked", "the old key");
    let mut again = Node::join(&rejoin, server.address, 4, false);
    assert_eq!(again.index, a.index);
    assert_eq!(again.hear_revocations().1.len(), 1, "and who comes later hears of it");
    b.ask(a.index);
    match b.hear() {
        Some(Heard::Peer { key, .. }) => assert_eq!(key, public(4)),
        other => panic!("{other:?}"),
    }

    // The list is kept over a restart, and grows.
    let server = server.kill_and_restart(&[]);
    printed(server.operate(&["revoke", "--node", "a"]));
    let mut b = Node::come_back("b", authority(&b), server.address, 2).welcomed();
    let serials = [1, 2].map(|serial| Revocation { index: a.index, serial });
    assert_eq!(b.hear_revocations(), (0, serials.to_vec()));
}

/// A machine that was installed anew: whoever has its old key is put out as well.
#[test]
fn a_new_key_by_a_new_token_puts_the_old_one_out() {
    let state = Scratch::new("replaced");
    let server = Server::start(&state.0, 0, &[]);
    let mut old = Node::join(&server.token("a", &[]), server.address, 1, false);
    let mut b = Node::join(&server.token("b", &[]), server.address, 2, false);
    let _new = Node::join(&server.token("a", &[]), server.address, 3, false);
    assert_eq!(b.hear_revocations(), (0, vec![Revocation { index: old.index, serial: 1 }]));
    while old.hear().is_some() {}
    assert_eq!(Node::come_back("a", authority(&old), server.address, 1).refused(), "NameTaken");
}

#[test]
fn operators_work_on_the_state_directory_while_no_server_runs() {
    let state = Scratch::new("offline");
    let mut server = Server::start(&state.0, 0, &[]);
    let a = Node::join(&server.token("a", &[]), server.address, 1, false);
    let _b = Node::join(&server.token("b", &[]), server.address, 2, false);
    let nodes: serde_json::Value =
        serde_json::from_str(&printed(server.operate(&["nodes", "--json"]))).unwrap();
    assert_eq!(nodes[0]["key"], fingerprint(&public(1)));
    assert_eq!((&nodes[0]["connected"], &nodes[0]["lastSeen"]), (&true.into(), &serde_json::Value::Null));
    drop(a);
    server.log("node disconnected");
    let listed = printed(server.operate(&["nodes"]));
    let line = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("a ").contains("away") && line("a ").contains("s ago"), "{listed}");
    assert!(line("b ").contains("connected") && line("b ").contains("now"), "{listed}");
    server.terminate();
    let offline = |args: &[&str]| operate(&state.0, args);
    assert!(printed(offline(&["revoke", "--node", "b"])).contains("node b is revoked"));
    assert!(printed(offline(&["nodes"])).contains("revoked"));
    let rejoin = token(&printed(offline(&["rejoin", "--node", "b", "--advertise", "s:1"])));
    assert_eq!(rejoin.servers, ["s:1"]);
    let missing = complaint(operate(&state.0.join("missing"), &["nodes"]));
    assert!(missing.contains("--state-dir") && missing.contains("no such directory"), "{missing}");
}

/// A server that started while a command had the directory ended with an error.
#[test]
fn who_has_the_directory_for_a_moment_is_waited_for() {
    let state = Scratch::new("moment");
    Server::start(&state.0, 0, &[]).terminate();
    let listed = held_first(&state.0, || operate(&state.0, &["nodes"]));
    assert!(printed(listed).starts_with("NODE"));
    let mut server = held_first(&state.0, || Server::start(&state.0, 0, &[]));
    assert_eq!(server.terminate(), Some(0));
}

/// What comes of something while another process has the directory until it was tried for the second time.
fn held_first<T: Send>(state: &Path, begun: impl FnOnce() -> T + Send) -> T {
    let mut holder = Directory::open(state).unwrap();
    holder.lock().unwrap();
    let watch = inotify::init(CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, state.join("lock"), WatchFlags::OPEN).unwrap();
    let mut buffer = [MaybeUninit::uninit(); 512];
    std::thread::scope(|scope| {
        let outcome = scope.spawn(begun);
        for _ in 0..2 {
            let limit = WAIT.try_into().unwrap();
            assert_eq!(
                poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&limit)),
                Ok(1),
                "not tried again"
            );
            Reader::new(&watch, &mut buffer).next().unwrap();
        }
        drop(holder);
        outcome.join().unwrap()
    })
}

#[test]
fn a_node_changes_its_key_and_both_are_its_own_for_a_while() {
    let state = Scratch::new("rekey");
    let server = Server::start(&state.0, 0, &[]);
    let mut a = Node::join(&server.token("a", &[]), server.address, 1, false);
    let mut b = Node::join(&server.token("b", &[]), server.address, 2, false);
    let mut c = Node::join(&server.token("c", &[]), server.address, 3, false);
    b.ask(a.index);
    assert_eq!(b.hear_peer().0, a.index);
    assert_eq!(a.hear_peer().0, b.index);
    a.rekey(public(7));
    match a.hear() {
        Some(Heard::Rekeyed(key, follows)) => assert_eq!((key, follows), (public(7), Some(public(1)))),
        other => panic!("{other:?}"),
    }
    match b.hear() {
        Some(Heard::Peer { index, key, .. }) => assert_eq!((index, key), (a.index, public(7)), "unasked"),
        other => panic!("{other:?}"),
    }
    // The answer may have been lost: asked again, from a connection with the old key, it is the same.
    let mut again = Node::come_back("a", authority(&a), server.address, 1).welcomed();
    again.rekey(public(7));
    assert!(matches!(again.hear(), Some(Heard::Rekeyed(key, _)) if key == public(7)));
    let mut new = Node::come_back("a", authority(&a), server.address, 7).welcomed();
    assert_eq!(new.index, a.index);
    new.rekey(public(8));
    match new.hear() {
        Some(Heard::Rekeyed(key, _)) => assert_eq!(key, public(7), "not twice within an hour"),
        other => panic!("{other:?}"),
    }
    // Nobody takes a key that another node has, and what is known survives the server.
    c.rekey(public(2));
    assert!(matches!(c.hear(), Some(Heard::Rekeyed(key, None)) if key == public(3)));
    let server = server.kill_and_restart(&[]);
    for seed in [1, 7] {
        assert_eq!(Node::come_back("a", authority(&a), server.address, seed).welcomed().index, a.index);
    }
    printed(server.operate(&["revoke", "--node", "a"]));
    assert_eq!(Node::come_back("a", authority(&a), server.address, 7).refused(), "Revoked");
    let old = Node::come_back("a", authority(&a), server.address, 1).refused();
    assert_eq!(old, "NameTaken", "the overlap ends with it");
}

#[test]
fn the_directory_changes_its_key_and_nodes_follow_the_root() {
    let state = Scratch::new("rotate");
    let manifests = Scratch::new("rotate-manifests");
    manifests.write("s.yaml", "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: 10.96.0.9, ports: [{port: 1}]}}");
    let args = ["--manifests", manifests.0.to_str().unwrap()];
    let server = Server::start(&state.0, 0, &args);
    server.log("Services are fed");
    let mut a = Node::join(&server.token("a", &[]), server.address, 1, true);
    let first = loop {
        if let Some(Heard::Commit(sequence, digest)) = a.hear() {
            break (sequence, digest);
        }
    };
    let before = authority(&a);
    assert!(printed(server.operate(&["rotate-key"])).contains("new key"));
    while a.hear().is_some() {}
    let mut a = Node::come_back_fed("a", before, server.address, 1, first.0).welcomed();
    let after = authority(&a);
    assert!(after.epoch > before.epoch && after.directory != before.directory && after.root == before.root);
    let second = loop {
        if let Some(Heard::Commit(sequence, digest)) = a.hear() {
            break (sequence, digest);
        }
    };
    assert!(second.0 > first.0 && second.1 == first.1, "the same table, signed anew");
    assert_eq!(server.json("/status")["epoch"], after.epoch);
    let server = server.kill_and_restart(&args);
    let a = Node::come_back("a", after, server.address, 1).welcomed();
    assert_eq!(authority(&a), after, "for good");
}

#[test]
fn a_restored_server_is_followed_by_every_node_and_nothing_older_is_believed() {
    let state = Scratch::new("restore");
    let mut server = Server::start(&state.0, 0, &[]);
    let a = Node::join(&server.token("a", &[]), server.address, 1, false);
    let backup = state.0.join("backup");
    let path = backup.to_str().unwrap();
    printed(server.operate(&["backup", path]));
    assert_eq!(std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let late = Node::join(&server.token("late", &[]), server.address, 2, false);
    let before = authority(&a);

    // While it runs: it starts again by itself.
    let said = printed(server.operate(&["restore", path]));
    server.wait_up();
    let mut back = Node::come_back("a", before, server.address, 1).welcomed();
    let after = authority(&back);
    assert!(after.epoch > before.epoch && said.contains(&format!("epoch {}", after.epoch)), "{said}");
    assert_eq!((back.index, after.directory), (a.index, before.directory));
    assert_eq!(Node::come_back("late", before, server.address, 2).refused(), "NotEnrolled");
    back.ask(late.index);
    assert!(matches!(back.hear(), Some(Heard::NoPeer(_))));

    // The machine is lost: another one, twice the same backup. The later restore counts.
    drop(server);
    let mut last = after.epoch;
    for round in 0..2 {
        let other = Scratch::new(&format!("restored-{round}"));
        wait_for_a_second_after(last);
        let said = printed(operate(&other.0, &["restore", path]));
        let server = Server::start(&other.0, 0, &[]);
        let back = Node::come_back("a", Authority { epoch: last, ..after }, server.address, 1).welcomed();
        let epoch = authority(&back).epoch;
        assert!(epoch > last && said.contains(&format!("epoch {epoch}")), "{said}");
        last = epoch;
    }
    // And the one that was given up is refused by who has seen a later one.
    let server = Server::start(&state.0, 0, &[]);
    let mut node = Node::come_back("a", Authority { epoch: last, ..after }, server.address, 1);
    assert!(node.greeting_is_refused());
}

/// An epoch carries the time of its beginning in seconds.
fn wait_for_a_second_after(epoch: u32) {
    while edgemesh_host::clock::wall().secs <= u64::from(epoch) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_no_backup_or_anothers_is_refused_and_nothing_is_changed() {
    let state = Scratch::new("no-backup");
    let mut server = Server::start(&state.0, 0, &[]);
    let _a = Node::join(&server.token("a", &[]), server.address, 1, false);
    let backup = state.0.join("backup");
    printed(server.operate(&["backup", backup.to_str().unwrap()]));
    let good = std::fs::read(&backup).unwrap();
    let epoch = server.json("/status")["epoch"].clone();
    let write = |bytes: &[u8]| std::fs::write(&backup, bytes).unwrap();
    let restore = || complaint(operate(&state.0, &["restore", backup.to_str().unwrap()]));
    for at in (0..good.len()).step_by(good.len() / 16 + 1) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        write(&bad);
        let said = restore();
        assert!(said.contains("checksum") || said.contains("no backup"), "{said}");
    }
    for len in [0, 10, 40, good.len() - 1] {
        write(&good[..len]);
        let said = restore();
        assert!(said.contains("incomplete") || said.contains("no backup"), "{len}: {said}");
    }
    write(&good);
    std::fs::set_permissions(&backup, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(restore().contains("0644"));
    std::fs::set_permissions(&backup, std::fs::Permissions::from_mode(0o600)).unwrap();
    let other = Scratch::new("another-cluster");
    let _other = Server::start(&other.0, 0, &[]);
    assert!(complaint(operate(&other.0, &["restore", backup.to_str().unwrap()])).contains("another cluster"));
    assert!(complaint(operate(&state.0, &["restore", "/nowhere"])).contains("/nowhere"));
    assert_eq!(server.json("/status")["epoch"], epoch);

    // Keys that others may read are named, and not used.
    server.terminate();
    let keys = state.0.join("keys");
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o640)).unwrap();
    let said = complaint(operate(&state.0, &["nodes"]));
    assert!(said.contains("/keys") && said.contains("0640") && said.contains("chmod 600"), "{said}");
}
