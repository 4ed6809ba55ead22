# What a developer types. Each target installs what it lacks and says so.
BOARDS := platform-gateway/boards/probe
# All that `cargo test` builds, too: of a part alone cargo would build every dependency once more, with other features.
DEVBUILD := cargo build --quiet --workspace --all-targets

.PHONY: bench counts counts-accept counts-growth demo deny fmt full-lab full-rest fuzz lab lab-self lab-user lint probe scale sim test test-full

bench: ## throughput, delay, packets, connections beside other tunnels and DNS servers; FILTER=name runs some parts
	tests/lab/packages.sh dnsperf:dnsperf knotd:knot unbound:unbound
	tests/bench/rivals.sh target/rivals
	cargo build --quiet --release -p edgemesh-agent -p edgemesh-server -p edgemesh-bench
	target/release/edgemesh-bench $(FILTER)

counts: ## instructions per packet under callgrind, held to tests/counts/baseline.txt
	tests/counts/run.sh

counts-accept: ## writes what is counted now to that file
	tests/counts/run.sh accept

counts-growth: ## the same with many peers, flows and Services, for docs/benchmarks.md; minutes
	tests/counts/run.sh growth

demo: ## the main job in stages, told in plain words; a few minutes
	tests/lab/packages.sh
	cargo build --quiet --release -p edgemesh-agent -p edgemesh-server -p edgemesh-testapi -p edgemesh-lab
	target/release/edgemesh-lab demo

deny: ## licences, versions and sources of all dependencies; known weaknesses where their database can be had
	command -v cargo-deny >/dev/null || { echo "installing: cargo-deny (minutes)"; cargo install --quiet --locked cargo-deny; }
	cargo deny check licenses bans sources
	for board in $(BOARDS); do \
	  cargo deny --config deny.toml --manifest-path $$board/Cargo.toml check --allow duplicate --allow unmatched-skip \
	    licenses bans sources || exit; \
	done
	if cargo deny fetch db >/dev/null 2>&1; then cargo deny check advisories; \
	else echo "advisories not checked: their database cannot be reached"; fi

fmt: ## format the tree
	cargo fmt --all
	for board in $(BOARDS); do cargo fmt --manifest-path $$board/Cargo.toml || exit; done

fuzz: ## one fuzz target for a while: TARGET=engine SECONDS=600; tests/fuzz/README.md lists them
	tests/fuzz/run.sh "$(TARGET)" $(SECONDS)

lab: ## the scenarios on real packets; FILTER=name runs some of them
	tests/lab/packages.sh
	tests/lab/wireguard-go.sh target/rivals
	$(DEVBUILD)
	target/debug/edgemesh-lab test $(FILTER)

lab-self: ## the lab's own network, without the product
	tests/lab/packages.sh
	$(DEVBUILD)
	target/debug/edgemesh-lab test bare/

lab-user: ## a few scenarios as somebody who is not root, in a user namespace
	tests/lab/packages.sh
	$(DEVBUILD)
	tests/lab/as-user.sh target/debug test reach/same-subnet reach/across-nats path/relay restart/c5-agents

lint: ## formatting and lints, warnings denied
	cargo fmt --all --check
	for board in $(BOARDS); do cargo fmt --manifest-path $$board/Cargo.toml --check || exit; done
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p edgemesh-core --features compact --test compact -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps -p edgemesh-core

probe: ## the core on a microcontroller (QEMU): answers, stack, memory, flash, no allocator
	cross/probe.sh

scale: ## 10,000 Services, 50,000 endpoints, 1,000 nodes, held to the figures of docs/scale.md; about ten minutes
	tests/lab/packages.sh
	cargo build --quiet --release -p edgemesh-agent -p edgemesh-server -p edgemesh-scale
	target/release/edgemesh-scale full

sim: ## the simulated network with chosen seeds: SEED=7 TEST=name replays one, SEEDS=500 widens
	SEED=$(SEED) SEEDS=$(SEEDS) cargo test --package edgemesh-testkit $(TEST)

# Where make runs jobs, rustdoc warns that it was told of them and may not join.
test: lint probe ## everything that gates a change
	env -u MAKEFLAGS cargo test --workspace
	$(MAKE) counts
	cargo test -p edgemesh-core --features compact --test compact
	$(MAKE) lab
	$(MAKE) lab-user
	target/debug/edgemesh-scale sample

test-full: ## test, and what takes long, beside it: two idle hours, 1 GiB; more seeds, scale. Two hours and what is to be built
	tests/lab/packages.sh
	tests/lab/wireguard-go.sh target/rivals
	$(DEVBUILD)
	$(MAKE) --jobs=2 full-lab full-rest

full-lab:
	$(MAKE) lab FILTER=full/

full-rest: test
	$(MAKE) sim SEEDS=1000
	$(MAKE) sim SEEDS=10000 TEST=a_mesh_survives
	$(MAKE) scale
