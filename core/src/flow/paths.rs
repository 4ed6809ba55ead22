//! The four ways of a packet: a client's to an endpoint and back, at either end of the tunnel.

use super::admitted::Tuple;
use super::fragments::{Followed, Route};
use super::{Call, Endpoint, Flows, NewFlow, Outcome, PeerRef, Ticket, Translated, Vip, send};
use crate::counters::DropReason;
use crate::time::Duration;
use crate::wire::ip::{
    Checksum, Fragment, Kind, RST, Rewrite, clamp_mss, finish_checksum, reply, rewrite, sctp,
    set_fragment_id, set_whole_id,
};
use core::net::{IpAddr, SocketAddr};

/// What every way of IPv6 has to carry, in bytes.
const IPV6_MTU_MIN: u16 = 1_280;

impl Flows<'_> {
    /// A client's packet.
    pub(super) fn client_sends(&mut self, call: &mut Call<'_, '_>) -> Result<Outcome, DropReason> {
        let t = call.t;
        if matches!(t.kind, Kind::IcmpError { .. }) {
            return self.error_from_client(call);
        }
        let new = NewFlow::of(&t);
        let Some(id) = self.table.find_client(&new).filter(|id| self.usable(*id, call)) else {
            return self.miss(call, new);
        };
        let (endpoint, mapped) = self.table.endpoint(id);
        if self.table.is_handed(id) {
            if t.fragment == Fragment::None {
                let deadline = self.table.progress(call.now, id, true, &t);
                let verdict = Translated::HandOver(SocketAddr::new(endpoint.address, endpoint.port));
                return Ok(Outcome { deadline, ..Outcome::from(verdict) });
            }
            // The other pieces of a datagram do not say whose they are: the whole flow stays here.
            self.table.keep(id);
        }
        let Ok(split) = fit(call, endpoint.peer) else { return too_big(call, endpoint.peer) };
        let dst_port = if t.kind == Kind::EchoRequest { 0 } else { endpoint.port };
        let to = Rewrite {
            src: self.source(endpoint.peer, t.src),
            dst: endpoint.address,
            src_port: mapped,
            dst_port,
        };
        let verdict = send(endpoint.peer);
        let released = self.translate(call, &to, verdict)?;
        clamp(call, endpoint.peer)?;
        if split.is_some() && t.fragment == Fragment::None {
            // Other clients' packets to this endpoint have the same source.
            let fresh = self.fragments.fresh_id(endpoint.address, endpoint.peer);
            set_whole_id(call.packet.bytes_mut(), &t, fresh as u16)?;
        }
        let deadline = self.table.progress(call.now, id, true, &t);
        prepare_split(call, Outcome { verdict, deadline, released, split })
    }

    /// Whether the flow still leads where a new one could. A SYN or INIT belongs to a new connection, and tries
    /// another endpoint when it had no answer; the flow stays in the table then, for [`Flows::unanswered`], until the
    /// next is opened. UDP has no end of its own, so it leaves an endpoint when the Services change (rows Q1 to Q5),
    /// or when that does not answer.
    fn usable(&mut self, id: u32, call: &Call<'_, '_>) -> bool {
        let (now, policy, opens) = (call.now, call.policy, call.t.opens());
        if opens && self.table.is_closing(id) {
            return false;
        }
        let changed = self.table.generation(id) != policy.generation();
        let lasts = matches!(call.t.kind, Kind::Udp | Kind::EchoRequest);
        if !opens && !(lasts && (changed || policy.is_silent(self.table.endpoint(id).0.peer))) {
            return true;
        }
        let (flow, (endpoint, _)) = (self.table.client(id), self.table.endpoint(id));
        // Nobody knows what the client of a datagram waits for: it leaves an endpoint that is known not to answer.
        let age = self.table.age(now, id);
        let waited = if lasts { age.min(Duration::from_micros(1)) } else { age };
        let in_vain = lasts || self.table.is_unreplied(id);
        if in_vain && policy.gives_up(&flow, &endpoint, waited) {
            return false;
        }
        if !changed || policy.still_serves(&flow, &endpoint) {
            self.table.set_generation(id, policy.generation());
            return true;
        }
        self.table.remove(id);
        false
    }

    fn miss(&mut self, call: &mut Call<'_, '_>, new: NewFlow) -> Result<Outcome, DropReason> {
        let vip = call.policy.vip(call.t.dst);
        if vip == Vip::None {
            return Err(DropReason::NoRoute);
        }
        match call.t.kind {
            Kind::Tcp { flags } if flags & RST != 0 => Err(DropReason::NoFlow),
            Kind::Tcp { .. } | Kind::Sctp { .. } if call.t.opens() => {
                Ok(Outcome::from(Translated::Miss(new)))
            }
            Kind::Tcp { .. } => {
                reply::tcp_reset(call.packet, &call.t)?;
                Ok(Outcome::from(Translated::Reply))
            }
            Kind::Sctp { .. } => {
                reply::sctp_abort(call.packet, &call.t)?;
                Ok(Outcome::from(Translated::Reply))
            }
            Kind::Udp => Ok(Outcome::from(Translated::Miss(new))),
            Kind::EchoRequest if vip == Vip::Service => {
                reply::echo(call.packet, &call.t, call.offload.checksum)?;
                Ok(Outcome::from(Translated::Reply))
            }
            Kind::EchoRequest => Ok(Outcome::from(Translated::Miss(new))),
            Kind::EchoReply | Kind::IcmpError { .. } => Err(DropReason::NoFlow),
            Kind::Opaque => Err(DropReason::Protocol),
        }
    }

    /// An endpoint's reply, recognised by the mapped port it is sent to. `peer` has the endpoint.
    pub(super) fn client_receives(
        &mut self,
        call: &mut Call<'_, '_>,
        peer: PeerRef,
    ) -> Result<Outcome, DropReason> {
        let t = call.t;
        match t.kind {
            Kind::IcmpError { .. } => return self.error_to_client(call, peer),
            Kind::Opaque => return Err(DropReason::Protocol),
            _ => {}
        }
        let endpoint = Endpoint { peer, address: t.src, port: t.src_port };
        let id = self.table.find_mapped(t.protocol, &endpoint, t.dst_port).ok_or(DropReason::NoFlow)?;
        let flow = self.table.client(id);
        let to =
            Rewrite { src: flow.vip, dst: flow.client, src_port: flow.vip_port, dst_port: flow.client_port };
        let verdict = Translated::Local;
        let released = self.translate(call, &to, verdict)?;
        clamp(call, peer)?;
        let deadline = self.table.progress(call.now, id, false, &t);
        Ok(Outcome { deadline, released, ..Outcome::from(verdict) })
    }

    /// A reply of one of this node's endpoints to a client on `peer`. What the endpoint sends from a port that
    /// it serves may go out before its client was heard: this node may have been restarted in between, and the
    /// peer passes nothing on that it has no flow for.
    pub(super) fn endpoint_sends(
        &mut self,
        call: &mut Call<'_, '_>,
        peer: PeerRef,
    ) -> Result<Outcome, DropReason> {
        let t = call.t;
        if peer.0 == self.mesh.own_index() {
            return Err(DropReason::NoRoute);
        }
        if matches!(t.kind, Kind::IcmpError { .. }) {
            return self.error_from_endpoint(call, peer);
        }
        if t.kind == Kind::Opaque {
            return Err(DropReason::Protocol);
        }
        let tuple = Tuple {
            peer,
            protocol: t.protocol,
            endpoint: t.src.into(),
            port: t.src_port,
            remote_port: t.dst_port,
        };
        let opens = t.kind == Kind::EchoRequest || t.opens();
        let known = self.admitted.find(&tuple);
        let served = || !opens && call.policy.admits(t.protocol, t.src, t.src_port);
        if known.is_none() && !served() {
            return Err(DropReason::NoFlow);
        }
        let Ok(split) = fit(call, peer) else { return too_big(call, peer) };
        let outcome = self.pass(call, &tuple, known, false, send(peer))?;
        prepare_split(call, Outcome { split, ..outcome })
    }

    /// A packet of a client on a peer to one of this node's endpoints.
    pub(super) fn endpoint_receives(&mut self, call: &mut Call<'_, '_>) -> Result<Outcome, DropReason> {
        let t = call.t;
        match t.kind {
            Kind::IcmpError { .. } => return self.error_to_endpoint(call),
            Kind::Opaque => return Err(DropReason::Protocol),
            _ => {}
        }
        let tuple = Tuple {
            peer: call.from,
            protocol: t.protocol,
            endpoint: t.dst.into(),
            port: t.dst_port,
            remote_port: t.src_port,
        };
        let known = self.admitted.find(&tuple).filter(|id| !(t.opens() && self.admitted.end_closing(*id)));
        if known.is_none()
            && (t.kind == Kind::EchoReply || !call.policy.admits(t.protocol, t.dst, t.dst_port))
        {
            return Err(DropReason::NotAnEndpoint);
        }
        self.pass(call, &tuple, known, true, Translated::Local)
    }

    /// Lets an admitted packet through as it is.
    fn pass(
        &mut self,
        call: &mut Call<'_, '_>,
        tuple: &Tuple,
        known: Option<u32>,
        from_client: bool,
        verdict: Translated,
    ) -> Result<Outcome, DropReason> {
        let t = call.t;
        let deadline = match known {
            Some(id) => self.admitted.progress(call.now, id, from_client, &t),
            None if t.tcp_flags() & RST != 0 || t.sctp_chunk() == sctp::ABORT => None,
            None => Some(self.admitted.admit(call.now, tuple, from_client, &t)?),
        };
        let released = match t.fragment {
            Fragment::First { .. } => {
                let kept = Route { src: t.src, dst: t.dst, verdict, rename: false };
                self.fragments.first(call.now, call.from, &t, &kept)?.1
            }
            _ => None,
        };
        clamp(call, tuple.peer)?;
        let deadline = deadline.map(|(id, at)| (self.admitted_timer(id), at));
        Ok(Outcome { deadline, released, ..Outcome::from(verdict) })
    }

    /// Gives a packet its new addresses and, if it is a first fragment, its followers theirs.
    fn translate(
        &mut self,
        call: &mut Call<'_, '_>,
        to: &Rewrite,
        verdict: Translated,
    ) -> Result<Option<Ticket>, DropReason> {
        let mut released = None;
        if let Fragment::First { .. } = call.t.fragment {
            let route = Route { src: to.src, dst: to.dst, verdict, rename: true };
            let (id, ticket) = self.fragments.first(call.now, call.from, &call.t, &route)?;
            set_fragment_id(call.packet.bytes_mut(), &call.t, id)?;
            released = ticket;
        }
        rewrite(call.packet.bytes_mut(), &call.t, to, call.offload.checksum)?;
        Ok(released)
    }

    /// A later fragment goes the way of the first.
    pub(super) fn follow(&mut self, call: &mut Call<'_, '_>) -> Result<Outcome, DropReason> {
        let t = call.t;
        match self.fragments.follow(call.now, call.from, &t)? {
            Followed::Park { ticket, slot, at } => {
                let deadline = at.map(|at| (self.fragment_timer(slot), at));
                Ok(Outcome { deadline, ..Outcome::from(Translated::Park(ticket)) })
            }
            Followed::Way { src, dst, id, verdict } => {
                let split = match verdict {
                    Translated::To(peer) => fit(call, peer)?,
                    _ => None,
                };
                let bytes = call.packet.bytes_mut();
                set_fragment_id(bytes, &t, id)?;
                rewrite(bytes, &t, &Rewrite { src, dst, src_port: 0, dst_port: 0 }, Checksum::Complete)?;
                Ok(Outcome { split, ..Outcome::from(verdict) })
            }
        }
    }

    /// The source under which a client's packets reach endpoints on `peer`.
    pub(super) fn source(&self, peer: PeerRef, family: IpAddr) -> IpAddr {
        let v6 = family.is_ipv6();
        if peer == PeerRef::SELF { self.mesh.alias(v6) } else { self.mesh.own(v6) }
    }
}

/// The largest packet that goes to `peer` in one piece. IPv6 has a floor: below it the datagram around the packet
/// is cut, as every link below 1280 bytes has to see to (RFC 8200, section 5).
fn mtu(call: &Call<'_, '_>, peer: PeerRef) -> u16 {
    let mtu = call.policy.mtu(peer);
    if call.t.src.is_ipv6() { mtu.max(IPV6_MTU_MIN) } else { mtu }
}

/// Whether the packet fits the path to `peer`, if need be in pieces no longer than this.
fn fit(call: &Call<'_, '_>, peer: PeerRef) -> Result<Option<u16>, DropReason> {
    let mtu = mtu(call, peer);
    match call.offload.largest > usize::from(mtu) {
        false => Ok(None),
        // Not the segments of a super-packet: each would need its own headers first.
        true if call.t.may_fragment && call.offload.largest >= call.t.len() => Ok(Some(mtu)),
        true => Err(DropReason::TooBig),
    }
}

/// The checksum of a packet that is cut cannot be finished later.
fn prepare_split(call: &mut Call<'_, '_>, outcome: Outcome) -> Result<Outcome, DropReason> {
    if outcome.split.is_some() && call.offload.checksum == Checksum::Partial {
        finish_checksum(call.packet.bytes_mut(), &call.t)?;
    }
    Ok(outcome)
}

fn too_big(call: &mut Call<'_, '_>, peer: PeerRef) -> Result<Outcome, DropReason> {
    let mtu = mtu(call, peer);
    reply::too_big(call.packet, &call.t, mtu)?;
    Ok(Outcome::from(Translated::Reply))
}

/// Lowers the MSS that a SYN announces to what the path to `peer` carries.
fn clamp(call: &mut Call<'_, '_>, peer: PeerRef) -> Result<(), DropReason> {
    let headers = if call.t.src.is_ipv6() { 60 } else { 40 };
    let limit = mtu(call, peer).saturating_sub(headers);
    clamp_mss(call.packet.bytes_mut(), &call.t, limit, call.offload.checksum)
}
