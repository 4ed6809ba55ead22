//! The programs on a node: a client that asks the other nodes' Services, and an endpoint that answers what it is
//! asked; they judge everything that reaches them.
//!
//! Each datagram has a serial number that is used once, content that follows from it, and a digest. So a packet
//! that is changed, doubled, delivered to the wrong pod or answered from the wrong address stops the test at
//! once, whereas a lost one is only not counted. On top of it goes a transfer of numbered blocks with a window
//! and retransmissions of its own, which has to end with every block in place.
//!
//! The pods have the same addresses on all nodes, as Docker's bridges give them out.

use edgemesh_core::rng::Rng;
use edgemesh_core::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The Services, by index of the node that serves it, from 1.
const NAMES: [&str; NODES_MAX] = ["sense", "park", "gate", "pump", "lift", "lamp", "bell", "door"];
/// How many nodes a mesh may have.
pub(crate) const NODES_MAX: usize = 8;
/// The Services' port.
pub(crate) const PORT: u16 = 80;
/// Where their endpoints are, on each node.
pub(crate) const ENDPOINT: ([u8; 4], u16) = ([172, 17, 0, 2], 8080);

const CLIENT: [u8; 4] = [172, 17, 0, 5];
const TRANSFER_PORT: u16 = 5_000;
const HEAD: usize = 1 + 1 + 1 + 8 + 4;
const DIGEST: usize = 8;
const WINDOW: usize = 8;
const RETRANSMIT: Duration = Duration::from_millis(700);
/// How long an incomplete datagram waits for its fragments: Linux's `ipfrag_time`.
const REASSEMBLY: Duration = Duration::from_secs(30);
/// Questions by one client port: enough ports to use tables, too few to fill them.
const PER_PORT: u64 = 30;

/// Name and VIP of the Service that the node with this index serves.
pub(crate) fn service(node: u8) -> (&'static str, [u8; 4]) {
    (NAMES[usize::from(node) - 1], [10, 96, 0, node])
}

const ASK: u8 = 1;
const BLOCK: u8 = 2;
const ANSWER: u8 = 0x80;

type Pieces = BTreeMap<usize, (Vec<u8>, bool)>;

/// What was asked and not answered yet.
struct Question {
    peer: u8,
    port: u16,
    block: Option<u32>,
}

struct Transfer {
    peer: u8,
    acknowledged: Vec<bool>,
    /// All blocks before this one were acknowledged.
    first: usize,
    /// When the block was sent last.
    sent: BTreeMap<u32, Instant>,
}

/// The pods of one node.
pub(crate) struct Pods {
    own: u8,
    /// Whose Services the client asks.
    peers: Vec<u8>,
    /// Those of them that it has not asked in this round.
    round: Vec<u8>,
    serial: u64,
    /// Questions without the blocks.
    questions: u64,
    packet_id: u16,
    rng: Rng,
    asked: BTreeMap<u64, Question>,
    /// Questions to each of the others so far.
    asks: BTreeMap<u8, usize>,
    /// What was answered already, and what came to the endpoint already.
    answered: BTreeSet<u64>,
    answers: BTreeMap<u8, usize>,
    served: BTreeSet<(u8, u64)>,
    transfer: Option<Transfer>,
    /// Blocks that the endpoint received, each with its sender.
    pub(crate) stored: BTreeSet<(u8, u32)>,
    /// Questions by one client port.
    pub(crate) per_port: u64,
    /// The endpoint takes what comes and does not answer.
    pub(crate) mute: bool,
    next_question: Option<Instant>,
    /// By addresses and identification: since when, and by offset what there is and whether more follows.
    fragments: BTreeMap<([u8; 8], u16), (Instant, Pieces)>,
    out: VecDeque<Vec<u8>>,
}

impl Pods {
    /// Of the node with this index in a mesh of so many.
    pub(crate) fn new(own: u8, nodes: usize, rng: Rng) -> Self {
        Self {
            own,
            peers: (1..=nodes as u8).filter(|peer| *peer != own).collect(),
            round: Vec::new(),
            serial: 0,
            questions: 0,
            packet_id: 0,
            rng,
            asked: BTreeMap::new(),
            asks: BTreeMap::new(),
            answered: BTreeSet::new(),
            answers: BTreeMap::new(),
            served: BTreeSet::new(),
            transfer: None,
            stored: BTreeSet::new(),
            per_port: PER_PORT,
            mute: false,
            next_question: None,
            fragments: BTreeMap::new(),
            out: VecDeque::new(),
        }
    }

    /// The client begins to ask, or ends.
    pub(crate) fn ask(&mut self, now: Instant, ask: bool) {
        self.next_question = ask.then_some(now);
    }

    /// Begins a transfer of so many blocks to one of the others; which one.
    pub(crate) fn transfer(&mut self, blocks: usize) -> u8 {
        let peer = self.choose();
        self.transfer =
            Some(Transfer { peer, acknowledged: vec![false; blocks], first: 0, sent: BTreeMap::new() });
        peer
    }

    /// The client ends its transfer, whole or not.
    pub(crate) fn end_transfer(&mut self) {
        self.transfer = None;
    }

    fn choose(&mut self) -> u8 {
        self.peers[self.rng.below(self.peers.len() as u32) as usize]
    }

    /// Everybody once, in an order by chance, before anybody again. Drawn each time, one of six is left out for half a
    /// minute in every hundredth mesh of seven nodes.
    fn next_asked(&mut self) -> u8 {
        if self.round.is_empty() {
            self.round.clone_from(&self.peers);
        }
        let next = self.rng.below(self.round.len() as u32) as usize;
        self.round.swap_remove(next)
    }

    /// Whether every block was acknowledged; the transfer is over then.
    pub(crate) fn transferred(&self) -> bool {
        self.transfer.as_ref().is_some_and(|t| t.first == t.acknowledged.len())
    }

    /// Answers that the client had so far.
    pub(crate) fn answers(&self) -> usize {
        self.answered.len()
    }

    /// Answers that the client had so far from each of the others.
    pub(crate) fn answers_by_peer(&self) -> Vec<usize> {
        self.peers.iter().map(|peer| self.answers.get(peer).copied().unwrap_or_default()).collect()
    }

    /// Questions, blocks left out, that the client has put so far to each of the others.
    pub(crate) fn asks_by_peer(&self) -> Vec<usize> {
        self.peers.iter().map(|peer| self.asks.get(peer).copied().unwrap_or_default()).collect()
    }

    /// Questions and blocks that the endpoint had so far.
    pub(crate) fn served(&self) -> usize {
        self.served.len()
    }

    /// The next packet that the pods send.
    pub(crate) fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let retransmission = self.transfer.as_ref().and_then(|transfer| {
            let due = |block: u32| transfer.sent.get(&block).map_or(Instant::ZERO, |at| at.after(RETRANSMIT));
            transfer.window().map(due).min()
        });
        self.next_question.into_iter().chain(retransmission).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.next_question.is_some_and(|at| at <= now) {
            // Most are small, some are cut into fragments on the way.
            let len = match self.rng.below(8) {
                0 => 1_100 + self.rng.below(1_500) as usize,
                1 => HEAD + DIGEST,
                _ => HEAD + DIGEST + self.rng.below(900) as usize,
            };
            self.questions += 1;
            let port = 6_000 + (self.questions / self.per_port % 1_000) as u16;
            let peer = self.next_asked();
            *self.asks.entry(peer).or_default() += 1;
            self.send(ASK, peer, port, None, len);
            // In a large mesh there are many who ask.
            let pause = 100 + 50 * self.peers.len() as u64 + u64::from(self.rng.below(500));
            self.next_question = Some(now.after(Duration::from_millis(pause)));
        }
        let Some(transfer) = &mut self.transfer else { return };
        let due = |b: &u32| transfer.sent.get(b).is_none_or(|at| at.after(RETRANSMIT) <= now);
        let blocks: Vec<u32> = transfer.window().filter(due).collect();
        transfer.sent.extend(blocks.iter().map(|b| (*b, now)));
        let peer = transfer.peer;
        for block in blocks {
            self.send(BLOCK, peer, TRANSFER_PORT, Some(block), 1_000);
        }
    }

    fn send(&mut self, kind: u8, peer: u8, port: u16, block: Option<u32>, len: usize) {
        self.serial += 1;
        self.asked.insert(self.serial, Question { peer, port, block });
        let content = message(kind, [self.own, peer], self.serial, block.unwrap_or(0), len);
        let vip = service(peer).1;
        self.packet_id = self.packet_id.wrapping_add(1);
        self.out.push_back(udp((CLIENT, port), (vip, PORT), self.packet_id, &content));
    }

    /// Takes a packet from the node's TUN.
    pub(crate) fn receive(&mut self, now: Instant, packet: &[u8]) {
        let header = &packet[..20];
        assert_eq!(header[0], 0x45, "no plain IPv4 header");
        assert_eq!(checksum(0, header), 0xffff, "header checksum");
        assert_eq!(usize::from(u16::from_be_bytes([header[2], header[3]])), packet.len(), "length");
        let field = u16::from_be_bytes([header[6], header[7]]);
        let (more, offset) = (field & 0x2000 != 0, usize::from(field & 0x1fff) * 8);
        if !more && offset == 0 {
            assert_eq!(header[9], 17, "nobody here sends anything but UDP: {packet:02x?}");
            assert!(is_intact(packet), "a changed datagram: {packet:02x?}");
            return self.datagram(packet);
        }
        let key = (header[12..20].try_into().unwrap(), u16::from_be_bytes([header[4], header[5]]));
        self.fragments.retain(|_, (since, _)| now.since(*since) < REASSEMBLY);
        let (_, parts) = self.fragments.entry(key).or_insert((now, BTreeMap::new()));
        parts.insert(offset, (packet[20..].to_vec(), more));
        let mut whole = header.to_vec();
        for (at, (part, more)) in parts {
            if *at + 20 != whole.len() {
                return;
            }
            whole.extend_from_slice(part);
            if !*more {
                let len = (whole.len() as u16).to_be_bytes();
                whole[2..4].copy_from_slice(&len);
                self.fragments.remove(&key);
                // Fragments of two datagrams with one number may meet, as on any network: the sum tells.
                if is_intact(&whole) {
                    self.datagram(&whole);
                }
                return;
            }
        }
    }

    /// Takes a whole datagram with a right checksum.
    fn datagram(&mut self, packet: &[u8]) {
        let address = |at: usize| -> [u8; 4] { packet[at..at + 4].try_into().unwrap() };
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let (from, to) = ((address(12), port(20)), (address(16), port(22)));
        let content = &packet[28..];
        let (kind, client, asked) = (content[0], content[1], content[2]);
        let serial = u64::from_be_bytes(content[3..11].try_into().unwrap());
        let block = u32::from_be_bytes(content[11..15].try_into().unwrap());
        assert_eq!(content, message(kind, [client, asked], serial, block, content.len()), "changed content");
        if kind & ANSWER == 0 {
            assert_eq!((asked, to), (self.own, ENDPOINT), "misdelivered question");
            assert_eq!(from.0, [242, 0, 0, client], "question from a wrong address");
            assert!(self.served.insert((client, serial)), "question {serial} came twice");
            if kind == BLOCK {
                self.stored.insert((client, block));
            }
            if self.mute {
                return;
            }
            let answer = message(kind | ANSWER, [client, asked], serial, block, content.len());
            self.packet_id = self.packet_id.wrapping_add(1);
            self.out.push_back(udp(to, from, self.packet_id, &answer));
        } else {
            assert_eq!(client, self.own, "misdelivered answer");
            assert_eq!(from, (service(asked).1, PORT), "answer from a wrong address");
            let question =
                self.asked.remove(&serial).expect("an answer that came twice or was not asked for");
            assert_eq!((asked, to), (question.peer, (CLIENT, question.port)), "answer to another client");
            assert!(self.answered.insert(serial));
            *self.answers.entry(asked).or_default() += 1;
            if let (Some(block), Some(transfer)) = (question.block, &mut self.transfer) {
                transfer.acknowledged[block as usize] = true;
                let rest = &transfer.acknowledged[transfer.first..];
                transfer.first += rest.iter().take_while(|done| **done).count();
            }
        }
    }
}

impl Transfer {
    /// The blocks that may be on the way.
    fn window(&self) -> impl Iterator<Item = u32> {
        let rest = (self.first as u32..).zip(&self.acknowledged[self.first..]);
        rest.filter(|(_, done)| !**done).map(|(block, _)| block).take(WINDOW)
    }
}

/// The one content that belongs to these numbers.
fn message(kind: u8, [client, asked]: [u8; 2], serial: u64, block: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![kind, client, asked];
    bytes.extend(serial.to_be_bytes());
    bytes.extend(block.to_be_bytes());
    let mut filler = serial.wrapping_mul(0x9e37_79b9_7f4a_7c15) | u64::from(kind);
    bytes.resize_with(len.max(HEAD + DIGEST) - DIGEST, || {
        filler = filler.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (filler >> 56) as u8
    });
    let digest = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    bytes.extend(digest.to_be_bytes());
    bytes
}

/// The ones' complement sum; deliberately not the core's.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum = start + bytes.chunks(2).map(word).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn is_intact(packet: &[u8]) -> bool {
    let pseudo = 17 + packet.len() as u32 - 20 + u32::from(checksum(0, &packet[12..20]));
    packet[26..28] == [0, 0] || checksum(pseudo, &packet[20..]) == 0xffff
}

fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), id: u16, content: &[u8]) -> Vec<u8> {
    let len = content.len() as u16;
    let mut packet = vec![0x45, 0];
    for field in [len + 28, id, 0, 64 << 8 | 17, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend([from.0, to.0].concat());
    let header = !checksum(0, &packet);
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    for field in [from.1, to.1, len + 8, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(content);
    let pseudo = 17 + u32::from(len) + 8 + u32::from(checksum(0, &packet[12..20]));
    let sum = match !checksum(pseudo, &packet[20..]) {
        0 => 0xffff,
        sum => sum,
    };
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Seed 1902 of the large test once failed because nobody had asked.
#[test]
fn everybody_is_asked_before_anybody_again() {
    for nodes in 2..=NODES_MAX {
        let mut pods = Pods::new(2, nodes, edgemesh_testkit::seeds::rng(1902, nodes as u64));
        pods.ask(Instant::ZERO, true);
        for round in 1..50 {
            for _ in 1..nodes {
                pods.handle_timeout(pods.poll_timeout().unwrap());
            }
            assert_eq!(pods.asks_by_peer(), vec![round; nodes - 1]);
        }
    }
}
