//! The books: what became of every packet that a pod sent, to the last copy of the last piece.
//!
//! A packet ends at its node (delivered there, dropped with a reason that the engine counted, expired while it waited,
//! lost with a restart), or it is sealed in one piece or several. A piece is known by its tag wherever it goes, and
//! each of its copies (one for each way, one more for each doubling) ends exactly once: delivered, dropped with a
//! counted reason, or lost in a named way. Shells enter it where it happens; [`Ledger::close`] finds what is missing.

use edgemesh_core::counters::DropReason;
use edgemesh_testkit::network::{Fate, Tail};
use edgemesh_testkit::pipe::PipeId;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

/// Datagrams that an eavesdropper has at hand.
const CAPTURED: usize = 8;

/// How a packet, or a copy of a piece, ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    Delivered,
    /// Of a packet only: its pieces have ends of their own.
    Sealed,
    /// The engine dropped and counted it.
    Dropped(&'static str),
    /// The network lost it.
    Lost(Fate),
    /// It waited in vain.
    Expired,
    /// It waited in a node that was stopped.
    Restart,
    /// It became an answer to its sender.
    Answered,
    /// No relay connection stood.
    NoConnection,
    /// The relay connection broke under it.
    Broken,
    /// The server does not know its session, or not from there; or its receiver is not bound; or it is unreadable.
    Server,
    /// With a changed byte it passes for something that is no packet.
    Mistaken,
}

impl End {
    pub(crate) fn dropped(reason: DropReason) -> Self {
        Self::Dropped(reason.name())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PacketId(usize);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceId(usize);

#[derive(Default)]
struct Piece {
    copies: u32,
    ended: u32,
    delivered: bool,
    ends: Vec<End>,
    /// Connections that it is on.
    pipes: Vec<PipeId>,
}

#[derive(Default)]
struct Books {
    /// By sending node.
    packets: Vec<(u8, Option<End>)>,
    pieces: Vec<Piece>,
    by_tail: HashMap<Tail, usize>,
    captured: VecDeque<(SocketAddr, Vec<u8>)>,
}

/// One for all parties.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Rc<RefCell<Books>>);

impl Ledger {
    /// A pod of this node sends a packet.
    pub(crate) fn packet(&self, node: u8) -> PacketId {
        let books = &mut *self.0.borrow_mut();
        books.packets.push((node, None));
        PacketId(books.packets.len() - 1)
    }

    /// The packet's way ends here, or it is sealed.
    pub(crate) fn packet_ends(&self, packet: PacketId, end: End) {
        let (_, before) = &mut self.0.borrow_mut().packets[packet.0];
        assert_eq!(*before, None, "a packet ends twice, at last: {end:?}");
        *before = Some(end);
    }

    /// A piece is sealed, with this tag.
    pub(crate) fn piece(&self, tail: Tail) {
        let books = &mut *self.0.borrow_mut();
        books.pieces.push(Piece::default());
        let before = books.by_tail.insert(tail, books.pieces.len() - 1);
        assert!(before.is_none(), "two pieces under one tag");
    }

    /// The piece of a datagram; `None` for what no pod sent.
    pub(crate) fn find(&self, tail: Tail) -> Option<PieceId> {
        self.0.borrow().by_tail.get(&tail).copied().map(PieceId)
    }

    /// One more copy is on its way.
    pub(crate) fn copy(&self, piece: Option<PieceId>) {
        self.change(piece, |piece| piece.copies += 1);
    }

    /// A copy ends.
    pub(crate) fn ends(&self, piece: Option<PieceId>, end: End) {
        self.change(piece, |piece| {
            assert!(end != End::Delivered || !piece.delivered, "a piece was delivered twice");
            piece.delivered |= end == End::Delivered;
            piece.ended += 1;
            piece.ends.push(end);
        });
    }

    /// A copy goes by this connection, or has come out of it.
    pub(crate) fn enters(&self, piece: Option<PieceId>, pipe: PipeId) {
        self.change(piece, |piece| piece.pipes.push(pipe));
    }

    pub(crate) fn leaves(&self, piece: Option<PieceId>, pipe: PipeId) {
        self.change(piece, |piece| {
            let at = piece.pipes.iter().position(|on| *on == pipe).expect("it was not on this connection");
            piece.pipes.swap_remove(at);
        });
    }

    /// What the network did.
    pub(crate) fn network(&self, record: Vec<(Fate, Tail)>) {
        for (fate, tail) in record {
            match fate {
                Fate::Doubled => self.copy(self.find(tail)),
                fate if fate.goes_on() => {}
                fate => self.ends(self.find(tail), End::Lost(fate)),
            }
        }
    }

    /// A datagram leaves a node, where somebody may see it.
    pub(crate) fn seen(&self, to: SocketAddr, datagram: &[u8]) {
        let captured = &mut self.0.borrow_mut().captured;
        captured.truncate(CAPTURED - 1);
        captured.push_front((to, datagram.to_vec()));
    }

    /// One of the last datagrams, and where it went.
    pub(crate) fn captured(&self, n: usize) -> Option<(SocketAddr, Vec<u8>)> {
        let captured = &self.0.borrow().captured;
        captured.get(n % captured.len().max(1)).cloned()
    }

    fn change(&self, piece: Option<PieceId>, change: impl FnOnce(&mut Piece)) {
        if let Some(PieceId(n)) = piece {
            change(&mut self.0.borrow_mut().pieces[n]);
        }
    }

    /// Nothing is on its way any more: every packet and every copy must have ended. Copies that are on a connection
    /// which is no more ended with it. How many ended how, packets and copies.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn close(
        &self,
        is_open: impl Fn(PipeId) -> bool,
    ) -> Result<[BTreeMap<End, usize>; 2], String> {
        let books = &mut *self.0.borrow_mut();
        let mut sums = [BTreeMap::new(), BTreeMap::new()];
        for (node, end) in &books.packets {
            let end = end.ok_or_else(|| format!("a packet of node {node} vanished"))?;
            *sums[0].entry(end).or_default() += 1;
        }
        for piece in &mut books.pieces {
            let open: Vec<_> = piece.pipes.iter().filter(|pipe| is_open(**pipe)).collect();
            if !open.is_empty() {
                return Err(format!("a copy vanished on connections that stand: {open:?}"));
            }
            piece.ended += piece.pipes.len() as u32;
            piece.ends.extend(piece.pipes.drain(..).map(|_| End::Broken));
            if piece.copies != piece.ended {
                return Err(format!("of {} copies these ended: {:?}", piece.copies, piece.ends));
            }
            piece.ends.iter().for_each(|end| *sums[1].entry(*end).or_default() += 1);
        }
        Ok(sums)
    }
}
