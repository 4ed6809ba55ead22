# What a developer types. Each target installs what it lacks and says so.
BOARDS := platform-gateway/boards/probe

.PHONY: fmt lint probe test

fmt: ## format the tree
	cargo fmt --all
	for board in $(BOARDS); do cargo fmt --manifest-path $$board/Cargo.toml || exit; done

lint: ## formatting and lints, warnings denied
	cargo fmt --all --check
	for board in $(BOARDS); do cargo fmt --manifest-path $$board/Cargo.toml --check || exit; done
	cargo clippy --workspace --all-targets -- -D warnings

probe: ## the core on a microcontroller (QEMU): answers, stack, memory, flash, no allocator
	cross/probe.sh

test: lint probe ## everything that gates a change
	cargo test --workspace
