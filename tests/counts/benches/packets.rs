//! Instructions of each step of a packet's way, [`CALLS`] of it at a time.

use edgemesh_counts::gate::CALLS;
use edgemesh_counts::{Arrival, Field, HEAD, Opener, Sealer, Size};
use gungraun::prelude::*;
use std::hint::black_box;

/// A small site. What these numbers do to a packet's costs is `edgemesh-bench growth`'s to tell.
const SITE: Size = Size { peers: 4, flows: 400, services: 100 };

fn field() -> Field {
    Field::new(SITE)
}

fn sealer() -> Sealer {
    field().sealer()
}

fn opener() -> Opener {
    Field::new(Size { peers: 1, ..SITE }).opener(CALLS)
}

fn with_fresh() -> (Field, Vec<[u8; HEAD]>) {
    let field = field();
    let fresh = field.fresh(CALLS);
    (field, fresh)
}

fn arrived() -> (Field, Vec<Arrival>) {
    let mut field = field();
    let arrivals = field.arrivals(0, CALLS);
    (field, arrivals)
}

#[library_benchmark]
#[bench::of_1408_bytes(setup = sealer)]
fn seal(mut sealer: Sealer) -> Sealer {
    for _ in 0..CALLS {
        sealer.seal();
    }
    sealer
}

#[library_benchmark]
#[bench::of_1408_bytes(setup = opener)]
fn open(mut opener: Opener) -> Opener {
    assert_eq!(opener.open(), CALLS);
    opener
}

#[library_benchmark]
#[bench::hit(setup = field)]
fn outbound_hit(mut field: Field) -> Field {
    for flow in 0..CALLS {
        black_box(field.outbound(flow));
    }
    field
}

#[library_benchmark]
#[bench::miss(setup = with_fresh)]
fn outbound_miss(fresh: (Field, Vec<[u8; HEAD]>)) -> Field {
    let (mut field, heads) = fresh;
    for head in &heads {
        black_box(field.translate(head));
    }
    field
}

#[library_benchmark]
#[bench::hit(setup = arrived)]
fn inbound(arrived: (Field, Vec<Arrival>)) -> Field {
    let (mut field, arrivals) = arrived;
    for arrival in &arrivals {
        field.inbound(arrival);
    }
    field
}

#[library_benchmark]
#[bench::answer(setup = field)]
fn dns(mut field: Field) -> Field {
    for service in 0..CALLS {
        field.query(service);
    }
    field
}

#[library_benchmark]
#[bench::lookup(setup = field)]
fn path(mut field: Field) -> Field {
    for flow in 0..CALLS {
        black_box(field.route(flow));
    }
    field
}

library_benchmark_group!(
    name = counts,
    benchmarks = [seal, open, outbound_hit, outbound_miss, inbound, dns, path]
);
main!(library_benchmark_groups = counts);
