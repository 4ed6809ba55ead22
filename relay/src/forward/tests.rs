use super::*;
use edgemesh_core::wire::relay::envelope;

const KEY: [u8; 32] = [7; 32];

fn switch() -> Switch {
    switch_and_met().0
}

fn switch_and_met() -> (Switch, mpsc::Receiver<Met>) {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let key = |index: u32| (index < 100).then_some(KEY);
    let (met, heard) = mpsc::channel(8);
    (Switch::new(udp, Arc::new(Counters::default()), met, &mut Rng::new([1; 32]), key).unwrap(), heard)
}

#[test]
fn who_missed_a_node_hears_of_it_when_it_is_bound() {
    let (switch, mut met) = switch_and_met();
    let (ab, _) = switch.sessions(1, 2, &mut Rng::new([2; 32]));
    let (a, b) = (at("192.0.2.1:1"), at("192.0.2.2:2"));
    let lost = |from| say(&switch, from, Message::Data { session: ab, payload: b"sealed" }, &KEY).1;
    let pair = Met { from: 1, to: 2 };
    assert_eq!(lost(a), None);
    bind(&switch, a, 1, 1);
    assert_eq!(met.try_recv(), Ok(pair), "its sender was not bound");
    assert_eq!((lost(a), lost(a)), (None, None));
    bind(&switch, a, 1, 5);
    assert!(met.try_recv().is_err(), "its receiver is not there yet");
    bind(&switch, b, 2, 1);
    assert_eq!(met.try_recv(), Ok(pair));
    bind(&switch, b, 2, 5);
    assert!(lost(a).is_some() && met.try_recv().is_err(), "nothing was lost since");
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
