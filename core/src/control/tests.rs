//! The link against a server made of the same parts.

use super::*;
use crate::noise::ik::Responder;
use crate::wire::control::{
    CERTIFICATE_CONTEXT, FeedCommit, NodeRecord, PROOF_PART_MAX, RECORD_CONTEXT, REVOCATIONS_CONTEXT,
    Refusal, Revocation, Revocations, SignedRecord, VERSION,
};
use ed25519_dalek::{Signer, SigningKey};
use std::vec::Vec;

const SERVER: &str = "203.0.113.1:20004";

struct Server {
    root: SigningKey,
    directory: SigningKey,
    noise: StaticSecret,
    epoch: u32,
}

impl Server {
    fn new() -> Self {
        Self {
            root: SigningKey::from_bytes(&[1; 32]),
            directory: SigningKey::from_bytes(&[2; 32]),
            noise: StaticSecret::from_bytes([3; 32]),
            epoch: 4,
        }
    }

    fn greeting(&self) -> Vec<u8> {
        let (noise_key, directory_key) = (self.noise.public().0, self.directory.verifying_key().to_bytes());
        let said = [CERTIFICATE_CONTEXT, &noise_key, &directory_key, &self.epoch.to_le_bytes()].concat();
        let certificate = self.root.sign(&said).to_bytes();
        let greeting = Greeting {
            version: VERSION,
            noise_key,
            directory_key,
            epoch: self.epoch,
            certificate: &certificate,
        };
        let mut out = [0; 300];
        postcard::to_slice(&greeting, &mut out).unwrap().to_vec()
    }

    fn sign(&self, record: &NodeRecord<'_>) -> (Vec<u8>, Vec<u8>) {
        let mut out = [0; 300];
        let len = record.encode(&mut out).unwrap();
        let bytes = out[..len].to_vec();
        let signature = self.directory.sign(&[RECORD_CONTEXT, &bytes].concat()).to_bytes().to_vec();
        (bytes, signature)
    }
}

fn authority(server: &Server, epoch: u32) -> Authority {
    Authority { root: server.root.verifying_key().to_bytes(), directory: [0; 32], epoch }
}

fn link(server: &Server) -> Link {
    let credentials = Credentials {
        name: String::try_from("edge-1").unwrap(),
        secret: Some([7; 16]),
        account: false,
        agent: "test",
        feed: Feed::Whole,
    };
    Link::new(StaticSecret::from_bytes([5; 32]), credentials, authority(server, 0))
}

/// Runs a link up to its Hello; returns the server's transport and the Hello's text.
fn up(server: &Server, link: &mut Link, now: Instant) -> (Transport, Vec<u8>) {
    let mut rng = Rng::new([6; 32]);
    let mut out = [0; 1600];
    link.connected(now, SERVER.parse().unwrap());
    assert_eq!(link.frame(now, &mut server.greeting()), Ok(None));
    let len = link.poll_frame(now, &mut rng, &mut out, || None).unwrap().unwrap();
    let responder = Responder::new(StaticSecret::from_bytes([3; 32]), PROLOGUE);
    let (answer, _) = responder.read_message1(&mut out[..len]).unwrap();
    let mut message2 = [0; 100];
    let (mut transport, len) = answer.write_message2(&[], &mut message2, &mut rng).unwrap();
    assert_eq!(link.frame(now, &mut message2[..len]), Ok(None));
    let len = link.poll_frame(now, &mut rng, &mut out, || None).unwrap().unwrap();
    let hello = transport.open(&mut out[..len]).unwrap().to_vec();
    (transport, hello)
}

fn send(transport: &mut Transport, message: &ToNode<'_>) -> Vec<u8> {
    let mut out = [0; 1600];
    let len = message.encode(&mut out).unwrap();
    let len = transport.seal(&mut out, len).unwrap();
    out[..len].to_vec()
}

fn welcome(server: &Server) -> Vec<u8> {
    let key = StaticSecret::from_bytes([5; 32]).public().0;
    welcome_of(
        server,
        &NodeRecord { index: 9, name: "edge-1", key, serial: 1, epoch: 4, ..NodeRecord::default() },
    )
}

fn welcome_of(server: &Server, record: &NodeRecord<'_>) -> Vec<u8> {
    use crate::wire::control::{Network, Welcome};
    let (record, signature) = server.sign(record);
    let message = ToNode::Welcome(Welcome {
        record: SignedRecord { record: &record, signature: &signature },
        network: Network { mesh_v4: [242, 0, 0, 0], mesh_v4_len: 8, mesh_v6: [0xFD; 16] },
        domain: "cluster.local",
        relay_key: [8; 32],
        relay_epoch: 1,
        unix_secs: 1_800_000_000,
        observed: "203.0.113.5:4000".parse().unwrap(),
        features: 0,
    });
    let mut out = [0; 1600];
    let len = message.encode(&mut out).unwrap();
    out[..len].to_vec()
}

fn seal(transport: &mut Transport, text: &[u8]) -> Vec<u8> {
    let mut out = [0; 1600];
    out[..text.len()].copy_from_slice(text);
    let len = transport.seal(&mut out, text.len()).unwrap();
    out[..len].to_vec()
}

#[test]
fn a_connection_says_hello_and_then_asks_what_is_wanted() {
    let server = Server::new();
    let mut link = link(&server);
    let now = Instant::ZERO;
    let (mut transport, hello) = up(&server, &mut link, now);
    match ToServer::decode(&hello).unwrap() {
        Some(ToServer::Hello(h)) => assert_eq!((h.name, h.secret, h.feed), ("edge-1", &[7; 16][..], true)),
        other => panic!("{other:?}"),
    }
    let mut rng = Rng::new([0; 32]);
    let mut out = [0; 1600];
    assert_eq!(link.poll_frame(now, &mut rng, &mut out, || Some(3)), Ok(None), "not before the welcome");
    assert!(!link.is_up());
    let mut frame = seal(&mut transport, &welcome(&server));
    assert!(matches!(link.frame(now, &mut frame), Ok(Some(ToNode::Welcome(_)))));
    assert!(link.is_up());
    assert_eq!(link.authority().directory, server.directory.verifying_key().to_bytes());
    let mut said = Vec::new();
    let mut wanted = [3, 4].into_iter();
    while let Some(len) = link.poll_frame(now, &mut rng, &mut out, || wanted.next()).unwrap() {
        let text = transport.open(&mut out[..len]).unwrap().to_vec();
        said.push(match ToServer::decode(&text).unwrap().unwrap() {
            ToServer::LookupIndex(index) => index,
            ToServer::Ping(_) => 0,
            ToServer::Revocations(held) => {
                assert_eq!(held, Held { epoch: 4, count: 0 });
                1_000
            }
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(said, [0, 1_000, 3, 4]);
}

#[test]
fn nodes_are_asked_for_by_name_once_the_server_has_accepted_this_one() {
    let server = Server::new();
    let mut link = link(&server);
    let mut out = [0; 1600];
    let question = ToServer::LookupName("edge-2");
    assert_eq!(link.ask(&question, &mut out), Ok(None));
    let (mut transport, _) = up(&server, &mut link, Instant::ZERO);
    assert_eq!(link.ask(&question, &mut out), Ok(None));
    link.frame(Instant::ZERO, &mut seal(&mut transport, &welcome(&server))).unwrap();
    let len = link.ask(&question, &mut out).unwrap().unwrap();
    let text = transport.open(&mut out[..len]).unwrap();
    assert_eq!(ToServer::decode(text), Ok(Some(question.clone())));
    assert_eq!(link.ask(&question, &mut out[..20]), Err(DropReason::NoRoom));
    assert!(link.is_up());
}

#[test]
fn nothing_but_a_welcome_or_a_refusal_is_heard_first() {
    let server = Server::new();
    for early in [ToNode::Pong(0), ToNode::NoPeer { index: 3, name: "" }, ToNode::Feed(&[])] {
        let mut link = link(&server);
        let (mut transport, _) = up(&server, &mut link, Instant::ZERO);
        let mut frame = send(&mut transport, &early);
        assert_eq!(link.frame(Instant::ZERO, &mut frame), Err(DropReason::Malformed), "{early:?}");
        assert!(link.must_close() && !link.is_up());
    }
    let mut refused = link(&server);
    let (mut transport, _) = up(&server, &mut refused, Instant::ZERO);
    let mut frame = seal(&mut transport, &[VERSION, 200, 1, 2, 3]);
    assert_eq!(refused.frame(Instant::ZERO, &mut frame), Ok(None), "a kind of the future");
    let mut frame = send(&mut transport, &ToNode::Refused { reason: Refusal::Revoked, detail: "gone" });
    assert!(matches!(refused.frame(Instant::ZERO, &mut frame), Ok(Some(ToNode::Refused { .. }))));
    assert!(refused.must_close());
}

#[test]
fn a_welcome_that_is_not_for_this_node_breaks_the_connection() {
    let server = Server::new();
    let key = StaticSecret::from_bytes([5; 32]).public().0;
    let ours = NodeRecord { index: 9, name: "edge-1", key, serial: 1, epoch: 4, ..NodeRecord::default() };
    let forger = Server { directory: SigningKey::from_bytes(&[9; 32]), ..Server::new() };
    for (what, wrong) in [
        ("another name", welcome_of(&server, &NodeRecord { name: "edge-2", ..ours.clone() })),
        ("another key", welcome_of(&server, &NodeRecord { key: [1; 32], ..ours.clone() })),
        ("another signature", welcome_of(&forger, &ours)),
    ] {
        let mut link = link(&server);
        let (mut transport, _) = up(&server, &mut link, Instant::ZERO);
        let result = link.frame(Instant::ZERO, &mut seal(&mut transport, &wrong)).map(|_| ());
        assert_eq!(result, Err(DropReason::Authentication), "{what}");
        assert!(link.must_close() && !link.is_up(), "{what}");
    }
}

#[test]
fn a_silent_server_is_pinged_and_then_given_up() {
    let server = Server::new();
    let mut link = link(&server);
    let (mut transport, _) = up(&server, &mut link, Instant::ZERO);
    let mut frame = seal(&mut transport, &welcome(&server));
    link.frame(Instant::ZERO, &mut frame).unwrap();
    let mut rng = Rng::new([0; 32]);
    let mut out = [0; 1600];
    link.poll_frame(Instant::ZERO, &mut rng, &mut out, || None).unwrap().unwrap();
    let mut frame = send(&mut transport, &ToNode::Pong(0));
    assert_eq!(link.frame(Instant::ZERO, &mut frame), Ok(None));
    let ping = link.poll_timeout().unwrap();
    assert_eq!(ping, Instant::ZERO.after(PING_EVERY));
    link.handle_timeout(ping);
    assert!(link.has_frame() && !link.must_close());
    link.poll_frame(ping, &mut rng, &mut out, || None).unwrap().unwrap();
    let end = link.poll_timeout().unwrap();
    assert_eq!(end, ping.after(PONG_TIMEOUT));
    link.handle_timeout(end);
    assert!(link.must_close() && !link.is_up());
}

#[test]
fn a_server_without_the_roots_word_or_of_an_older_epoch_is_refused() {
    let server = Server::new();
    let other = Server { root: SigningKey::from_bytes(&[9; 32]), ..Server::new() };
    let mut fresh = link(&server);
    fresh.connected(Instant::ZERO, SERVER.parse().unwrap());
    assert_eq!(fresh.frame(Instant::ZERO, &mut other.greeting()), Err(DropReason::Authentication));
    assert!(fresh.must_close());
    let mut later = link(&server);
    later.authority.epoch = 5;
    later.connected(Instant::ZERO, SERVER.parse().unwrap());
    assert_eq!(later.frame(Instant::ZERO, &mut server.greeting()), Err(DropReason::OldRecord));
    let mut garbage = link(&server);
    garbage.connected(Instant::ZERO, SERVER.parse().unwrap());
    assert_eq!(garbage.frame(Instant::ZERO, &mut [0xFF; 20]), Err(DropReason::Malformed));
}

#[test]
fn a_record_is_believed_only_with_the_directorys_signature() {
    let server = Server::new();
    let mut authority = authority(&server, 0);
    authority.certify(&postcard::from_bytes(&server.greeting()).unwrap()).unwrap();
    let (record, signature) = server.sign(&NodeRecord {
        index: 2,
        name: "n",
        key: [1; 32],
        serial: 1,
        epoch: 4,
        ..NodeRecord::default()
    });
    let good = SignedRecord { record: &record, signature: &signature };
    assert_eq!(authority.record(&good).unwrap().index, 2);
    let mut forged = record.clone();
    forged[0] = 3;
    let bad = SignedRecord { record: &forged, signature: &signature };
    assert_eq!(authority.record(&bad), Err(DropReason::Authentication));
    let old = NodeRecord { epoch: 3, ..NodeRecord::decode(&record).unwrap() };
    let (old, signed) = server.sign(&old);
    let old = SignedRecord { record: &old, signature: &signed };
    assert_eq!(authority.record(&old), Err(DropReason::OldRecord), "of an epoch that is over");
    let short = SignedRecord { record: &record, signature: &signature[..63] };
    assert_eq!(authority.record(&short), Err(DropReason::Malformed));
}

#[test]
fn revocations_count_when_the_directory_signed_them_in_this_epoch_and_none_is_missing() {
    let server = Server::new();
    let mut list = [0; 8];
    let len = postcard::to_slice(&Revocation { serial: 1, index: 5 }, &mut list).unwrap().len();
    let signed = |signer: &Server, epoch: u32, after: u32| {
        let said = [REVOCATIONS_CONTEXT, &epoch.to_le_bytes(), &after.to_le_bytes(), &list[..len]].concat();
        signer.directory.sign(&said).to_bytes()
    };
    let forger = Server { directory: SigningKey::from_bytes(&[9; 32]), ..Server::new() };
    for (signer, epoch, after, expected) in [
        (&server, 4, 0, Ok(())),
        (&server, 4, 1, Err(DropReason::Malformed)),
        (&server, 3, 0, Err(DropReason::OldRecord)),
        (&server, 5, 0, Err(DropReason::Malformed)),
        (&forger, 4, 0, Err(DropReason::Authentication)),
    ] {
        let mut link = link(&server);
        let (mut transport, _) = up(&server, &mut link, Instant::ZERO);
        link.frame(Instant::ZERO, &mut seal(&mut transport, &welcome(&server))).unwrap();
        let signature = signed(signer, epoch, after);
        let message =
            ToNode::Revocations(Revocations { epoch, after, list: &list[..len], signature: &signature });
        let heard = link.frame(Instant::ZERO, &mut send(&mut transport, &message)).map(drop);
        assert_eq!(heard, expected, "epoch {epoch}, after {after}");
        assert_eq!(link.must_close(), expected.is_err());
    }
}

#[test]
fn a_state_of_the_feed_that_is_over_is_refused_also_when_all_is_asked_for_anew() {
    let server = Server::new();
    for (before, sequence, taken) in [(7, 6, false), (7, 7, true), (7, 8, true)] {
        let mut link = link(&server);
        link.set_floor(before);
        link.set_sequence(0);
        let (mut transport, _) = up(&server, &mut link, Instant::ZERO);
        link.frame(Instant::ZERO, &mut seal(&mut transport, &welcome(&server))).unwrap();
        let commit = ToNode::FeedCommit(FeedCommit { sequence, digest: [1; 32], signature: &[2; 64] });
        let heard = link.frame(Instant::ZERO, &mut send(&mut transport, &commit)).map(drop);
        assert_eq!(heard, if taken { Ok(()) } else { Err(DropReason::OldRecord) }, "{sequence}");
    }
}

#[test]
fn a_service_account_token_is_shown_only_when_asked_for_and_only_before_the_welcome() {
    let server = Server::new();
    let proof = ToServer::Proof { part: &[9; PROOF_PART_MAX], last: true };
    let mut out = [0; 1600];

    let mut deaf = link(&server);
    let (mut transport, _) = up(&server, &mut deaf, Instant::ZERO);
    let mut frame = send(&mut transport, &ToNode::Prove);
    assert_eq!(deaf.frame(Instant::ZERO, &mut frame), Err(DropReason::Malformed), "it offered none");

    let mut link = link(&server);
    link.credentials.account = true;
    assert_eq!(link.ask(&proof, &mut out), Ok(None));
    let (mut transport, hello) = up(&server, &mut link, Instant::ZERO);
    match ToServer::decode(&hello).unwrap() {
        Some(ToServer::Hello(hello)) => assert_eq!(hello.features, FEATURE_ACCOUNT),
        other => panic!("{other:?}"),
    }
    let mut frame = send(&mut transport, &ToNode::Prove);
    assert_eq!(link.frame(Instant::ZERO, &mut frame), Ok(Some(ToNode::Prove)));
    assert_eq!(link.ask(&ToServer::LookupName("edge-2"), &mut out), Ok(None));
    let len = link.ask(&proof, &mut out).unwrap().unwrap();
    assert_eq!(ToServer::decode(transport.open(&mut out[..len]).unwrap()), Ok(Some(proof.clone())));
    link.frame(Instant::ZERO, &mut seal(&mut transport, &welcome(&server))).unwrap();
    assert!(link.is_up());
    assert_eq!(link.ask(&proof, &mut out), Ok(None));
}
