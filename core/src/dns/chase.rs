//! Completing the answer to an alias that leads out of the cluster domain (row D20). Stub resolvers do not follow
//! a CNAME themselves, so the shell asks an upstream [`question`] and joins its reply with [`complete`].
//!
//! Nothing is kept in between: the answer so far and the asker's query are the shell's. Only records of the
//! chain that begins at the name asked for are taken from the upstream, whatever else it sends.

use super::{Transport, limit};
use crate::counters::DropReason;
use crate::wire::dns::{
    CLASS_IN, Header, MAX_NAME, NameRef, Query, Rcode, Rdata, RecordType, Records, Response, Section, Tail,
    expand,
};

/// Recursion desired, nothing else.
const FLAGS: u16 = 0x0100;

/// Writes to `out` the query whose reply completes `answer`: for the target of its last CNAME, of the type asked
/// for, without EDNS, under `id`. Its length in octets.
///
/// # Errors
/// `Malformed` when `answer` has no CNAME, `Truncated` or `NoRoom`.
pub fn question(answer: &[u8], id: u16, out: &mut [u8]) -> Result<usize, DropReason> {
    let mut target = None;
    for record in Records::new(answer)? {
        let record = record?;
        if record.rtype == RecordType::CNAME {
            target = Some(record.data);
        }
    }
    let mut name = [0; MAX_NAME];
    let len = expand(answer, target.ok_or(DropReason::Malformed)?, &mut name)?;
    let name = name.get(..len).ok_or(DropReason::Truncated)?;
    let header = [id, FLAGS, 1, 0, 0, 0].map(u16::to_be_bytes);
    let fields = [Query::parse_question(answer)?.rtype.0, CLASS_IN].map(u16::to_be_bytes);
    let mut at: usize = 0;
    for part in [header.as_flattened(), name, fields.as_flattened()] {
        let end = at.saturating_add(part.len());
        out.get_mut(at..end).ok_or(DropReason::NoRoom)?.copy_from_slice(part);
        at = end;
    }
    Ok(at)
}

/// Writes to `out` the answer to `query`: the CNAMEs of `answer`, then what `reply` says of their end, with the
/// response code of `reply`. Its length in octets.
///
/// # Errors
/// `Truncated` or `Malformed` when a message cannot be read, `NoRoom` when `out` holds no question.
pub fn complete(
    query: &[u8],
    transport: Transport,
    answer: &[u8],
    reply: &[u8],
    out: &mut [u8],
) -> Result<usize, DropReason> {
    let query = Query::parse(query)?;
    let rcode = Rcode(Header::parse(reply)?.rcode());
    let mut chain = Chain {
        response: Response::new(out, limit(&query, transport), &query)?,
        rtype: query.rtype,
        name: [0; MAX_NAME],
        len: 0,
    };
    chain.start_at(query.name.as_bytes())?;
    for message in [answer, reply] {
        chain.follow(message)?;
    }
    chain.response.authoritative(rcode, true)
}

/// An answer that grows along a chain of aliases.
struct Chain<'o> {
    response: Response<'o>,
    rtype: RecordType,
    /// Where the chain has come to.
    name: [u8; MAX_NAME],
    len: usize,
}

impl Chain<'_> {
    fn start_at(&mut self, name: &[u8]) -> Result<(), DropReason> {
        self.name.get_mut(..name.len()).ok_or(DropReason::Malformed)?.copy_from_slice(name);
        self.len = name.len();
        Ok(())
    }

    /// Takes the answers of `message` that continue the chain, in the order of the message.
    fn follow(&mut self, message: &[u8]) -> Result<(), DropReason> {
        let [_, answers, ..] = Header::parse(message)?.counts;
        for record in Records::new(message)?.take(answers.into()) {
            let record = record?;
            let mut owner = [0; MAX_NAME];
            let len = expand(message, record.at, &mut owner)?;
            let owner = owner.get(..len).unwrap_or_default();
            let here = self.name.get(..self.len).unwrap_or_default();
            if record.class != CLASS_IN || !owner.eq_ignore_ascii_case(here) {
                continue;
            }
            let added = if record.rtype == RecordType::CNAME {
                self.len = expand(message, record.data, &mut self.name)?;
                let target = self.name.get(..self.len).unwrap_or_default();
                let target = NameRef { labels: &[], tail: Tail::Wire(target) };
                add(&mut self.response, owner, record.ttl, &Rdata::Name(RecordType::CNAME, target))
            } else if record.rtype == self.rtype {
                let data = message.get(record.data..record.end).unwrap_or_default();
                add(&mut self.response, owner, record.ttl, &Rdata::Raw(record.rtype, data))
            } else {
                true
            };
            if !added {
                break;
            }
        }
        Ok(())
    }
}

/// Adds a record, or marks the answer as cut.
fn add(response: &mut Response<'_>, owner: &[u8], ttl: u32, rdata: &Rdata<'_>) -> bool {
    let owner = NameRef { labels: &[], tail: Tail::Wire(owner) };
    let added = response.record(Section::Answer, owner, ttl, rdata).is_ok();
    if !added {
        response.truncate();
    }
    added
}
