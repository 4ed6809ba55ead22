//! The builder of an answer: header and question first, then records, each whole or not at all, then OPT.
//!
//! Owner names and the names inside NS, PTR and SOA data are compressed against what was written; CNAME and SRV
//! targets are written out, SRV because RFC 2782 demands it, CNAME so that later records can point into it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::query::{AA, CD, Edns, OPCODE, QR, RA, RD, TC};
use super::records::POINTER;
use super::{CLASS_IN, HEADER_LEN, Header, MAX_LABEL, OUR_UDP, Query, Rcode, RecordType, u16_at, write_text};
use crate::counters::DropReason;

/// An OPT record without options.
const OPT_LEN: usize = 11;

/// There is no room for a record within the limit. Nothing of it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// The section that a record goes to; they must be filled in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Section {
    /// What was asked for.
    Answer = 1,
    /// SOA of a negative answer.
    Authority = 2,
    /// Addresses of targets.
    Additional = 3,
}

/// How a name ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail<'a> {
    /// Like the name at this offset of the message, which is written there without pointers.
    At(usize),
    /// With this name in wire form.
    Wire(&'a [u8]),
}

/// A name to write: labels, then a tail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameRef<'a> {
    /// Its first labels; longer ones than 63 octets are cut.
    pub labels: &'a [&'a [u8]],
    /// The rest of it.
    pub tail: Tail<'a>,
}

impl NameRef<'_> {
    /// The name at offset `at` of the message.
    pub const fn at(at: usize) -> Self {
        Self { labels: &[], tail: Tail::At(at) }
    }

    /// Whether a compression pointer reaches offset `at`.
    pub const fn is_reachable(at: usize) -> bool {
        at < !POINTER as usize
    }
}

/// SOA data (RFC 1035 §3.3.13); both names end like the zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Soa<'a> {
    /// Primary name server.
    pub mname: NameRef<'a>,
    /// Mailbox of who is responsible.
    pub rname: NameRef<'a>,
    /// Version of the zone.
    pub serial: u32,
    /// REFRESH, RETRY, EXPIRE and MINIMUM in seconds.
    pub timers: [u32; 4],
}

/// The data of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rdata<'a> {
    /// A or AAAA.
    Address(IpAddr),
    /// NS, PTR, or a CNAME that no later record points into.
    Name(RecordType, NameRef<'a>),
    /// CNAME to a name given as text.
    Alias(&'a [u8]),
    /// SRV with priority 0.
    Srv {
        /// Share of clients among records of one priority.
        weight: u16,
        /// Port of the service on the target.
        port: u16,
        /// Host that serves it.
        target: NameRef<'a>,
    },
    /// SOA.
    Soa(Soa<'a>),
    /// TXT of one string of at most 255 octets.
    Text(&'a [u8]),
    /// Data of a type whose data hold no compressed name.
    Raw(RecordType, &'a [u8]),
}

impl Rdata<'_> {
    fn rtype(&self) -> RecordType {
        match self {
            Self::Address(IpAddr::V4(_)) => RecordType::A,
            Self::Address(IpAddr::V6(_)) => RecordType::AAAA,
            Self::Name(rtype, _) | Self::Raw(rtype, _) => *rtype,
            Self::Alias(_) => RecordType::CNAME,
            Self::Srv { .. } => RecordType::SRV,
            Self::Soa(_) => RecordType::SOA,
            Self::Text(_) => RecordType::TXT,
        }
    }
}

/// An answer under construction in the caller's buffer.
pub struct Response<'o> {
    out: &'o mut [u8],
    len: usize,
    limit: usize,
    header: Header,
    edns: Option<Edns>,
    truncated: bool,
}

impl<'o> Response<'o> {
    /// Starts the answer to `query` with its question, of at most `limit` octets.
    ///
    /// # Errors
    /// `NoRoom` when question and OPT alone exceed `limit` or `out`.
    pub fn new(out: &'o mut [u8], limit: usize, query: &Query<'_>) -> Result<Self, DropReason> {
        let reserved = if query.edns.is_some() { OPT_LEN } else { 0 };
        let limit = limit.min(out.len()).checked_sub(reserved).ok_or(DropReason::NoRoom)?;
        let header = Header { counts: [1, 0, 0, 0], ..query.header };
        let mut response = Self { out, len: HEADER_LEN, limit, header, edns: query.edns, truncated: false };
        let fields = [query.rtype.0.to_be_bytes(), query.class.to_be_bytes()];
        let question = [query.name.as_bytes(), fields.as_flattened()];
        question.into_iter().try_for_each(|part| response.put(part)).map_err(|Full| DropReason::NoRoom)?;
        Ok(response)
    }

    /// A response without question, for a query that could not be read; its length in octets.
    ///
    /// # Errors
    /// `NoRoom` when `out` cannot hold a header.
    pub fn error(out: &mut [u8], query: Header, rcode: Rcode) -> Result<usize, DropReason> {
        let header = Header { counts: [0; 4], ..query };
        let room = out.len();
        Response { out, len: HEADER_LEN, limit: room, header, edns: None, truncated: false }.finish(rcode, 0)
    }

    /// Octets written so far: where the next record will start.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: there is always a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Octets written so far; the header is filled in at the end.
    pub fn as_bytes(&self) -> &[u8] {
        self.out.get(..self.len).unwrap_or_default()
    }

    /// Marks the answer as cut: the asker comes back over TCP.
    pub fn truncate(&mut self) {
        self.truncated = true;
    }

    /// Whether it was marked as cut.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Records in the answer section so far.
    pub fn answers(&self) -> u16 {
        let [_, answers, ..] = self.header.counts;
        answers
    }

    /// Where the target of the SRV record at `at`, whose owner is compressed, stands, and where the record ends.
    pub fn srv_target(&self, at: usize) -> Option<(usize, usize)> {
        let data = at.saturating_add(12);
        let length = u16_at(self.as_bytes(), at.saturating_add(10))?;
        let end = data.saturating_add(length.into());
        (end <= self.len).then_some((data.saturating_add(6), end))
    }

    /// Adds a record; where its data start.
    ///
    /// # Errors
    /// [`Full`]: nothing was written.
    pub fn record(
        &mut self,
        section: Section,
        owner: NameRef<'_>,
        ttl: u32,
        rdata: &Rdata<'_>,
    ) -> Result<usize, Full> {
        let start = self.len;
        let data = self.try_record(owner, ttl, rdata);
        match (&data, self.header.counts.get_mut(section as usize)) {
            (Ok(_), Some(count)) => *count = count.saturating_add(1),
            _ => self.len = start,
        }
        data
    }

    /// Whether `address` is among the records from offset `from` on, all of which are of its type and have a
    /// compressed owner. Linear in what was written, which the limit bounds.
    pub fn holds(&self, from: usize, address: IpAddr) -> bool {
        let written = self.as_bytes().get(from..).unwrap_or_default();
        match address {
            IpAddr::V4(v4) => written.chunks_exact(16).any(|record| record.ends_with(&v4.octets())),
            IpAddr::V6(v6) => written.chunks_exact(28).any(|record| record.ends_with(&v6.octets())),
        }
    }

    /// Completes an authoritative answer; its length in octets.
    ///
    /// # Errors
    /// `NoRoom`, which [`Response::new`] has already excluded.
    pub fn authoritative(self, rcode: Rcode, recursion: bool) -> Result<usize, DropReason> {
        self.finish(rcode, if recursion { AA | RA } else { AA })
    }

    /// Completes an answer about which we claim no authority; its length in octets.
    ///
    /// # Errors
    /// `NoRoom`, which [`Response::new`] has already excluded.
    pub fn refusal(self, rcode: Rcode, recursion: bool) -> Result<usize, DropReason> {
        self.finish(rcode, if recursion { RA } else { 0 })
    }

    fn finish(mut self, rcode: Rcode, flags: u16) -> Result<usize, DropReason> {
        self.limit = self.out.len();
        if let Some(edns) = self.edns {
            self.opt(edns, rcode).map_err(|Full| DropReason::NoRoom)?;
        }
        let tc = if self.truncated { TC } else { 0 };
        let flags = QR | self.header.flags & (OPCODE | RD | CD) | flags | tc | rcode.0 & 0xf;
        let [questions, answers, authority, additional] = self.header.counts;
        let fields = [self.header.id, flags, questions, answers, authority, additional].map(u16::to_be_bytes);
        let place = self.out.get_mut(..HEADER_LEN).ok_or(DropReason::NoRoom)?;
        place.copy_from_slice(fields.as_flattened());
        Ok(self.len)
    }

    fn opt(&mut self, edns: Edns, rcode: Rcode) -> Result<(), Full> {
        let [_, _, _, additional] = &mut self.header.counts;
        *additional = additional.saturating_add(1);
        let dnssec_ok = if edns.dnssec_ok { 0x8000 } else { 0 };
        self.put(&[0])?;
        // Type, class = our UDP size, extended code and version 0, flags, no options.
        [RecordType::OPT.0, OUR_UDP, rcode.0 >> 4 << 8, dnssec_ok, 0]
            .into_iter()
            .try_for_each(|v| self.put16(v))
    }

    fn try_record(&mut self, owner: NameRef<'_>, ttl: u32, rdata: &Rdata<'_>) -> Result<usize, Full> {
        self.name(owner, true)?;
        self.put16(rdata.rtype().0)?;
        self.put16(CLASS_IN)?;
        self.put(&ttl.to_be_bytes())?;
        let length_at = self.len;
        self.put16(0)?;
        let data = self.len;
        self.rdata(rdata)?;
        let length = u16::try_from(self.len.saturating_sub(data)).map_err(|_| Full)?;
        let place = self.out.get_mut(length_at..data).ok_or(Full)?;
        place.copy_from_slice(&length.to_be_bytes());
        Ok(data)
    }

    fn rdata(&mut self, rdata: &Rdata<'_>) -> Result<(), Full> {
        match rdata {
            Rdata::Address(IpAddr::V4(address)) => self.put(&Ipv4Addr::octets(address)),
            Rdata::Address(IpAddr::V6(address)) => self.put(&Ipv6Addr::octets(address)),
            Rdata::Name(_, name) => self.name(*name, true),
            Rdata::Alias(text) => self.text(text),
            Rdata::Srv { weight, port, target } => {
                [0, *weight, *port].into_iter().try_for_each(|v| self.put16(v))?;
                self.name(*target, false)
            }
            Rdata::Soa(soa) => {
                self.name(soa.mname, true)?;
                self.name(soa.rname, true)?;
                self.put(&soa.serial.to_be_bytes())?;
                soa.timers.iter().try_for_each(|timer| self.put(&timer.to_be_bytes()))
            }
            Rdata::Raw(_, data) => self.put(data),
            Rdata::Text(text) => self.label(text, u8::MAX.into()),
        }
    }

    fn name(&mut self, name: NameRef<'_>, compress: bool) -> Result<(), Full> {
        name.labels.iter().try_for_each(|label| self.label(label, MAX_LABEL))?;
        match name.tail {
            Tail::Wire(wire) => self.put(wire),
            Tail::At(at) => match u16::try_from(at) {
                Ok(at) if compress && NameRef::is_reachable(at.into()) => self.put16(POINTER | at),
                _ => self.repeat(at),
            },
        }
    }

    /// Writes the name at `at` once more.
    fn repeat(&mut self, mut at: usize) -> Result<(), Full> {
        loop {
            let len = *self.as_bytes().get(at).ok_or(Full)?;
            let end = at.saturating_add(1).saturating_add(len.into());
            let to = self.len.saturating_add(end.saturating_sub(at));
            if to > self.limit || end > self.len {
                return Err(Full);
            }
            self.out.copy_within(at..end, self.len);
            self.len = to;
            if len == 0 {
                return Ok(());
            }
            at = end;
        }
    }

    fn text(&mut self, text: &[u8]) -> Result<(), Full> {
        let place = self.out.get_mut(self.len..self.limit).ok_or(Full)?;
        let len = write_text(text, place).map_err(|_| Full)?;
        self.len = self.len.saturating_add(len);
        Ok(())
    }

    fn label(&mut self, label: &[u8], most: usize) -> Result<(), Full> {
        let label = label.get(..label.len().min(most)).ok_or(Full)?;
        self.put(&[u8::try_from(label.len()).map_err(|_| Full)?])?;
        self.put(label)
    }

    fn put16(&mut self, value: u16) -> Result<(), Full> {
        self.put(&value.to_be_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.len.saturating_add(bytes.len());
        if end > self.limit {
            return Err(Full);
        }
        self.out.get_mut(self.len..end).ok_or(Full)?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02zz\x00\x00\x01\x00\x01";

    #[test]
    fn a_record_that_does_not_fit_leaves_no_trace() {
        let query = Query::parse(QUERY).unwrap();
        let mut out = [0; 600];
        let mut response = Response::new(&mut out, QUERY.len() + 16, &query).unwrap();
        let address = Rdata::Address(IpAddr::from([10, 0, 0, 1]));
        assert!(response.record(Section::Answer, NameRef::at(12), 30, &address).is_ok());
        assert_eq!(response.record(Section::Answer, NameRef::at(12), 30, &address), Err(Full));
        assert!(response.holds(QUERY.len(), IpAddr::from([10, 0, 0, 1])));
        assert!(!response.holds(QUERY.len(), IpAddr::from([10, 0, 0, 2])));
        let len = response.authoritative(Rcode::NOERROR, false).unwrap();
        assert_eq!(len, QUERY.len() + 16);
        assert_eq!(out[..8], [0, 7, 0x85, 0, 0, 1, 0, 1]);
    }

    #[test]
    fn room_for_opt_is_kept_whatever_else_is_written() {
        let mut bytes = QUERY.to_vec();
        bytes[11] = 1;
        bytes.extend(b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00");
        let query = Query::parse(&bytes).unwrap();
        let mut out = [0; 600];
        let mut response = Response::new(&mut out, 100, &query).unwrap();
        let address = Rdata::Address(IpAddr::from([10, 0, 0, 1]));
        while response.record(Section::Answer, NameRef::at(12), 30, &address).is_ok() {}
        let len = response.authoritative(Rcode::BADVERS, true).unwrap();
        assert!((90..=100).contains(&len));
        assert_eq!(out[len - 11..len], [0, 0, 41, 0x04, 0xd0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(Response::new(&mut out, 20, &query).err(), Some(DropReason::NoRoom));
    }
}
