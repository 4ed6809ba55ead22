//! The same instructions with ever more peers, flows and Services. Nothing is held to these: a table of
//! `docs/benchmarks.md` is made of them. Two benchmarks begin with a thousand handshakes, which take callgrind minutes.

use edgemesh_counts::gate::CALLS;
use edgemesh_counts::{Arrival, Field, Size};
use gungraun::prelude::*;
use std::hint::black_box;

const fn size(peers: u32, flows: u32, services: u32) -> Size {
    Size { peers, flows, services }
}

const P1: Size = size(1, 1_000, 1_000);
const P1000: Size = size(1_000, 1_000, 1_000);
const F100: Size = size(10, 100, 100);
const F100K: Size = size(10, 100_000, 100);
const S100: Size = size(10, 1_000, 100);
const S10K: Size = size(10, 1_000, 10_000);

fn arrived(size: Size) -> (Field, Vec<Arrival>) {
    let mut field = Field::new(size);
    let arrivals = field.arrivals(0, CALLS);
    (field, arrivals)
}

#[library_benchmark(setup = Field::new)]
#[bench::peers_1(P1)]
#[bench::peers_1000(P1000)]
#[bench::flows_100(F100)]
#[bench::flows_100000(F100K)]
#[bench::services_100(S100)]
#[bench::services_10000(S10K)]
fn outbound(mut field: Field) -> Field {
    for flow in 0..CALLS {
        black_box(field.outbound(flow));
    }
    field
}

#[library_benchmark(setup = arrived)]
#[bench::peers_1(P1)]
#[bench::peers_1000(P1000)]
#[bench::flows_100(F100)]
#[bench::flows_100000(F100K)]
#[bench::services_100(S100)]
#[bench::services_10000(S10K)]
fn inbound(arrived: (Field, Vec<Arrival>)) -> Field {
    let (mut field, arrivals) = arrived;
    for arrival in &arrivals {
        field.inbound(arrival);
    }
    field
}

#[library_benchmark(setup = Field::new)]
#[bench::services_100(S100)]
#[bench::services_10000(S10K)]
fn dns(mut field: Field) -> Field {
    for service in 0..CALLS {
        field.query(service);
    }
    field
}

library_benchmark_group!(name = growth, benchmarks = [outbound, inbound, dns]);
main!(library_benchmark_groups = growth);
