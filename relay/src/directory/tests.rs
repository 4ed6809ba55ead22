use super::assign::endpoint_vip;
use super::*;
use edgemesh_core::wire::control::Refusal;
use edgemesh_discovery::encoded::{Resolver, VipKey};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("edgemesh-directory-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self) -> Result<Directory, StateError> {
        let mut directory = Directory::open(state::Directory::open(&self.0)?, &mut Rng::new([1; 32]))?;
        directory.set_settings(Settings {
            network: Network {
                mesh_v4: [242, 0, 0, 0],
                mesh_v4_len: 8,
                mesh_v6: [0xFD, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            },
            domain: "cluster.local".into(),
            servers: vec!["s:1".into()],
        })?;
        Ok(directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn token(directory: &mut Directory, node: &str, seed: u8) -> [u8; 16] {
    let new = NewToken { node: node.into(), ttl: Duration::from_secs(60), servers: vec![] };
    directory.new_token(new, 1_000, &mut Rng::new([seed; 32])).unwrap().secret
}

fn refusal(directory: &mut Directory, name: &str, key: u8, secret: &[u8], now: u64) -> Refusal {
    directory.admit(name, [key; 32], secret, now).unwrap().unwrap_err().0
}

#[test]
fn a_token_enrols_one_key_and_repeating_that_is_harmless() {
    let scratch = Scratch::new("enrol");
    let mut directory = scratch.open().unwrap();
    let secret = token(&mut directory, "a", 5);
    assert_eq!(refusal(&mut directory, "a", 1, &[], 1_000), Refusal::NotEnrolled);
    assert_eq!(refusal(&mut directory, "a", 1, &[0; 16], 1_000), Refusal::WrongToken);
    assert_eq!(refusal(&mut directory, "b", 1, &secret, 1_000), Refusal::WrongToken);
    assert_eq!(refusal(&mut directory, "a", 1, &secret, 1_061), Refusal::Expired);
    let first = directory.admit("a", [1; 32], &secret, 1_060).unwrap().unwrap();
    assert_eq!(first, Admission { index: 1, enrolled: true });
    for _ in 0..2 {
        let again = directory.admit("a", [1; 32], &secret, 9_999).unwrap().unwrap();
        assert_eq!(again, Admission { index: 1, enrolled: false });
    }
    assert_eq!(refusal(&mut directory, "a", 2, &secret, 1_000), Refusal::UsedByAnotherKey);
    assert_eq!(refusal(&mut directory, "a", 2, &[], 1_000), Refusal::NameTaken);
    assert_eq!(refusal(&mut directory, "b", 1, &[], 1_000), Refusal::NameTaken);
    assert!(directory.record(1).is_some() && directory.record(2).is_none());

    let rejoin = token(&mut directory, "a", 6);
    let old = directory.relay_key(1).unwrap();
    assert_eq!(directory.admit("a", [3; 32], &rejoin, 1_000).unwrap().unwrap().index, 1);
    assert_eq!(directory.nodes()[&1].serial, 2);
    assert_ne!(directory.relay_key(1).unwrap(), old);
    assert_eq!(refusal(&mut directory, "a", 1, &[], 1_000), Refusal::NameTaken);
}

#[test]
fn who_is_vouched_for_gets_a_name_without_a_key_and_no_other() {
    let scratch = Scratch::new("vouched");
    let mut directory = scratch.open().unwrap();
    let first = directory.admit_vouched("a", [1; 32], 1_000).unwrap();
    assert_eq!(first, Ok(Admission { index: 1, enrolled: true }));
    assert_eq!(
        directory.admit_vouched("a", [1; 32], 1_000).unwrap(),
        Ok(Admission { index: 1, enrolled: false })
    );
    for (name, key) in [("a", 2), ("b", 1)] {
        let refused = directory.admit_vouched(name, [key; 32], 1_000).unwrap().unwrap_err();
        assert_eq!(refused.0, Refusal::NameTaken, "{name}");
    }
    let rejoin = token(&mut directory, "a", 6);
    assert_eq!(directory.admit("a", [3; 32], &rejoin, 1_000).unwrap().unwrap().index, 1);
    assert_eq!(directory.admit_vouched("a", [1; 32], 1_000).unwrap().unwrap_err().0, Refusal::NameTaken);
}

#[test]
fn everything_is_there_again_after_the_process_died() {
    let scratch = Scratch::new("again");
    let mut directory = scratch.open().unwrap();
    let secret = token(&mut directory, "a", 5);
    let unused = token(&mut directory, "c", 7);
    let _ = directory.admit("a", [1; 32], &secret, 1_000).unwrap().unwrap();
    let mark = directory.assign(|a| (a.node("b"), [7; 32])).unwrap();
    assert_eq!(mark, (2, FeedMark { sequence: 1, digest: [7; 32] }));
    let (greeting, record) = (directory.keys.greeting(1), directory.record(1));
    drop(directory);
    let mut directory = scratch.open().unwrap();
    assert_eq!((directory.keys.greeting(1), directory.record(1)), (greeting, record));
    assert_eq!(directory.index_of("b"), Some(2));
    assert_eq!(directory.mark, mark.1);
    assert_eq!(
        directory.assign(|_| ((), [7; 32])).unwrap().1.sequence,
        1,
        "the same table is the same sequence"
    );
    assert_eq!(directory.assign(|_| ((), [8; 32])).unwrap().1.sequence, 2);
    assert_eq!(directory.admit("c", [4; 32], &unused, 1_000).unwrap().unwrap().index, 3);
}

/// Whoever holds a list can tell one from before: also after a restart, a rewritten log and another key.
#[test]
fn every_list_of_entry_points_has_a_higher_sequence_than_those_before() {
    let scratch = Scratch::new("listed");
    let mut directory = scratch.open().unwrap();
    for n in 1..=7 {
        publish(&mut directory, n).unwrap();
    }
    let first = directory.number_entry_points([1; 32]).unwrap();
    assert_eq!(
        first,
        FeedMark { sequence: 8, digest: [1; 32] },
        "above what an earlier build signed it with"
    );
    assert_eq!(directory.number_entry_points([1; 32]).unwrap(), first);
    let second = directory.number_entry_points([2; 32]).unwrap();
    assert_eq!((second.sequence, directory.mark.sequence), (9, 7), "the feed is another matter");
    drop(directory);
    let mut directory = scratch.open().unwrap();
    assert_eq!((directory.entry_points(), directory.number_entry_points([2; 32]).unwrap()), (second, second));
    assert_eq!(directory.number_entry_points([1; 32]).unwrap().sequence, 10, "what comes back is news");
    let entries = directory.entries();
    directory.log.replace(&directory.state, &entries).unwrap();
    drop(directory);
    let mut directory = scratch.open().unwrap();
    assert_eq!(directory.entry_points().sequence, 10);
    directory.rotate_key(1_000_000, &mut Rng::new([9; 32])).unwrap();
    assert!(directory.entry_points().sequence > 10 && directory.entry_points().digest == [1; 32]);
}

#[test]
fn endpoint_vips_are_in_the_upper_half_and_stay() {
    use edgemesh_discovery::table::Key;
    let scratch = Scratch::new("vips");
    let service = Key { namespace: "n".into(), name: "db".into() };
    let vip = |directory: &mut Directory, hostname: &str, address: &str| {
        let key = VipKey { service: &service, hostname, node: "e", address: address.parse().unwrap() };
        directory.assign(|a| (a.endpoint_vip(&key), [0; 32])).unwrap().0.unwrap().to_string()
    };
    let mut directory = scratch.open().unwrap();
    assert_eq!(vip(&mut directory, "db-0", "172.17.0.2"), "242.128.0.1");
    assert_eq!(vip(&mut directory, "db-1", "172.17.0.2"), "242.128.0.2");
    assert_eq!(vip(&mut directory, "db-1", "fd00::2"), "fd01::8000:0:0:3");
    drop(directory);
    let mut directory = scratch.open().unwrap();
    assert_eq!(vip(&mut directory, "db-0", "172.17.0.9"), "242.128.0.1");
    let network = Network { mesh_v4: [10, 1, 2, 0], mesh_v4_len: 24, mesh_v6: [0; 16] };
    assert_eq!(endpoint_vip(&network, 126, true), Some("10.1.2.254".parse().unwrap()));
    assert_eq!(endpoint_vip(&network, 127, true), None);
}

#[test]
fn a_prefix_that_is_used_up_refuses_politely() {
    let scratch = Scratch::new("small");
    let mut directory = scratch.open().unwrap();
    let mut settings = directory.settings().unwrap().clone();
    settings.network = Network { mesh_v4: [10, 0, 0, 0], mesh_v4_len: 24, mesh_v6: [0; 16] };
    directory.set_settings(settings).unwrap();
    let (indices, _) = directory
        .assign(|a| ((0..70).map(|n| a.node(&format!("n{n}"))).collect::<Vec<_>>(), [0; 32]))
        .unwrap();
    assert_eq!(indices[61..], [62, 0, 0, 0, 0, 0, 0, 0, 0]);
    let secret = token(&mut directory, "late", 5);
    assert_eq!(refusal(&mut directory, "late", 1, &secret, 1_000), Refusal::NotEnrolled);
}

#[test]
fn damaged_state_is_named_and_a_grown_log_is_rewritten() {
    let scratch = Scratch::new("damaged");
    let mut directory = scratch.open().unwrap();
    let feed = |n: u32| {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&n.to_le_bytes());
        Entry::Feed { sequence: u64::from(n), digest }
    };
    directory.log.append(&(0..6_000).map(feed).collect::<Vec<_>>()).unwrap();
    let long = directory.log.len();
    drop(directory);
    let directory = scratch.open().unwrap();
    assert!(long > SLACK && directory.log.len() < 1_000);
    assert_eq!(directory.mark.sequence, 5_999);
    drop(directory);

    let path = scratch.0.join(FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 0xFF;
    std::fs::write(&path, &bytes).unwrap();
    let error = scratch.open().err().unwrap().to_string();
    assert!(error.contains("directory") && error.contains("damaged at byte 0"), "{error}");
    std::fs::remove_file(&path).unwrap();
    drop(scratch.open().unwrap());
    let keys = std::fs::read(scratch.0.join("keys")).unwrap();
    std::fs::remove_file(scratch.0.join("keys")).unwrap();
    let error = scratch.open().err().unwrap().to_string();
    assert!(error.contains("keys: missing") && error.contains("backup"), "{error}");
    std::fs::write(scratch.0.join("keys"), &keys[1..]).unwrap();
    std::fs::set_permissions(scratch.0.join("keys"), PermissionsExt::from_mode(0o600)).unwrap();
    let error = scratch.open().err().unwrap().to_string();
    assert!(error.contains("keys") && error.contains("backup"), "{error}");
}

/// One published change of the feed.
fn publish(directory: &mut Directory, number: u32) -> Result<FeedMark, StateError> {
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&number.to_le_bytes());
    directory.assign(|_| ((), digest)).map(|(_, mark)| mark)
}

#[test]
fn a_log_that_grows_while_the_server_runs_is_rewritten_and_loses_nothing() {
    let scratch = Scratch::new("running");
    let mut directory = scratch.open().unwrap();
    let secret = token(&mut directory, "a", 5);
    directory.admit("a", [1; 32], &secret, 1_000).unwrap().unwrap();
    let on_disk = || std::fs::metadata(scratch.0.join(FILE)).unwrap().len();
    // In one entry each, but written together: this is about the log, not about the disk.
    let mut rewritten = 0;
    for round in 1..=30 {
        let before = directory.log.len();
        let feed = |n: u32| Entry::Feed { sequence: u64::from(round * 1_000 + n), digest: [n as u8; 32] };
        directory.commit((0..1_000).map(feed).collect()).unwrap();
        rewritten += u32::from(directory.log.len() < before);
        assert!(directory.log.len() <= 2 * SLACK + 64 * 1_000, "round {round}: {}", directory.log.len());
        assert_eq!(on_disk(), directory.log.len());
    }
    assert!((2..10).contains(&rewritten), "{rewritten}");
    let mark = publish(&mut directory, 77).unwrap();
    assert_eq!(mark.sequence, 31_000);
    drop(directory);
    let directory = scratch.open().unwrap();
    assert_eq!((directory.mark, directory.index_of("a")), (mark, Some(1)));
}

#[test]
fn a_log_that_cannot_be_rewritten_goes_on_as_it_is() {
    let scratch = Scratch::new("stuck");
    let mut directory = scratch.open().unwrap();
    // What was left of an earlier attempt, and cannot be written.
    let aside = scratch.0.join("directory.new");
    std::fs::create_dir(&aside).unwrap();
    let feed = |n: u32| Entry::Feed { sequence: u64::from(n), digest: [n as u8; 32] };
    for round in 0..2 {
        directory.commit((1..=12_000).map(|n| feed(round * 12_000 + n)).collect()).unwrap();
    }
    let long = directory.log.len();
    assert!(long > 4 * SLACK, "{long}");
    std::fs::remove_dir(&aside).unwrap();
    std::fs::write(&aside, b"half of it").unwrap();
    let mark = publish(&mut directory, 9).unwrap();
    drop(directory);
    let directory = scratch.open().unwrap();
    assert_eq!(directory.mark, mark);
    assert!(directory.log.len() < 1_000 && !aside.exists(), "the next start did it");
}
