//! The responder against an independent decoder: every answer is read by hickory-proto and compared as text. Test
//! names begin with the row of the parity checklist that they hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::std_instead_of_core
)]

mod chase;
mod kinds;
mod properties;
mod records;
mod wire;
#[path = "../support/zone.rs"]
mod zone;

use edgemesh_core::dns::{Domain, PodRecords, Responder, Settings, Transport, Verdict};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use zone::MemoryZone;

/// A decoded answer, its sections as lines of `owner ttl type data`.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) message: Message,
    pub(crate) len: usize,
    pub(crate) answers: Vec<String>,
    pub(crate) authority: Vec<String>,
    pub(crate) additional: Vec<String>,
    pub(crate) service: Option<u32>,
}

pub(crate) fn settings() -> Settings {
    Settings {
        domain: Domain::new("cluster.local").unwrap(),
        ttl: 30,
        negative_ttl: 30,
        address: Some("169.254.96.16".parse().unwrap()),
        pods: PodRecords::Insecure,
        recursion: true,
    }
}

/// A query as hickory writes it.
pub(crate) fn query(name: &str, rtype: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    message
}

pub(crate) fn edns(size: u16) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    edns
}

/// What the responder makes of these octets.
pub(crate) fn verdict(
    zone: &MemoryZone,
    query: &[u8],
    transport: Transport,
    rotate: u32,
) -> (Verdict, Vec<u8>) {
    let mut out = vec![0xee; 65_535];
    let verdict = Responder::new(settings()).query(zone, query, transport, rotate, &mut out);
    if let Verdict::Answer { len, .. } | Verdict::Chase { len } = verdict {
        out.truncate(len);
    }
    (verdict, out)
}

pub(crate) fn lines(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| format!("{} {} {} {}", r.name, r.ttl, r.record_type(), r.data)).collect()
}

/// Reads an answer to its last octet. What was read, written again by the other implementation, must be the same;
/// long answers it would cut.
pub(crate) fn decode(bytes: &[u8], service: Option<u32>) -> Reply {
    let mut decoder = BinDecoder::new(bytes);
    let message = Message::read(&mut decoder).unwrap();
    assert!(decoder.is_empty(), "octets behind the last record");
    if bytes.len() <= 4096 {
        assert_eq!(Message::from_vec(&message.to_vec().unwrap()).unwrap(), message);
    }
    Reply {
        len: bytes.len(),
        answers: lines(&message.answers),
        authority: lines(&message.authorities),
        additional: lines(&message.additionals),
        service,
        message,
    }
}

/// Sends a message and decodes the answer.
pub(crate) fn send(zone: &MemoryZone, message: &Message, transport: Transport) -> Reply {
    match verdict(zone, &message.to_vec().unwrap(), transport, 0) {
        (Verdict::Answer { service, .. }, bytes) => decode(&bytes, service),
        (other, _) => panic!("no answer but {other:?}"),
    }
}

/// Asks over TCP, so that nothing is cut, and checks what every answer must have.
pub(crate) fn ask(zone: &MemoryZone, name: &str, rtype: RecordType) -> Reply {
    let message = query(name, rtype);
    let reply = send(zone, &message, Transport::Tcp);
    let metadata = &reply.message.metadata;
    assert_eq!((metadata.id, &reply.message.queries), (4711, &message.queries));
    assert!(metadata.authoritative && metadata.recursion_desired && metadata.recursion_available);
    assert!(!metadata.truncation && reply.message.edns.is_none());
    reply
}

impl Reply {
    pub(crate) fn rcode(&self) -> ResponseCode {
        self.message.metadata.response_code
    }

    /// Negative, with the SOA of the cluster domain.
    pub(crate) fn is_negative(&self, rcode: ResponseCode) -> bool {
        let soa =
            "cluster.local. 30 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 30";
        self.rcode() == rcode
            && self.answers.is_empty()
            && self.authority == [soa]
            && self.additional.is_empty()
    }

    pub(crate) fn is_nodata(&self) -> bool {
        self.is_negative(ResponseCode::NoError)
    }

    pub(crate) fn is_nxdomain(&self) -> bool {
        self.is_negative(ResponseCode::NXDomain)
    }
}
