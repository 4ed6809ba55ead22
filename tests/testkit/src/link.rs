//! One direction of a link: a bounded queue in front of a rate, then delay, loss, reordering and duplication.
//!
//! Sans-IO: [`Link::offer`] takes one datagram's size and answers when copies of it come out. The network keeps
//! the bytes. A full queue drops what is offered (drop tail), as does a datagram above the MTU, silently: the
//! simulated internet sends no ICMP.

use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Duration, Instant};

/// What a link does to datagrams. Probabilities are in millionths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// Propagation delay.
    pub delay: Duration,
    /// A datagram picked for reordering is late by up to this much more, so that later ones overtake it.
    pub jitter: Duration,
    /// How many of a million datagrams are picked for reordering.
    pub reorder: u32,
    /// How many of a million are lost.
    pub loss: u32,
    /// How many of a million come out twice.
    pub duplicate: u32,
    /// How many of a million come out with another byte, as if their checksum had not been looked at.
    pub corrupt: u32,
    /// Bytes per second; 0 is without limit.
    pub rate: u64,
    /// Bytes that may wait for the rate.
    pub queue: u64,
    /// Largest IP packet in bytes.
    pub mtu: usize,
}

impl LinkConfig {
    /// No delay, no limit, nothing lost, Ethernet's MTU.
    pub const PERFECT: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        reorder: 0,
        loss: 0,
        duplicate: 0,
        corrupt: 0,
        rate: 0,
        queue: 256 * 1024,
        mtu: 1500,
    };

    /// Perfect but for a delay of `millis`.
    pub const fn delayed(millis: u64) -> Self {
        Self { delay: Duration::from_millis(millis), ..Self::PERFECT }
    }

    /// A home's fibre or cable: 8 ms, 50 Mbit/s.
    pub const fn broadband() -> Self {
        Self { rate: 6_250_000, ..Self::delayed(8) }
    }

    /// A mobile network: 35 ms and up to 30 more for one in fifty, 0.5 % lost, 12 Mbit/s, 1400 bytes.
    pub const fn mobile() -> Self {
        Self {
            jitter: Duration::from_millis(30),
            reorder: 20_000,
            loss: 5_000,
            rate: 1_500_000,
            mtu: 1400,
            ..Self::delayed(35)
        }
    }

    /// What the tunnel must survive: 120 ms, 5 % lost, a tenth reordered, 2 % doubled, 2 Mbit/s, 1280 bytes.
    pub const fn dreadful() -> Self {
        Self {
            jitter: Duration::from_millis(80),
            reorder: 100_000,
            loss: 50_000,
            duplicate: 20_000,
            rate: 250_000,
            queue: 32 * 1024,
            mtu: 1280,
            ..Self::delayed(120)
        }
    }
}

/// Why a link dropped a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkDrop {
    /// By chance.
    Lost,
    /// The queue is full.
    QueueFull,
    /// Larger than the MTU.
    TooBig,
}

/// When a datagram comes out, once or twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// The datagram.
    pub at: Instant,
    /// Its copy.
    pub again: Option<Instant>,
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct Link {
    /// May be changed while datagrams are under way; those keep their fate.
    pub config: LinkConfig,
    /// When the last accepted datagram has left the queue.
    busy_until: Instant,
}

impl Link {
    /// An idle link.
    pub const fn new(config: LinkConfig) -> Self {
        Self { config, busy_until: Instant::ZERO }
    }

    /// Offers an IP packet of `size` bytes.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn offer(&mut self, now: Instant, size: usize, rng: &mut Rng) -> Result<Exit, LinkDrop> {
        if size > self.config.mtu {
            return Err(LinkDrop::TooBig);
        }
        let sent = self.enqueue(now, size as u64)?;
        if chance(rng, self.config.loss) {
            return Err(LinkDrop::Lost);
        }
        let at = self.exit(sent, rng);
        let again = chance(rng, self.config.duplicate).then(|| self.exit(sent, rng));
        Ok(Exit { at, again })
    }

    /// How long a datagram offered now would wait for its turn.
    pub fn backlog(&self, now: Instant) -> Duration {
        self.busy_until.since(now)
    }

    /// Serialises `size` bytes at the link's rate; answers when the last one is out.
    fn enqueue(&mut self, now: Instant, size: u64) -> Result<Instant, LinkDrop> {
        if self.config.rate == 0 {
            return Ok(now);
        }
        let waiting = self.backlog(now).as_micros().saturating_mul(self.config.rate) / 1_000_000;
        if waiting.saturating_add(size) > self.config.queue {
            return Err(LinkDrop::QueueFull);
        }
        let takes = Duration::from_micros(size.saturating_mul(1_000_000).div_ceil(self.config.rate));
        self.busy_until = self.busy_until.max(now).after(takes);
        Ok(self.busy_until)
    }

    fn exit(&self, sent: Instant, rng: &mut Rng) -> Instant {
        let on_time = sent.after(self.config.delay);
        if !chance(rng, self.config.reorder) {
            return on_time;
        }
        let late = u64::from(rng.below(u32::try_from(self.config.jitter.as_micros()).unwrap_or(u32::MAX)));
        on_time.after(Duration::from_micros(late))
    }
}

/// True `millionths` times in a million. Draws only when the outcome is open: a perfect link costs no chance.
pub(crate) fn chance(rng: &mut Rng, millionths: u32) -> bool {
    millionths > 0 && rng.below(1_000_000) < millionths
}

/// Both directions between a host, or a site, and what lies above it.
#[derive(Clone, Debug)]
pub struct Cable {
    /// Away from the host.
    pub up: Link,
    /// Towards the host.
    pub down: Link,
}

impl Cable {
    /// The same in both directions.
    pub const fn symmetric(config: LinkConfig) -> Self {
        Self::new(config, config)
    }

    /// Different ways up and down.
    pub const fn new(up: LinkConfig, down: LinkConfig) -> Self {
        Self { up: Link::new(up), down: Link::new(down) }
    }

    /// Changes both directions.
    pub fn configure(&mut self, config: LinkConfig) {
        (self.up.config, self.down.config) = (config, config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds::rng;

    fn millis(n: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(n))
    }

    #[test]
    fn a_perfect_link_only_delays() {
        let mut link = Link::new(LinkConfig::delayed(20));
        let mut rng = rng(1, 0);
        for n in 0..100 {
            assert_eq!(link.offer(millis(n), 1500, &mut rng), Ok(Exit { at: millis(n + 20), again: None }));
        }
        assert_eq!(link.offer(millis(0), 1501, &mut rng), Err(LinkDrop::TooBig));
    }

    #[test]
    fn a_rate_spaces_datagrams_and_a_full_queue_drops() {
        let config = LinkConfig { rate: 1_000_000, queue: 3_000, ..LinkConfig::delayed(5) };
        let mut link = Link::new(config);
        let mut rng = rng(1, 0);
        let at = |link: &mut Link, now, rng: &mut _| link.offer(millis(now), 1000, rng).map(|exit| exit.at);
        assert_eq!(at(&mut link, 0, &mut rng), Ok(millis(6)));
        assert_eq!(at(&mut link, 0, &mut rng), Ok(millis(7)));
        assert_eq!(at(&mut link, 0, &mut rng), Ok(millis(8)));
        assert_eq!(at(&mut link, 0, &mut rng), Err(LinkDrop::QueueFull));
        assert_eq!(link.backlog(millis(1)), Duration::from_millis(2));
        assert_eq!(at(&mut link, 1, &mut rng), Ok(millis(9)));
        assert_eq!(at(&mut link, 100, &mut rng), Ok(millis(106)));
    }

    #[test]
    fn loss_and_duplication_come_at_their_rates() {
        let mut link = Link::new(LinkConfig { loss: 200_000, duplicate: 100_000, ..LinkConfig::PERFECT });
        let mut rng = rng(2, 0);
        let fates: Vec<_> = (0..10_000).map(|n| link.offer(millis(n), 100, &mut rng)).collect();
        let lost = fates.iter().filter(|fate| **fate == Err(LinkDrop::Lost)).count();
        let doubled = fates.iter().flatten().filter(|exit| exit.again.is_some()).count();
        assert!((1_800..2_200).contains(&lost), "{lost}");
        assert!((700..900).contains(&doubled), "{doubled}");
    }

    #[test]
    fn reordered_datagrams_are_late_by_no_more_than_the_jitter() {
        let jitter = Duration::from_millis(10);
        let mut link = Link::new(LinkConfig { jitter, reorder: 500_000, ..LinkConfig::delayed(30) });
        let mut rng = rng(3, 0);
        let exits: Vec<_> = (0..1_000).map(|n| link.offer(millis(n), 100, &mut rng).unwrap().at).collect();
        assert!(exits.windows(2).any(|pair| pair[1] < pair[0]), "nothing was overtaken");
        for (n, exit) in exits.iter().enumerate() {
            let on_time = millis(n as u64 + 30);
            assert!(*exit >= on_time && *exit < on_time.after(jitter));
        }
    }

    #[test]
    fn equal_seeds_give_equal_fates() {
        let fates = |seed| {
            let (mut link, mut rng) = (Link::new(LinkConfig::dreadful()), rng(seed, 0));
            (0..200).map(|n| link.offer(millis(n * 3), 500, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(fates(5), fates(5));
        assert_ne!(fates(5), fates(6));
    }
}
