//! Participants on the hosts of a [`Network`], and the loop that drives them through virtual time.
//!
//! The clock jumps to the earliest of the next arrival and the next deadlines. Each turn: what is due arrives,
//! hosts in order of their ids; then deadlines that are due are handled; after each call the participant's
//! output is drained. On the way the loop holds participants to honest deadlines and stops with a [`Failure`]:
//!
//! * a due deadline was handled twice in a row without output, arrival or a later deadline;
//! * output appeared although nothing was due and nothing arrived: the deadline kept silent about it;
//! * output, or deadlines without output, without end.
//!
//! It deliberately has no opinion on what participants do: tests look at them between runs, or while
//! [`World::run_while`] runs.

use crate::network::{Arrival, Datagram, Fate, HostId, Network, Tail};
use crate::pipe::{PipeEvent, PipeId};
use edgemesh_core::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

/// Deadlines in a row that may bring nothing.
const PATIENCE: u32 = 2;
/// Deadlines without output that one host may have within [`SPAN`].
const BUSY: u32 = 1000;
const SPAN: Duration = Duration::from_millis(1);
/// Outputs that one call may cause.
const FLOOD: usize = 100_000;

/// What a participant wants sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transmit {
    /// A datagram from a port of its host.
    Datagram {
        /// Source port.
        port: u16,
        /// Destination.
        dst: SocketAddr,
        /// Payload.
        bytes: Vec<u8>,
    },
    /// A connection. [`PipeEvent::Opened`] or [`PipeEvent::Refused`] follows and tells its id.
    Connect {
        /// Destination.
        to: SocketAddr,
    },
    /// Bytes for a pipe; if it breaks over them, [`PipeEvent::Closed`] follows.
    Write {
        /// Which one.
        pipe: PipeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// The end of a pipe.
    Close {
        /// Which one.
        pipe: PipeId,
    },
}

/// Something sans-IO that lives on a host: a whole node, a server, a test's own probe.
pub trait Participant {
    /// A datagram has arrived.
    fn handle_datagram(&mut self, now: Instant, datagram: Datagram);

    /// News of a pipe. Participants that neither connect nor listen have none.
    fn handle_pipe(&mut self, _now: Instant, pipe: PipeId, event: PipeEvent) {
        unreachable!("this participant has no pipes, yet {pipe:?}: {event:?}");
    }

    /// The deadline it told is reached.
    fn handle_timeout(&mut self, now: Instant);

    /// The next thing to send; called until `None`.
    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit>;

    /// When it wants [`Participant::handle_timeout`]; a time that has passed means at once.
    fn poll_timeout(&self) -> Option<Instant>;

    /// What the deadline is for, for the message of a failure.
    fn timeout_reason(&self) -> &'static str {
        "unnamed"
    }
}

impl<P: Participant + ?Sized> Participant for Box<P> {
    fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        (**self).handle_datagram(now, datagram);
    }
    fn handle_pipe(&mut self, now: Instant, pipe: PipeId, event: PipeEvent) {
        (**self).handle_pipe(now, pipe, event);
    }
    fn handle_timeout(&mut self, now: Instant) {
        (**self).handle_timeout(now);
    }
    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        (**self).poll_transmit(now)
    }
    fn poll_timeout(&self) -> Option<Instant> {
        (**self).poll_timeout()
    }
    fn timeout_reason(&self) -> &'static str {
        (**self).timeout_reason()
    }
}

/// How a participant broke the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dishonest {
    /// Handling its deadline brought nothing, repeatedly.
    Stuck,
    /// It had output that its deadline did not tell of.
    Silent,
    /// Its deadlines follow one another without output and without end.
    Busy,
    /// Its output has no end.
    Flood,
}

/// A participant broke the rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Who.
    pub host: HostId,
    /// When.
    pub at: Instant,
    /// How.
    pub what: Dishonest,
    /// What its deadline was for.
    pub reason: &'static str,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, at, what, reason } = self;
        write!(f, "{host:?} at {} us: {what:?}, deadline for '{reason}'", at.as_micros())
    }
}

impl std::error::Error for Failure {}

struct Seat<P> {
    participant: P,
    /// Deadlines handled in a row that brought nothing.
    fruitless: u32,
    /// Deadlines without output since the time beside it.
    quiet: (Instant, u32),
    /// While the host is suspended: what it will hear of its pipes.
    suspended: Option<Vec<(PipeId, PipeEvent)>>,
}

impl<P: Participant> Seat<P> {
    fn new(now: Instant, participant: P) -> Self {
        Self { participant, fruitless: 0, quiet: (now, 0), suspended: None }
    }

    /// Its deadline, while it is awake.
    fn deadline(&self) -> Option<Instant> {
        self.participant.poll_timeout().filter(|_| self.suspended.is_none())
    }
}

/// The driven whole.
pub struct World<P> {
    /// To build, and to change between runs.
    pub network: Network,
    seats: BTreeMap<HostId, Seat<P>>,
    now: Instant,
}

impl<P: Participant> World<P> {
    /// Nobody yet, at time zero.
    pub fn new(network: Network) -> Self {
        Self { network, seats: BTreeMap::new(), now: Instant::ZERO }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Puts a participant on a host; returns who was there. Its pipes are cut, as by a restart.
    pub fn start(&mut self, host: HostId, participant: P) -> Option<P> {
        let before = self.stop(host);
        self.seats.insert(host, Seat::new(self.now, participant));
        before
    }

    /// The host sleeps, or wakes: meanwhile datagrams for it are lost, its deadlines pass, and its pipes break. When it
    /// wakes it hears of that first, and then that time has gone on.
    ///
    /// # Errors
    /// A participant broke the rules.
    pub fn suspend(&mut self, host: HostId, sleep: bool) -> Result<(), Failure> {
        let Some(seat) = self.seats.get_mut(&host) else { return Ok(()) };
        if sleep {
            seat.suspended = Some(Vec::new());
            self.network.cut_pipes_of(self.now, host);
            return Ok(());
        }
        for (pipe, event) in seat.suspended.take().unwrap_or_default() {
            seat.participant.handle_pipe(self.now, pipe, event);
        }
        self.drain(host).map(|_| ())
    }

    /// Takes a participant off its host, as a crash does: what arrives there is lost.
    pub fn stop(&mut self, host: HostId) -> Option<P> {
        let seat = self.seats.remove(&host)?;
        self.network.cut_pipes_of(self.now, host);
        Some(seat.participant)
    }

    /// Who is on a host.
    ///
    /// # Panics
    /// When nobody is.
    pub fn at(&mut self, host: HostId) -> &mut P {
        &mut self.seats.get_mut(&host).expect("nobody is on this host").participant
    }

    /// Runs for `span`, or as long as `condition` holds; answers whether it holds no more.
    ///
    /// # Errors
    /// A participant broke the rules.
    pub fn run_while(
        &mut self,
        span: Duration,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool, Failure> {
        let end = self.now.after(span);
        // The test may have given commands since the last run.
        self.drain_all()?;
        while condition(self) {
            if !self.step(end)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs for `span`.
    ///
    /// # Errors
    /// A participant broke the rules.
    pub fn run(&mut self, span: Duration) -> Result<(), Failure> {
        self.run_while(span, |_| true).map(|_| ())
    }

    /// One jump of the clock, to no later than `end`; `false` when nothing is due by then.
    fn step(&mut self, end: Instant) -> Result<bool, Failure> {
        let deadlines = self.seats.values().filter_map(Seat::deadline);
        let next = deadlines.chain(self.network.poll_arrival()).min().map(|at| at.max(self.now));
        let Some(next) = next.filter(|at| *at <= end) else {
            self.now = end;
            return Ok(false);
        };
        self.now = next;
        self.check_silence()?;
        while let Some(arrival) = self.network.deliver(next) {
            self.arrive(arrival)?;
        }
        let due = |seat: &Seat<P>| seat.deadline().is_some_and(|at| at <= next);
        let hosts: Vec<_> = self.seats.iter().filter(|(_, seat)| due(seat)).map(|(host, _)| *host).collect();
        for host in hosts {
            self.time_out(host)?;
        }
        Ok(true)
    }

    /// Nobody may have output now but those whose deadline says so.
    fn check_silence(&mut self) -> Result<(), Failure> {
        let now = self.now;
        for (host, seat) in self.seats.iter_mut().filter(|(_, seat)| seat.suspended.is_none()) {
            let due = seat.participant.poll_timeout().is_some_and(|at| at <= now);
            if !due && seat.participant.poll_transmit(now).is_some() {
                return Err(failure(*host, now, Dishonest::Silent, &seat.participant));
            }
        }
        Ok(())
    }

    fn arrive(&mut self, arrival: Arrival) -> Result<(), Failure> {
        let (Arrival::Datagram(host, _) | Arrival::Pipe(host, ..)) = arrival;
        let awake = self.seats.get_mut(&host).filter(|seat| seat.suspended.is_none());
        let Some(seat) = awake else {
            self.miss(arrival);
            return Ok(());
        };
        seat.fruitless = 0;
        seat.quiet = (self.now, 0);
        match arrival {
            Arrival::Datagram(_, datagram) => seat.participant.handle_datagram(self.now, datagram),
            Arrival::Pipe(_, pipe, event) => seat.participant.handle_pipe(self.now, pipe, event),
        }
        self.drain(host).map(|_| ())
    }

    /// Something came to a host that is not there, or sleeps.
    fn miss(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Datagram(_, datagram) => {
                self.network.fate(Fate::Unattended, Tail::of(&datagram.bytes));
            }
            Arrival::Pipe(host, pipe, event) => {
                let asleep = self.seats.get_mut(&host).and_then(|seat| seat.suspended.as_mut());
                asleep.into_iter().for_each(|later| later.push((pipe, event.clone())));
            }
        }
    }

    fn time_out(&mut self, host: HostId) -> Result<(), Failure> {
        let now = self.now;
        let Some(seat) = self.seats.get_mut(&host) else { return Ok(()) };
        let before = seat.participant.poll_timeout();
        seat.participant.handle_timeout(now);
        let sent = self.drain(host)?;
        let Some(seat) = self.seats.get_mut(&host) else { return Ok(()) };
        let after = seat.participant.poll_timeout();
        let progress = sent > 0 || after.is_none() || after > before;
        seat.fruitless = if progress { 0 } else { seat.fruitless + 1 };
        if seat.fruitless >= PATIENCE {
            return Err(failure(host, now, Dishonest::Stuck, &seat.participant));
        }
        if sent > 0 || now.since(seat.quiet.0) > SPAN {
            seat.quiet = (now, 0);
        }
        seat.quiet.1 += 1;
        if seat.quiet.1 > BUSY {
            return Err(failure(host, now, Dishonest::Busy, &seat.participant));
        }
        Ok(())
    }

    fn drain_all(&mut self) -> Result<(), Failure> {
        let hosts: Vec<_> = self.seats.keys().copied().collect();
        hosts.into_iter().try_for_each(|host| self.drain(host).map(|_| ()))
    }

    /// Sends what a participant has; answers how much it was.
    fn drain(&mut self, host: HostId) -> Result<usize, Failure> {
        let awake = self.seats.get_mut(&host).filter(|seat| seat.suspended.is_none());
        let Some(seat) = awake else { return Ok(0) };
        let now = self.now;
        for sent in 0..FLOOD {
            let Some(transmit) = seat.participant.poll_transmit(now) else { return Ok(sent) };
            match transmit {
                Transmit::Datagram { port, dst, bytes } => self.network.send(now, host, port, dst, bytes),
                Transmit::Connect { to } => {
                    self.network.connect(now, host, to);
                }
                // A pipe that breaks over a write tells its sides so.
                Transmit::Write { pipe, bytes } => {
                    self.network.write(now, host, pipe, bytes);
                }
                Transmit::Close { pipe } => self.network.close(now, host, pipe),
            }
        }
        Err(failure(host, now, Dishonest::Flood, &seat.participant))
    }
}

fn failure<P: Participant>(host: HostId, at: Instant, what: Dishonest, participant: &P) -> Failure {
    Failure { host, at, what, reason: participant.timeout_reason() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Cable, LinkConfig};
    use crate::network::ZoneId;
    use std::collections::VecDeque;

    /// Sends `left` numbered datagrams, `every` apart, to `peer`, and notes what arrives; its flaws are for the
    /// loop to find.
    #[derive(Default)]
    struct Ticker {
        peer: Option<SocketAddr>,
        every: Duration,
        left: u32,
        next: Option<Instant>,
        queue: VecDeque<Transmit>,
        seen: Vec<(u64, Vec<u8>)>,
        pipes: Vec<(PipeId, PipeEvent)>,
        flaw: Option<Dishonest>,
    }

    impl Participant for Ticker {
        fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
            self.seen.push((now.as_micros() / 1000, datagram.bytes));
        }
        fn handle_pipe(&mut self, _: Instant, pipe: PipeId, event: PipeEvent) {
            if matches!(event, PipeEvent::Opened { .. }) {
                self.queue.push_back(Transmit::Write { pipe, bytes: b"hello".to_vec() });
                self.queue.push_back(Transmit::Close { pipe });
            }
            self.pipes.push((pipe, event));
        }
        fn handle_timeout(&mut self, now: Instant) {
            match self.flaw {
                Some(Dishonest::Stuck) => return,
                Some(Dishonest::Busy) => {
                    self.next = Some(now.after(Duration::from_micros(1)));
                    return;
                }
                _ => {}
            }
            self.left -= 1;
            let (port, bytes) = (1, vec![self.left as u8]);
            self.queue.extend(self.peer.map(|dst| Transmit::Datagram { port, dst, bytes }));
            self.next = (self.left > 0).then(|| now.after(self.every));
        }
        fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
            match self.flaw {
                Some(Dishonest::Flood) => Some(Transmit::Connect { to: self.peer? }),
                Some(Dishonest::Silent) if now == Instant::ZERO => None,
                _ => self.queue.pop_front(),
            }
        }
        fn poll_timeout(&self) -> Option<Instant> {
            self.next
        }
        fn timeout_reason(&self) -> &'static str {
            "tick"
        }
    }

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A ticker with three datagrams to send and a quiet one, 10 ms apart.
    fn world() -> (World<Ticker>, [HostId; 2]) {
        let mut network = Network::new(1);
        let hosts = ["203.0.113.1", "203.0.113.2"].map(|address| {
            let cable = Cable::symmetric(LinkConfig::delayed(5));
            network.add_host(ZoneId::INTERNET, address.parse().unwrap(), cable)
        });
        network.listen(hosts[1], 2, true);
        let mut world = World::new(network);
        let next = Some(Instant::ZERO.after(millis(100)));
        let peer = Some("203.0.113.2:2".parse().unwrap());
        world.start(hosts[0], Ticker { peer, every: millis(100), left: 3, next, ..Ticker::default() });
        world.start(hosts[1], Ticker::default());
        (world, hosts)
    }

    #[test]
    fn the_clock_jumps_from_event_to_event() {
        let (mut world, [_, quiet]) = world();
        assert_eq!(world.run(millis(210)), Ok(()));
        assert_eq!(world.at(quiet).seen, [(110, vec![2]), (210, vec![1])]);
        assert_eq!(world.run_while(millis(1000), |world| world.at(quiet).seen.len() < 3), Ok(true));
        assert_eq!(world.now(), Instant::ZERO.after(millis(310)));
        assert_eq!(world.run_while(millis(1000), |_| true), Ok(false));
        assert_eq!(world.now(), Instant::ZERO.after(millis(1310)));
    }

    #[test]
    fn pipes_carry_between_participants() {
        let (mut world, [one, two]) = world();
        let to = "203.0.113.2:2".parse().unwrap();
        world.at(one).queue.push_back(Transmit::Connect { to });
        assert_eq!(world.run(millis(90)), Ok(()));
        let events: Vec<_> = world.at(two).pipes.drain(..).map(|(_, event)| event).collect();
        assert!(matches!(events[0], PipeEvent::Accepted { port: 2, .. }));
        assert_eq!(events[1..], [PipeEvent::Data(b"hello".to_vec()), PipeEvent::Closed]);
        assert_eq!(world.at(one).pipes.len(), 1);
    }

    #[test]
    fn a_stopped_host_hears_nothing_and_a_started_one_does_again() {
        let (mut world, [_, quiet]) = world();
        let stopped = world.stop(quiet).unwrap();
        assert_eq!(world.run(millis(150)), Ok(()));
        assert!(stopped.seen.is_empty());
        assert!(world.start(quiet, stopped).is_none());
        assert_eq!(world.run(millis(150)), Ok(()));
        assert_eq!(world.at(quiet).seen, [(210, vec![1])]);
    }

    #[test]
    fn dishonest_deadlines_are_found() {
        for (flaw, at) in
            [(Dishonest::Stuck, 100), (Dishonest::Busy, 101), (Dishonest::Flood, 0), (Dishonest::Silent, 100)]
        {
            let (mut world, [ticker, _]) = world();
            let dst = "203.0.113.2:2".parse().unwrap();
            let (participant, queued) =
                (world.at(ticker), Transmit::Datagram { port: 1, dst, bytes: vec![] });
            participant.flaw = Some(flaw);
            if flaw == Dishonest::Silent {
                // Output at time zero that it neither gives out nor tells of; another's event then shows it.
                (participant.next, _) = (None, participant.queue.push_back(queued));
                world.network.send(Instant::ZERO.after(millis(90)), ticker, 3, dst, vec![]);
            }
            let failure = world.run(millis(1000)).unwrap_err();
            assert_eq!((failure.host, failure.what, failure.reason), (ticker, flaw, "tick"));
            assert_eq!(failure.at.as_micros() / 1000, if flaw == Dishonest::Silent { 95 } else { at });
        }
    }
}
