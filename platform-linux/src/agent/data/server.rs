//! What this node asks the server, and what the server says that the async thread should know.

use super::{Data, Note};
use crate::agent::state::Joined;
use edgemesh_core::control::{Message, Question};
use edgemesh_core::counters::DropReason;
use edgemesh_core::noise::StaticSecret;
use edgemesh_core::time::Instant;
use edgemesh_core::wire::control::{EntriesPart, FeedCommit, PROOF_PART_MAX, Refusal as Turned};

impl Data {
    /// Asks the server for the whole feed, by a new connection.
    pub fn resync(&mut self) {
        self.engine.forget_feed();
        let _ = self.outputs.frames.send(Vec::new());
    }

    /// Asks the directory about the node of this name. False while no server has accepted this node.
    pub fn look_up(&mut self, name: &str) -> bool {
        self.ask(&Question::LookupName(name))
    }

    /// Shows a ServiceAccount token, or that there is none.
    pub fn prove(&mut self, token: &[u8]) {
        let mut parts = token.chunks(PROOF_PART_MAX).peekable();
        loop {
            let part = parts.next().unwrap_or_default();
            let last = parts.peek().is_none();
            // False: the server has gone meanwhile, and the next one asks again.
            if !self.ask(&Question::Proof { part, last }) || last {
                return;
            }
        }
    }

    /// Asks the server for the entry points of Services, from now on; `held` is the digest of those at hand. False
    /// while no server has accepted this node.
    pub fn ask_entries(&mut self, held: [u8; 32]) -> bool {
        self.ask(&Question::Entries(held))
    }

    /// Asks the directory for another key of this node. False while no server has accepted this node.
    pub fn ask_for_key(&mut self, public: [u8; 32]) -> bool {
        self.ask(&Question::Rekey(public))
    }

    /// Takes another key, and comes back to the server under it.
    pub fn rotate(&mut self, secret: &StaticSecret) {
        self.engine.rotate(secret);
        let _ = self.outputs.frames.send(Vec::new());
    }

    fn ask(&mut self, question: &Question<'_>) -> bool {
        match self.engine.ask(question, &mut self.own) {
            Ok(Some(len)) => self.outputs.frames.send(self.own[..len].to_vec()).is_ok(),
            Ok(None) | Err(_) => false,
        }
    }

    /// Takes in what the server says.
    pub(super) fn frame(&mut self, now: Instant, frame: &mut [u8]) {
        let note = match self.engine.control(now, frame) {
            Ok(Some(Message::Welcome(welcome))) => {
                let authority = *self.engine.link().authority();
                Some(Note::Welcome(Box::new(Joined {
                    index: self.engine.own_index(),
                    network: welcome.network,
                    domain: welcome.domain.to_owned(),
                    directory_key: authority.directory,
                    epoch: authority.epoch,
                })))
            }
            Ok(Some(Message::Refused { reason, detail })) => {
                let revoked = reason == Turned::Revoked;
                Some(Note::Refused { why: format!("{reason:?}: {detail}"), revoked })
            }
            Ok(Some(Message::Prove)) => Some(Note::Prove),
            Ok(Some(Message::Peer(peer))) => Some(Note::Record {
                record: peer.record.record.to_vec(),
                signature: peer.record.signature.to_vec(),
            }),
            Ok(Some(Message::NoPeer { index: 0, name })) => Some(Note::NoNode(name.to_owned())),
            Ok(Some(Message::Feed(body))) => Some(Note::Feed(body.to_vec())),
            Ok(Some(Message::Answer(answer))) => {
                self.answers += 1;
                Some(Note::Answer(answer.sequence))
            }
            Ok(Some(Message::FeedCommit(commit))) => {
                Some(Note::FeedCommit { sequence: commit.sequence, digest: commit.digest })
            }
            Ok(Some(Message::Rekeyed(record))) => match self.engine.link().authority().record(&record) {
                Ok(record) if record.index == self.engine.own_index() => Some(Note::Rekeyed(record.key)),
                _ => None,
            },
            Ok(Some(Message::Revocations(revocations))) => {
                let list = revocations.numbered().map_while(|each| Some(each.ok()?.1)).collect();
                Some(Note::Revocations { after: revocations.after, list })
            }
            Ok(Some(Message::Entries(EntriesPart { part, commit }))) => {
                let signed = |commit: &FeedCommit<'_>| self.engine.link().authority().entries(commit);
                match commit.as_ref().map(signed).transpose() {
                    Ok(_) => {
                        let signed = commit.map(|commit| (commit.sequence, commit.digest));
                        Some(Note::Entries { part: part.to_vec(), signed })
                    }
                    Err(reason) => {
                        tracing::warn!(reason = reason.name(), "refused the server's list of entry points");
                        Some(Note::Disbelieved("a list of entry points that the directory did not sign"))
                    }
                }
            }
            Ok(_) => None,
            Err(reason) => {
                tracing::warn!(reason = reason.name(), "refused a message of the server");
                let why = match reason {
                    DropReason::Authentication => Some("a message without a good signature"),
                    DropReason::OldRecord => Some("a message from before what is known"),
                    DropReason::Malformed | DropReason::Truncated => Some("a message that is none"),
                    // It may be right, and has no place here.
                    _ => None,
                };
                why.map(Note::Disbelieved)
            }
        };
        if let Some(note) = note {
            let _ = self.outputs.notes.send(note);
        }
    }
}
