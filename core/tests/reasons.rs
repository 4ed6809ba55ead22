//! Every reason to drop something has a test that causes it: a new one does not compile here until its test is named.

#![allow(
    clippy::unwrap_used,
    clippy::std_instead_of_core,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::Path;

use edgemesh_core::counters::DropReason;

/// Where a reason is caused: file and test function. Others may cause it, too.
const fn cause(reason: DropReason) -> (&'static str, &'static str) {
    use DropReason::{
        AdmittedFull, Authentication, Challenge, Checksum, DnsMessage, Family, FlowsFull, Fragment,
        HandshakeLimit, HealthMessage, IcmpUnmatched, Malformed, NoEndpoints, NoFlow, NoPath, NoRoom,
        NoRoute, NoSession, NotAnEndpoint, NotIp, NotLocal, OldHandshake, OldRecord, PathMessage, PeersFull,
        PortsFull, ProbeAck, Protocol, QueueFull, Relay, Replay, Revoked, SessionExpired, SourceAddress,
        Table, TooBig, Truncated, UnknownDatagram, UnknownIndex, UnknownPeer, UnknownPort, WeakKey,
    };
    const FLOWS: &str = "src/flow/tests/refusals.rs";
    const TUNNEL: &str = "tests/tunnel/hostile.rs";
    const PATHS: &str = "src/path/tests/hostile.rs";
    const ENGINE: &str = "tests/engine.rs";
    match reason {
        Truncated | NotIp | Malformed | Checksum => {
            (FLOWS, "malformed_packets_are_dropped_with_what_is_wrong")
        }
        NoRoom => (FLOWS, "nobody_waits_for_what_is_not_there"),
        Family => ("tests/compact.rs", "ipv6_packets_and_flows_are_dropped_by_name"),
        Protocol => (FLOWS, "addresses_of_no_use_are_dropped"),
        NoRoute | NoEndpoints | UnknownPort | NotLocal => (ENGINE, "a_new_flow_that_leads_nowhere_says_why"),
        NotAnEndpoint | SourceAddress | NoFlow => {
            (FLOWS, "a_peer_reaches_nothing_but_endpoints_and_only_as_itself")
        }
        FlowsFull => (FLOWS, "a_greedy_source_takes_from_itself"),
        PortsFull => (FLOWS, "ports_towards_one_endpoint_run_out"),
        AdmittedFull => (FLOWS, "a_full_table_of_admitted_tuples_keeps_live_ones"),
        IcmpUnmatched => (FLOWS, "icmp_errors_of_no_flow_are_dropped_on_all_four_ways"),
        Fragment => (FLOWS, "fragments_without_room_or_end_are_dropped"),
        TooBig => (FLOWS, "later_fragments_that_neither_fit_nor_may_be_cut_are_dropped"),
        UnknownDatagram => (TUNNEL, "things_that_are_no_messages_are_refused"),
        UnknownIndex | Authentication | Replay => (TUNNEL, "data_is_accepted_once_and_only_unaltered"),
        OldHandshake => (TUNNEL, "replayed_and_altered_initiations_are_refused"),
        HandshakeLimit => (TUNNEL, "under_load_a_peer_gets_through_with_a_cookie"),
        QueueFull => (TUNNEL, "a_full_queue_refuses_and_leaves_room_for_our_own"),
        WeakKey => (TUNNEL, "a_weak_key_fails_the_handshake"),
        UnknownPeer => ("tests/tunnel/handshakes.rs", "keys_of_a_removed_peer_are_useless"),
        SessionExpired => ("tests/tunnel/timers.rs", "an_expired_session_is_neither_sent_nor_received_in"),
        NoSession | PeersFull | PathMessage => {
            (PATHS, "messages_without_session_and_unknown_peers_are_refused")
        }
        Relay | Challenge => (PATHS, "strangers_cannot_bind_unbind_or_inject"),
        ProbeAck => (PATHS, "only_an_acknowledgement_of_our_own_probe_promotes"),
        HealthMessage => ("src/wire/health.rs", "lists_are_bounded_and_unknown_entries_skipped"),
        Revoked => ("src/peer/table.rs", "a_revoked_peer_is_gone_and_its_record_does_not_bring_it_back"),
        OldRecord => ("src/peer/table.rs", "older_records_are_refused_and_new_keys_reset_the_peer"),
        Table => (ENGINE, "a_feed_that_the_table_refuses_is_counted"),
        NoPath => (ENGINE, "a_message_that_lost_its_way_is_counted"),
        DnsMessage => ("tests/dns/wire.rs", "w7_responses_and_scraps_get_silence"),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The function's text up to the brace that closes it: the first that stands where the function began.
fn body(text: &str, function: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let starts = format!("fn {function}(");
    let at = lines.iter().position(|line| line.trim_start().starts_with(&starts))?;
    let is_test = lines[..at].iter().rev().take_while(|line| !line.trim().is_empty());
    let marked = is_test.map(|line| line.trim()).any(|line| line == "#[test]");
    let indent = lines[at].len() - lines[at].trim_start().len();
    let end = format!("{}}}", " ".repeat(indent));
    let len = lines[at..].iter().position(|line| *line == end)?;
    marked.then(|| lines[at..at + len].join("\n"))
}

#[test]
fn every_reason_is_caused_by_the_test_that_is_named_for_it() {
    for reason in DropReason::ALL {
        let (file, function) = cause(*reason);
        let body = body(&read(file), function);
        let body = body.unwrap_or_else(|| panic!("{file} has no test {function}"));
        let variant = format!("DropReason::{reason:?}");
        let named = body.match_indices(&variant).any(|(at, _)| {
            // The whole name: `Relay` is also how `RelayTcp` begins.
            !body[at + variant.len()..].starts_with(|next: char| next.is_ascii_alphanumeric())
        });
        assert!(named, "{function} in {file} does not name {variant}");
    }
}

/// A reason that nothing gives is in nobody's way, and tells nobody anything.
#[test]
fn every_reason_is_given_by_the_core() {
    let mut code = String::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
    for reason in DropReason::ALL {
        assert!(code.contains(&format!("DropReason::{reason:?}")), "{reason:?}");
    }
}

/// The text of all files but tests.
fn collect(folder: &Path, out: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_stem().unwrap().to_string_lossy().into_owned();
        if ["tests", "testing", "vectors", "counters"].contains(&&*name) {
            continue;
        }
        if entry.is_dir() {
            collect(&entry, out);
        } else {
            let text = fs::read_to_string(&entry).unwrap();
            out.push_str(text.split("\n#[cfg(test)]").next().unwrap());
        }
    }
}
