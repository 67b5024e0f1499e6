# Everything that a person or CI does with this project. `make help` lists it.
# Native parts (cmake for HDF5, ONNX Runtime, FFmpeg) come from PyPI into .venv: nothing is installed on the system.

SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Two clippy runs, tests and the program share one profile and one target folder, so that C libraries build once.
CARGO_FLAGS := --release --locked
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: help setup setup-test build run test unit doc-test loom python-test python-lint embed-test test-cameras lint fmt clippy bench peers preview-bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: ## fetch the native parts that are missing
	@tools/setup.sh

setup-test: ## the same, with what tests and benches need
	@tools/setup.sh --test

build: setup ## build the program
	cargo build $(CARGO_FLAGS) --bin youquanti

run: build ## run the built-in demo for 20 s
	target/release/youquanti run

test: setup-test unit loom python-test embed-test ## all tests

unit:
ifeq ($(NEXTEST),yes)
	cargo nextest run $(CARGO_FLAGS) --workspace --no-fail-fast
else
	cargo test $(CARGO_FLAGS) --workspace --lib --bins --tests
endif

loom: ## the lock-free code under the loom model checker
	RUSTFLAGS="--cfg loom" cargo test $(CARGO_FLAGS) -p youquanti-frames --lib --target-dir target/loom loom_

python-test: setup-test build ## the Python package on sessions that the program records, and streams with pylsl and pyxdf
	cargo build $(CARGO_FLAGS) -p youquanti-actors --example shm-load
	.venv/bin/python -m pytest clients/python/tests
	cargo build $(CARGO_FLAGS) -p youquanti-actors --example lsl-load
	.venv/bin/python -m pytest tests/lsl

embed-test: build ## a program outside the workspace that depends on the library
	cp Cargo.lock tests/embedded/Cargo.lock
	cargo run --release --offline --target-dir target --manifest-path tests/embedded/Cargo.toml -- config/examples/demo.toml 3 | tail -n 2 | tee target/embedded.txt
	grep -q '^ended' target/embedded.txt && ! grep -q '^0 frames' target/embedded.txt

# UPDATE=1: also write benches/results/fault-matrix.md anew, simulated cameras first
test-cameras: setup-test build ## the program on real V4L2 cameras, in a virtual machine (brings QEMU and a kernel)
	cargo build $(CARGO_FLAGS) -p youquanti-actors --example grab --example session-rows
ifdef UPDATE
	target/release/youquanti chaos --markdown benches/results/fault-matrix.md
endif
	.venv/bin/python -m pytest tests/vm --durations=0 $(if $(UPDATE),--update-matrix)

doc-test: setup ## the examples in the documentation
	cargo test $(CARGO_FLAGS) --workspace --doc

lint: fmt clippy python-lint ## formatting, clippy for both feature sets, types and lints of the Python package

fmt:
	cargo fmt --all --check

clippy: setup
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets --no-default-features -- -D warnings

python-lint: setup-test
	cd clients/python && ../../.venv/bin/ruff check . ../../benches/preview ../../tools/draw_dashboard.py && ../../.venv/bin/mypy

bench: setup ## criterion benches
	cargo bench --locked --workspace

peers: setup-test ## side by side with MediaPipe, writes benches/results/peers.json
	cargo build $(CARGO_FLAGS) -p youquanti-gpu --example youquanti-peer
	.venv/bin/python benches/peers/run.py

preview-bench: setup-test build ## capture to preview in shared memory and to drawn in Chromium, writes benches/results/preview.json
	.venv/bin/python benches/preview/run.py --json benches/results/preview.json

clean: ## remove build output, not .venv
	cargo clean
