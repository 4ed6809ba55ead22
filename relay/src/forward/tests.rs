use super::*;
use edgemesh_core::wire::relay::{envelope, verify};

const KEY: [u8; 32] = [7; 32];

fn switch() -> Switch {
    switch_and_news().0
}

fn switch_and_news() -> (Switch, mpsc::Receiver<News>) {
    switch_of(None)
}

fn switch_of(upstream: Option<Upstream>) -> (Switch, mpsc::Receiver<News>) {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let key = |index: u32| (index < 100).then_some(KEY);
    let (news, heard) = mpsc::channel(8);
    let counters = Arc::new(Counters::default());
    (Switch::new(udp, counters, news, &mut Rng::new([1; 32]), key, upstream).unwrap(), heard)
}

#[test]
fn who_missed_a_node_hears_of_it_when_it_is_bound() {
    let (switch, mut news) = switch_and_news();
    let (ab, _) = switch.sessions(1, 2, &mut Rng::new([2; 32]));
    let (a, b) = (at("192.0.2.1:1"), at("192.0.2.2:2"));
    let lost = |from| say(&switch, from, Message::Data { session: ab, payload: b"sealed" }, &KEY).1;
    let pair = News::Met(Met { from: 1, to: 2 });
    assert_eq!(lost(a), None);
    bind(&switch, a, 1, 1);
    assert_eq!(news.try_recv(), Ok(pair), "its sender was not bound");
    assert_eq!((lost(a), lost(a)), (None, None));
    bind(&switch, a, 1, 5);
    assert!(news.try_recv().is_err(), "its receiver is not there yet");
    bind(&switch, b, 2, 1);
    assert_eq!(news.try_recv(), Ok(pair));
    bind(&switch, b, 2, 5);
    assert!(lost(a).is_some() && news.try_recv().is_err(), "nothing was lost since");
}

fn at(text: &str) -> From<'static> {
    From::Udp(Ends { remote: text.parse().unwrap(), local: None })
}

fn say(
    switch: &Switch,
    from: From<'_>,
    message: Message<'_>,
    key: &[u8; 32],
) -> (Option<Vec<u8>>, Option<String>) {
    let mut datagram = [0; 200];
    let len = message.emit(key, &mut datagram).unwrap();
    let mut out = [0; BIND];
    match switch.datagram(from, &datagram[..len], &mut out) {
        Verdict::Answer(answer) => {
            assert!(answer <= len, "an answer is never longer than its cause");
            (Some(out[..answer].to_vec()), None)
        }
        Verdict::Forward(Way::Udp(to)) => (None, Some(to.remote.to_string())),
        Verdict::Forward(Way::Tcp(queue)) => (None, Some(format!("tcp {}", queue.peer()))),
        Verdict::Nothing => (None, None),
    }
}

/// Binds through the challenge.
fn bind(switch: &Switch, from: From<'_>, index: u32, epoch: u64) {
    let (answer, _) = say(switch, from, Message::Bind { index, epoch, cookie: [0; 16] }, &KEY);
    let answer = answer.unwrap();
    let cookie = match Message::parse(&answer).unwrap() {
        Message::Challenge { cookie, .. } => cookie,
        Message::Bound { .. } => return,
        other => panic!("{other:?}"),
    };
    let (answer, _) = say(switch, from, Message::Bind { index, epoch: epoch + 1, cookie }, &KEY);
    let answer = answer.unwrap();
    assert!(verify(&KEY, &answer));
    let observed = from.address();
    assert_eq!(Message::parse(&answer), Ok(Message::Bound { index, epoch: epoch + 1, observed }));
}

#[test]
fn data_goes_only_from_the_bound_sender_to_the_bound_receiver() {
    let switch = switch();
    let mut rng = Rng::new([2; 32]);
    let (ab, ba) = switch.sessions(1, 2, &mut rng);
    assert_eq!(switch.sessions(2, 1, &mut rng), (ba, ab));
    assert_ne!(ab, ba);
    let data = |session| Message::Data { session, payload: b"sealed" };
    let (a, b) = (at("192.0.2.1:1"), at("192.0.2.2:2"));
    assert!(say(&switch, a, data(ab), &KEY).0.is_some(), "not bound: told so");
    bind(&switch, a, 1, 1);
    assert_eq!(say(&switch, a, data(ab), &KEY), (None, None));
    assert_eq!(switch.counters.dropped(Loss::PeerUnbound), 1);
    bind(&switch, b, 2, 1);
    assert_eq!(say(&switch, a, data(ab), &KEY).1.as_deref(), Some("192.0.2.2:2"));
    assert_eq!(say(&switch, b, data(ba), &KEY).1.as_deref(), Some("192.0.2.1:1"));
    for (from, session, reason) in
        [(b, ab, Loss::Source), (at("192.0.2.1:9"), ab, Loss::Source), (a, 77, Loss::Session)]
    {
        let before = switch.counters.dropped(reason);
        assert_eq!(say(&switch, from, data(session), &KEY).1, None);
        assert_eq!(switch.counters.dropped(reason), before + 1);
    }
}

#[test]
fn a_bind_needs_key_cookie_and_a_fresh_epoch() {
    let switch = switch();
    let a = at("192.0.2.1:1");
    let bind_with = |from, index, epoch, cookie, key: &[u8; 32]| {
        say(&switch, from, Message::Bind { index, epoch, cookie }, key).0
    };
    assert_eq!(bind_with(a, 1, 1, [0; 16], &[8; 32]), None);
    assert_eq!(bind_with(a, 100, 1, [0; 16], &KEY), None);
    assert_eq!(switch.counters.dropped(Loss::Bind), 2);
    let challenge = bind_with(a, 1, 1, [0; 16], &KEY).unwrap();
    let Ok(Message::Challenge { cookie, .. }) = Message::parse(&challenge) else { panic!() };
    let elsewhere = bind_with(at("192.0.2.1:2"), 1, 1, cookie, &KEY).unwrap();
    assert!(
        matches!(Message::parse(&elsewhere), Ok(Message::Challenge { .. })),
        "a cookie is for one address"
    );
    assert!(matches!(Message::parse(&bind_with(a, 1, 5, cookie, &KEY).unwrap()), Ok(Message::Bound { .. })));
    assert!(matches!(Message::parse(&bind_with(a, 1, 5, cookie, &KEY).unwrap()), Ok(Message::Bound { .. })));
    assert_eq!(bind_with(a, 1, 4, cookie, &KEY), None, "a recording");
    assert_eq!(switch.epoch(1), 5);
    let moved = at("198.51.100.1:9");
    bind(&switch, moved, 1, 6);
    assert_eq!(switch.binding(1), Some(("udp", "198.51.100.1:9".parse().unwrap())));
    assert_eq!(bind_with(a, 1, 7, cookie, &KEY), None, "what was said before the move is over");
}

#[test]
fn udp_and_tcp_cross_and_the_later_bind_wins() {
    let switch = switch();
    let mut rng = Rng::new([2; 32]);
    let (ab, ba) = switch.sessions(1, 2, &mut rng);
    let peer: SocketAddr = "203.0.113.9:443".parse().unwrap();
    let queue = Arc::new(Queue::new(peer));
    let tcp = From::Tcp(&queue, peer);
    bind(&switch, at("192.0.2.1:1"), 1, 1);
    let (bound, _) = say(&switch, tcp, Message::Bind { index: 2, epoch: 1, cookie: [0; 16] }, &KEY);
    assert_eq!(Message::parse(&bound.unwrap()), Ok(Message::Bound { index: 2, epoch: 1, observed: peer }));
    let data = |session| Message::Data { session, payload: b"sealed" };
    assert_eq!(say(&switch, at("192.0.2.1:1"), data(ab), &KEY).1.as_deref(), Some("tcp 203.0.113.9:443"));
    assert_eq!(say(&switch, tcp, data(ba), &KEY).1.as_deref(), Some("192.0.2.1:1"));
    assert_eq!(switch.sizes(), (2, 1, 1));
    bind(&switch, at("192.0.2.2:2"), 2, 2);
    assert_eq!(say(&switch, tcp, data(ba), &KEY).1, None);
    let (_, _) = say(&switch, tcp, Message::Bind { index: 2, epoch: 9, cookie: [0; 16] }, &KEY);
    assert_eq!(switch.binding(2), Some(("tcp", peer)));
    switch.closed(&queue);
    assert_eq!(switch.binding(2), None);
}

#[test]
fn garbage_costs_a_counter_and_unbound_is_rare() {
    let switch = switch();
    let mut out = [0; BIND];
    for len in 0..80 {
        let _ = switch.datagram(at("192.0.2.1:1"), &vec![0xAB; len], &mut out);
    }
    assert_eq!(switch.counters.dropped(Loss::Malformed), 80);
    let unbound: usize = (0..100)
        .filter(|n| matches!(switch.datagram(at("192.0.2.1:1"), &envelope(*n), &mut out), Verdict::Answer(8)))
        .count();
    assert!((1..=20).contains(&unbound), "{unbound}");
}

/// Nodes 1 and 2 are bound at this server, 3 elsewhere.
#[test]
fn without_a_directory_what_is_for_others_goes_to_the_directory_s_server_and_comes_from_there() {
    let (switch, mut news) = switch_of(Some(Upstream::new()));
    let (a, b, up, other) =
        (at("192.0.2.1:1"), at("192.0.2.2:2"), at("198.51.100.1:9"), at("198.51.100.2:9"));
    for (n, (from, to)) in (10..).zip([(1, 2), (2, 1), (1, 3), (3, 1)]) {
        switch.enter(n, from, to);
    }
    let data = |from, session| say(&switch, from, Message::Data { session, payload: b"sealed" }, &KEY);
    bind(&switch, a, 1, 5);
    bind(&switch, b, 2, 5);
    let told: Vec<News> = std::iter::from_fn(|| news.try_recv().ok()).collect();
    assert_eq!(told, [1, 2].map(|index| News::Bound { index, epoch: 6 }));
    assert_eq!(data(a, 12), (None, None), "nothing is known of the directory's server yet");
    switch.tables().upstream = Some(up.address());
    assert_eq!(data(a, 10), (None, Some("192.0.2.2:2".to_owned())), "it does not leave this server");
    assert_eq!(data(a, 12), (None, Some("198.51.100.1:9".to_owned())));
    assert_eq!(data(up, 13), (None, Some("192.0.2.1:1".to_owned())));
    assert_eq!(data(other, 13).1, None, "only the directory's server speaks for others");
    assert_eq!(data(up, 10), (None, None), "nor does it for a node that is bound here");
    assert_eq!(data(up, 99), (None, None));
    assert_eq!(switch.counters.dropped(Loss::Session), 1);
    switch.unbind(1);
    assert_eq!(data(up, 13), (None, None), "it never goes back to where it came from");
    assert_eq!(switch.counters.dropped(Loss::PeerUnbound), 2);
}

#[test]
fn a_session_that_the_directory_s_server_does_not_know_is_told_to_its_sender() {
    let (switch, _news) = switch_of(Some(Upstream::new()));
    let (a, up) = (at("192.0.2.1:1"), at("198.51.100.1:9"));
    switch.enter(12, 1, 3);
    bind(&switch, a, 1, 5);
    let unbound = |from| say(&switch, from, Message::Unbound { session: 12 }, &KEY);
    assert_eq!(unbound(up), (None, None));
    switch.tables().upstream = Some(up.address());
    assert_eq!(unbound(up), (None, Some("192.0.2.1:1".to_owned())));
    assert_eq!(unbound(a), (None, None), "only servers say so");
    assert_eq!(switch.counters.dropped(Loss::Malformed), 2);
}

/// The directory's server: relay 50 is bound, nodes 1 and 2 came by it, 3 is bound here.
#[test]
fn nodes_of_a_relay_are_reached_by_it_until_they_are_bound_elsewhere() {
    let (switch, mut news) = switch_and_news();
    let (relay, c) = (at("198.51.100.7:20004"), at("192.0.2.3:3"));
    let mut rng = Rng::new([2; 32]);
    let ((ac, ca), (ab, _)) = (switch.sessions(1, 3, &mut rng), switch.sessions(1, 2, &mut rng));
    let data = |from, session| say(&switch, from, Message::Data { session, payload: b"sealed" }, &KEY);
    bind(&switch, c, 3, 1);
    switch.bound_via(50, 1, 7);
    assert_eq!(data(c, ca).1, None, "the relay is not bound");
    bind(&switch, relay, 50, 1);
    assert_eq!(news.try_recv(), Err(mpsc::error::TryRecvError::Empty), "nobody waits for relays");
    assert_eq!(data(c, ca), (None, Some("198.51.100.7:20004".to_owned())));
    assert_eq!(data(relay, ac), (None, Some("192.0.2.3:3".to_owned())));
    assert_eq!(data(at("192.0.2.1:1"), ac).1, None, "the node itself does not send here");
    assert_eq!(data(relay, ab), (None, None), "2 is bound nowhere");
    switch.bound_via(50, 2, 1);
    assert_eq!(news.try_recv(), Ok(News::Met(Met { from: 1, to: 2 })));
    assert_eq!(switch.binding(1), Some(("via", "198.51.100.7:20004".parse().unwrap())));
    switch.bound_via(51, 1, 6);
    assert!(switch.is_via(50, 1), "an older bind");
    bind(&switch, at("192.0.2.1:1"), 1, 8);
    assert_eq!(news.try_recv(), Ok(News::Left { relay: 50, index: 1 }));
    assert_eq!(data(c, ca), (None, Some("192.0.2.1:1".to_owned())));
    switch.unbound_via(50, 1);
    assert!(switch.binding(1).is_some(), "it has nothing to say any more");
    let lost: Vec<News> = std::iter::from_fn(|| news.try_recv().ok()).collect();
    assert_eq!(
        lost,
        [(1, 3), (3, 1)].map(|(from, to)| News::Met(Met { from, to })),
        "what was lost meanwhile"
    );
    switch.unbind(2);
    assert_eq!(news.try_recv(), Ok(News::Left { relay: 50, index: 2 }));
}
