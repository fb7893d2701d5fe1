# One command for each thing a developer does. `make` alone lists them; all of them set up what they need first.
#
# Everything that is built lies in target/ (or CARGO_TARGET_DIR); PyTorch lies in the user's cache, see .ci/env.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
VENV := $(TARGET)/venv
VENV_PYTHON := $(VENV)/bin/python
# Seconds that each fuzz target runs; RUNS_PER_FUZZ_TARGET counts executions instead.
SECONDS_PER_FUZZ_TARGET ?= 60
FUZZ_BOUND = $(if $(RUNS_PER_FUZZ_TARGET),$(RUNS_PER_FUZZ_TARGET)runs,$(SECONDS_PER_FUZZ_TARGET))
# Seeds of a run of the simulator, and of a campaign.
SIM_SEEDS ?= 20000
SEEDS ?= 1000000

export CARGO_TARGET_DIR := $(TARGET)
export PYTHON
# One interpreter for every build of the native module: cargo rebuilds it whenever this changes.
cargo = PYO3_PYTHON=$(VENV_PYTHON) cargo

say = @printf '== %s\n' "$(1)"

.PHONY: help setup wheel demo lint test test-rust test-rdma test-python
.PHONY: sim sim-campaign fuzz explore mutants bench bench-rdma bench-zerocopy bench-peers bench-ways canary soak clean

help: ## lists these targets
	@printf 'usage: make TARGET\n\n'
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'
	@printf '\n%s\n' 'PYTHON=/path/to/python builds on that interpreter, and on its torch if it has 2.12 or later.'

setup: ## makes the Python environment (PyTorch: about 3 GB, once, into the cache) and checks the compiler
	@.ci/toolchain
	@.ci/env $(TARGET)

wheel: setup ## builds the wheel `xfer` and installs it into target/venv
	@.ci/wheel $(TARGET)

demo: wheel ## trains a model on three processes, takes one away, and checks the result: ARGS='--help' for more
	@$(VENV_PYTHON) examples/spot_handoff.py $(ARGS)

test: lint test-rust test-rdma sim test-python ## everything that must hold: what .ci/run runs

# Real processes under faults mostly wait, for silence to become a death and for deadlines to pass: more of them run at once.
test-rust: setup ## all Rust tests: unit, integration, fuzz corpora, tidy, doctests
	$(call say,Rust tests (all crates))
	@if .ci/nextest; then \
	    PATH="$$(.ci/nextest --bin):$$PATH" $(cargo) nextest run --locked --workspace -E 'not binary_id(xfer::real)' && \
	    PATH="$$(.ci/nextest --bin):$$PATH" $(cargo) nextest run --locked --workspace -E 'binary_id(xfer::real)' \
	        --test-threads $$((3 * $$(nproc))); \
	else \
	    $(cargo) test --locked --workspace --lib --bins --tests --examples; \
	fi
	$(call say,Rust tests (examples in the documentation))
	@$(cargo) test --locked --workspace --doc --quiet

# In virtual machines, where they can be made; what that needs is unpacked into the user's cache, and nothing is installed.
test-rdma: ## the tests that need RDMA: the backend's suite, and real processes under faults (CELLS=all for every cell)
	$(call say,RDMA tests (in virtual machines))
	@.ci/toolchain
	@.ci/test-rdma $(TARGET)

# From the top, where no folder `xfer` hides the installed wheel from Python.
test-python: wheel ## the wheel's tests, real processes included
	$(call say,Python tests)
	@$(VENV_PYTHON) -m pytest -q -c ffi/python/pyproject.toml -o cache_dir=$(TARGET)/pytest ffi/python/tests

lint: wheel ## formatting, clippy, documentation and types, all without a warning
	$(call say,cargo fmt --check)
	@cargo fmt --all --check && cargo fmt --all --check --manifest-path fuzz/Cargo.toml
	$(call say,the lock file of the fuzz targets)
	@cargo metadata --locked --quiet --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	$(call say,cargo clippy)
	@$(cargo) clippy --locked --workspace --all-targets --quiet -- -D warnings
	$(call say,cargo doc)
	@RUSTDOCFLAGS='-D warnings' $(cargo) doc --locked --workspace --no-deps --quiet
	$(call say,mypy)
	@cd ffi/python && $(VENV_PYTHON) -m mypy --cache-dir $(TARGET)/mypy

# The planted bugs are compiled in for the last step alone, into a folder of their own.
sim: ## runs whole jobs in virtual time: 20,000 seeds, the fault matrix, and a hunt for planted bugs
	$(call say,simulated jobs under faults)
	@cargo run --locked --quiet --release --package xfer-sim -- seeds --count $(SIM_SEEDS)
	$(call say,the fault matrix)
	@cargo run --locked --quiet --release --package xfer-sim -- matrix
	$(call say,planted bugs)
	@cargo run --locked --quiet --release --package xfer-sim --features planted --target-dir $(TARGET)/planted -- planted

sim-campaign: ## many more seeds: SEEDS=1000000, from FROM=0 on
	@cargo run --locked --quiet --release --package xfer-sim -- seeds --from $(or $(FROM),0) --count $(SEEDS)

fuzz: ## fuzzes every decoder of outside bytes for a minute each: SECONDS_PER_FUZZ_TARGET=600 or RUNS_PER_FUZZ_TARGET=10000000
	@.ci/fuzz $(FUZZ_BOUND) $(FUZZ_TARGETS)

explore: ## searches all states of small hand-overs, and says which were searched to the end
	@cargo run --locked --release --quiet --package xfer-explore

mutants: ## changes the two cores in one place at a time, and says which changes no test finds: hours
	@cargo mutants --version >/dev/null 2>&1 || { \
	    printf '%s\n' "xfer mutants: cargo-mutants is not here" "  try: cargo install --locked cargo-mutants" >&2; exit 3; }
	@cargo mutants --package xfer-transport-core --package xfer-migrate-core --output $(TARGET) $(MUTANTS) -- --lib --tests

bench: wheel ## measures what this machine does: the transport, a hand-over, a replayed backward
	$(call say,two processes: tcp, shared memory, shared memory read in place)
	@$(cargo) build --locked --quiet --release --package xfer-cli --bin xfer-bench
	@for way in '--transport tcp' '--transport shm' '--transport shm --mem shared'; do \
	    for test in bw lat mixed cancel migrate; do XFER_LOG=off $(TARGET)/release/xfer-bench --loopback --test $$test $$way; done; \
	done
	@$(TARGET)/release/xfer-bench --loopback --op lend --mem shared
	@$(TARGET)/release/xfer-bench --loopback --test lat --busy-poll 50
	$(call say,TCP against a plain socket)
	@$(cargo) bench --locked --quiet --package xfer-transport --bench tcp
	$(call say,a hand-over)
	@XFER_LOG=error $(cargo) bench --locked --quiet --bench handoff
	$(call say,plans)
	@$(cargo) bench --locked --quiet --package xfer-plan --bench plan
	$(call say,a hand-over on both sides of send-or-compute)
	@$(VENV_PYTHON) ffi/python/benches/frontier_bench.py
	$(call say,how soon a death is noticed)
	@XFER_LOG=off $(cargo) bench --locked --quiet --bench detection
	$(call say,a backward from replayed state)
	@$(VENV_PYTHON) ffi/python/benches/replay_bench.py
	$(call say,what timing each forward costs a training run)
	@$(VENV_PYTHON) ffi/python/benches/timing_bench.py

bench-rdma: ## measures RDMA beside perftest, in one virtual machine
	$(call say,RDMA beside perftest)
	@.ci/toolchain
	@.ci/bench-rdma $(TARGET)

bench-zerocopy: ## measures TCP with the kernel's copy and without, between two network cards in a virtual machine
	$(call say,TCP with and without the kernel's copy)
	@.ci/toolchain
	@.ci/bench-zerocopy $(TARGET)

bench-peers: setup ## what UCX, Gloo, ZeroMQ, NIXL and Mooncake move here, in turn with xfer (they go into the cache): ARGS='--help'
	@$(cargo) build --locked --quiet --release --package xfer-cli --bin xfer-bench
	@.ci/peers $(VENV_PYTHON) $(TARGET)/release/xfer-bench $(ARGS)

bench-ways: setup ## each way between two processes, in turn with plain copies, with checksums and without
	@$(cargo) bench --locked --quiet --package xfer-transport --features unsummed --bench ways

canary: setup ## cancels 100,000 transfers at random instants, each way, and looks for bytes that come too late
	@$(cargo) bench --locked --quiet --package xfer-transport --bench canary
	@XFER_LOG=off $(cargo) bench --locked --quiet --package xfer-transport --bench stopped

soak: setup ## lets 10,000 sessions fail, each way, and looks at what they leave behind
	@$(cargo) bench --locked --quiet --package xfer-transport --bench soak

clean: ## removes what was built here; the shared environment in the cache stays
	$(call say,removing $(TARGET))
	@rm -rf $(TARGET) fuzz/target
