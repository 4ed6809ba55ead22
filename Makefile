# What a developer types. Each target installs what it lacks and says so.
.PHONY: fmt lint test

fmt: ## format the tree
	cargo fmt --all

lint: ## formatting and lints, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

test: lint ## everything that gates a change
	cargo test --workspace
