# Two commands matter: `make run` plays the main job, `make test` runs the tests. Both set themselves up.

export CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/parhelion
# Outside the checkout, so that a clean checkout builds warm.
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CCACHE_DIR ?= $(CACHE)/ccache
# RocksDB is most of a cold build: ccache makes every later one short.
export CC = ccache clang
export CXX = ccache clang++

PARHELION = $(CARGO_TARGET_DIR)/release/parhelion
REPORT ?= $(CACHE)/drill-report
SECONDS ?= 60
KILLS ?= 200

.PHONY: run test kills fuzz build lint format bench setup clean

## Plays the main job: two sites, five mirroring modes, a disaster, and the truth about it.
run: build
	$(PARHELION) drill --report $(REPORT) $(DRILL)

## Builds and runs all tests, and fuzzes each parser for some seconds with the same inputs each time.
test: build
	cargo test --release --workspace --no-fail-fast
	PARHELION_FUZZ_RUNS=8000 .ci/fuzz 20

## Kills nodes of two sites under load, KILLS times with one node each and KILLS times with several, and looks for what was
## acknowledged. Takes minutes.
kills: build
	PARHELION_E2E_KILLS=$(KILLS) cargo test --release -p parhelion-e2e -- --ignored --nocapture kills

## Fuzzes each parser for SECONDS.
fuzz: setup
	.ci/fuzz $(SECONDS)

## Builds everything once; the same profile runs and tests.
build: setup
	cargo build --release --workspace

## Checks format and lints.
lint: setup
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

## Measures, beside baselines of the same run.
bench: build
	cargo run --release -p parhelion-bench -- all

## Formats the sources.
format:
	cargo fmt --all

setup:
	@.ci/setup

clean:
	rm -rf $(CACHE)
