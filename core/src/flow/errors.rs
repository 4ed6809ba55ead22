//! ICMP errors: they belong to the flow of the packet that they quote, and are translated with it.
//!
//! Four ways, as for other packets. The outer source is rewritten too where the inner packet is: a router behind
//! the endpoint may have an address that is this node's own as well, and the kernel would refuse it.

use super::admitted::Tuple;
use super::{Call, Endpoint, Flows, NewFlow, Outcome, PeerRef, Translated, send};
use crate::counters::DropReason;
use crate::wire::ip::{Kind, Rewrite, rewrite_error};

impl Flows<'_> {
    /// A client, or a router on this node, complains about a reply.
    pub(super) fn error_from_client(&mut self, call: &mut Call<'_, '_>) -> Result<Outcome, DropReason> {
        let inner = call.t.quoted(call.packet.bytes())?;
        let flow = NewFlow {
            protocol: inner.protocol,
            client: inner.dst,
            client_port: inner.dst_port,
            vip: inner.src,
            vip_port: inner.src_port,
        };
        let id = self.table.find_client(&flow).ok_or(DropReason::IcmpUnmatched)?;
        let (endpoint, mapped) = self.table.endpoint(id);
        let own = self.source(endpoint.peer, call.t.src);
        let to = Rewrite { src: endpoint.address, dst: own, src_port: endpoint.port, dst_port: mapped };
        let outer = (own, endpoint.address);
        rewrite_error(call.packet.bytes_mut(), &call.t, &inner, outer, &to, call.offload.checksum)?;
        Ok(Outcome::from(send(endpoint.peer)))
    }

    /// An endpoint on `peer`, or a router there, complains about what a client of this node sent.
    pub(super) fn error_to_client(
        &mut self,
        call: &mut Call<'_, '_>,
        peer: PeerRef,
    ) -> Result<Outcome, DropReason> {
        let inner = call.t.quoted(call.packet.bytes())?;
        let endpoint = Endpoint { peer, address: inner.dst, port: inner.dst_port };
        let found = self.table.find_mapped(inner.protocol, &endpoint, inner.src_port);
        let id = found.filter(|_| inner.src == call.t.dst).ok_or(DropReason::IcmpUnmatched)?;
        let flow = self.table.client(id);
        let dst_port = if inner.kind == Kind::EchoRequest { 0 } else { flow.vip_port };
        let to = Rewrite { src: flow.client, dst: flow.vip, src_port: flow.client_port, dst_port };
        let outer = (flow.vip, flow.client);
        rewrite_error(call.packet.bytes_mut(), &call.t, &inner, outer, &to, call.offload.checksum)?;
        Ok(Outcome::from(Translated::Local))
    }

    /// An endpoint of this node, or a router on it, complains to a client on `peer`.
    pub(super) fn error_from_endpoint(
        &mut self,
        call: &mut Call<'_, '_>,
        peer: PeerRef,
    ) -> Result<Outcome, DropReason> {
        let inner = call.t.quoted(call.packet.bytes())?;
        let tuple = Tuple {
            peer,
            protocol: inner.protocol,
            endpoint: inner.dst.into(),
            port: inner.dst_port,
            remote_port: inner.src_port,
        };
        if inner.src != call.t.dst || self.admitted.find(&tuple).is_none() {
            return Err(DropReason::IcmpUnmatched);
        }
        Ok(Outcome::from(send(peer)))
    }

    /// A client on the peer complains about a reply of an endpoint of this node.
    pub(super) fn error_to_endpoint(&mut self, call: &mut Call<'_, '_>) -> Result<Outcome, DropReason> {
        let inner = call.t.quoted(call.packet.bytes())?;
        let tuple = Tuple {
            peer: call.from,
            protocol: inner.protocol,
            endpoint: inner.src.into(),
            port: inner.src_port,
            remote_port: inner.dst_port,
        };
        let about_us = (inner.src, inner.dst) == (call.t.dst, call.t.src);
        if !about_us || self.admitted.find(&tuple).is_none() {
            return Err(DropReason::IcmpUnmatched);
        }
        Ok(Outcome::from(Translated::Local))
    }
}
