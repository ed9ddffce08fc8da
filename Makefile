# `make` lists the targets. Everything is installed into .venv; nothing outside this folder is touched.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One build serves the demo and the tests: checked arithmetic, faults on demand (see Cargo.toml for how it is optimised).
WHEELS := target/wheels-dev
# That build for every Python from 3.9 on.
WHEELS_ABI3 := target/wheels-abi3
DEV_WHEEL := $(BIN)/maturin build --locked --quiet --interpreter $(BIN)/python
# Most of the time tests wait. PYTEST_ARGS come last and win: PYTEST_ARGS='-n 0 -x tests/test_jobs.py'.
PYTEST := $(BIN)/python -m pytest -n 8 --dist worksteal

.DEFAULT_GOAL := help
# Two installers in one environment would fall over each other.
.NOTPARALLEL:
.PHONY: help demo test test-rust test-python test-pythons test-installed fuzz fuzz-build fuzz-briefly fuzz-run test-asan test-asan-python lint \
	simulate mutants msrv deny licences format build docs generated pictures recipes wheels sdist matrix peers bench bench-reading bench-page clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: build ## run a real playbook against a real nats-server, and show what a subscriber sees
	@$(BIN)/python examples/demo/demo.py

test: test-rust test-python ## all tests, Rust and Python

test-rust:
	cargo test --locked --quiet --no-default-features

test-python: build $(VENV)/complete
	$(PYTEST) $(PYTEST_ARGS)

SEEDS ?= 20000
simulate: ## let the machine that delivers live through schedules of faults (SEEDS: how many); SEED=17: one, line by line
	@SEEDS=$(SEEDS) $(if $(SEED),SEED=$(SEED)) $(if $(FIRST),FIRST=$(FIRST)) \
		cargo test --locked --quiet --no-default-features --lib delivery::simulation::every -- --nocapture

mutants: $(VENV)/demo ## break the machine that delivers, one thing at a time: does its simulation notice?
	$(BIN)/python tests/mutants.py

test-pythons: $(VENV)/complete ## the Python tests on every CPython from 3.9 on that is installed
	@rm -rf $(WHEELS_ABI3)
	$(DEV_WHEEL) --features faults,abi3-py39 --out $(WHEELS_ABI3)
	@for python in $$($(BIN)/python tests/find_pythons.py); do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "== CPython $$version"; \
		$(MAKE) --no-print-directory test-installed PYTHON=$$python VENV=.venv-$$version || exit 1; \
	done

test-installed: $(VENV)/complete
	$(BIN)/pip install -q --force-reinstall --no-deps $(WHEELS_ABI3)/*.whl
	$(PYTEST) $(PYTEST_ARGS)

FUZZ_SECONDS ?= 120
FUZZ_TARGETS := options spill address cut command values record received filters answers shown
CARGO_FUZZ := cargo +nightly fuzz run --fuzz-dir fuzz --target-dir target/fuzz

fuzz: build $(VENV)/complete fuzz-run ## look for trouble for minutes: libFuzzer on the parsers, ten times the property tests
	FUZZ_FACTOR=10 $(BIN)/python -m pytest --timeout 3600 tests/test_encode.py

fuzz-build: ## check that the fuzz targets build (any Rust, no C++ compiler)
	cargo check --locked --quiet --manifest-path fuzz/Cargo.toml --no-default-features --target-dir target/fuzz-build

fuzz-briefly: fuzz-build ## the same, and a few seconds of each where nightly Rust and a C++ compiler are
	@if cargo +nightly --version >/dev/null 2>&1 && c++ --version >/dev/null 2>&1; then \
		$(MAKE) --no-print-directory fuzz-run FUZZ_SECONDS=5; \
	else echo "no nightly Rust or no C++ compiler: the fuzz targets are built, not run"; fi

fuzz-run:
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-fuzz
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p target/fuzz-corpus/$$target; \
		$(CARGO_FUZZ) $$target target/fuzz-corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=4096 || exit 1; \
	done

test-asan: ## the Rust tests under AddressSanitizer (nightly)
	ASAN_OPTIONS=allocator_may_return_null=1 RUSTFLAGS=-Zsanitizer=address cargo +nightly test --locked --quiet --no-default-features --lib \
		--target-dir target/asan --target $$(rustc -vV | sed -n 's/^host: //p')

# The same for what reads Python's objects, with a real interpreter whose memory is all malloc's. Frames are larger under the
# sanitizer: what is about the smallest stack is left out.
ASAN_PRELOAD = LD_PRELOAD=$$(gcc -print-file-name=libasan.so) PYTHONMALLOC=malloc PYTHONPATH=target/asan-python \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
test-asan-python: build $(VENV)/complete ## the encoder's tests under AddressSanitizer with a real interpreter (gcc's runtime)
	rm -rf target/asan-python target/wheels-asan
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Zexternal-clangrt" CARGO_TARGET_DIR=target/asan $(DEV_WHEEL) \
		--no-default-features --features python,abi3-py310,faults --out target/wheels-asan \
		--target $$(rustc -vV | sed -n 's/^host: //p')
	$(BIN)/pip install --quiet --no-deps --target target/asan-python target/wheels-asan/*.whl
	$(ASAN_PRELOAD) $(BIN)/python -c 'from ansible_runner_nats import _native; assert "asan-python" in _native.__file__'
	$(ASAN_PRELOAD) $(BIN)/python -X dev -m pytest -n 2 tests/test_encode.py -k "not smallest_stack"

lint: build $(VENV)/complete ## formatting, clippy, ruff, mypy, stubtest
	cargo fmt --check
	@if cargo tree --locked --edges features,normal | grep -q 'tokio feature "signal"'; then \
		echo "tokio's feature signal is on: a forked child would share a socket pair with its parent (src/plugin/process.rs)"; \
		exit 1; fi
	cargo clippy --locked --quiet --all-targets -- -D warnings
	cargo clippy --locked --quiet --all-targets --no-default-features -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/stubtest ansible_runner_nats._native --mypy-config-file pyproject.toml

MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

msrv: ## check that the oldest Rust that we support builds it (rustup)
	rustup toolchain install $(MSRV) --profile minimal
	cargo +$(MSRV) check --locked --quiet --target-dir target/msrv

deny: ## advisories, licences, duplicates and sources of all crates (cargo-deny)
	cargo deny --locked --all-features check -D warnings
	cargo deny --locked --manifest-path fuzz/Cargo.toml --config deny.toml check -D warnings -A unnecessary-skip

# Of the crates alone, and the same on every machine: nothing is asked for in the network but the crates.
licences: ## write THIRD-PARTY-LICENSES.txt anew (cargo-about)
	cargo fetch --locked --quiet
	@mkdir -p target
	cargo about generate --frozen --fail --no-default-features --features python,abi3-py310 -o target/licences.txt about.hbs
	tr -d '\r' < target/licences.txt > THIRD-PARTY-LICENSES.txt

format: $(VENV)/complete ## let the formatters have their way
	cargo fmt
	$(BIN)/ruff check --fix --quiet
	$(BIN)/ruff format

build: $(VENV)/demo ## build the wheel and install it into .venv
	@rm -rf $(WHEELS)
	$(DEV_WHEEL) --features faults --out $(WHEELS)
	@$(BIN)/pip install --quiet --force-reinstall --no-deps $(WHEELS)/*.whl

# No path of the machine that builds it is in a wheel.
REMAP := --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=cargo --remap-path-prefix=$(CURDIR)=.
RELEASE := RUSTFLAGS="$(REMAP)" $(BIN)/maturin build --release --locked --quiet --interpreter $(BIN)/python --no-default-features

docs: $(VENV)/complete ## build docs as a site into target/site; says no to a broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

generated: $(VENV)/complete ## write anew what is made from tables and schemas: options, stub, types, all.json
	UPDATE_DOCS=1 cargo test --locked --quiet --no-default-features --lib document::
	$(BIN)/python docs/from_schemas.py

pictures: build $(VENV)/complete ## make the pictures in docs anew: real jobs on a real terminal
	$(BIN)/python docs/screens.py

recipes: build $(VENV)/complete ## the recipe for Event-Driven Ansible with a real ansible-rulebook (network, Java 17)
	$(PYTHON) -m venv target/rulebook
	target/rulebook/bin/pip install --quiet ansible-rulebook ansible-core nats-py
	ANSIBLE_RULEBOOK=$(abspath target/rulebook/bin/ansible-rulebook) $(PYTEST) tests/test_recipes.py -k rulebook

wheels: $(VENV)/complete ## build the release wheels (cp39 and cp310) into dist
	@rm -rf dist
	$(RELEASE) --features python,abi3-py39 --out dist
	$(RELEASE) --features python,abi3-py310 --out dist

matrix: $(VENV)/complete ## the release wheels in dist with each Python, ansible-runner and nats-server (after `make wheels`)
	$(BIN)/python tests/matrix.py $(MATRIX_ARGS)

peers: build $(VENV)/complete ## ansible-runner's own test suite, with the plugin off, on, and on without a server (network, 15 minutes)
	$(BIN)/python tests/peers.py $(WHEELS)/*.whl

sdist: wheels ## check the wheels' ABI, the sdist, and that it builds alone in an empty folder, for the Python at hand
	$(BIN)/maturin sdist --out dist
	$(BIN)/pip install --quiet abi3audit twine
	$(BIN)/abi3audit --strict dist/*.whl
	$(BIN)/twine check --strict dist/*
	tag=$$($(BIN)/python -c 'import sys; print("cp%d%d" % sys.version_info[:2])'); \
		folder=$$(mktemp -d) && cd $$folder && $(abspath $(BIN))/pip wheel -q --no-deps -w out $(abspath dist)/*.tar.gz && \
		ls out && ls out/*-$$tag-$$tag*.whl >/dev/null; \
		status=$$?; rm -rf $$folder; exit $$status

bench: wheels ## measure ours beside 0.4.0, orjson and plain async-nats: one table (BENCH_ARGS: see benches/bench.py)
	cargo build --release --locked --quiet --no-default-features --example plain
	$(BIN)/python benches/bench.py --wheel dist/*-cp310-*.whl $(BENCH_ARGS)

bench-reading: build $(VENV)/complete ## what reading takes: runs, logs and watch on a stream of a million events
	$(BIN)/python benches/reading.py $(READING_ARGS)

bench-page: build $(VENV)/complete ## what `serve` takes while 20 browsers look at a busy run
	$(BIN)/python benches/page.py $(PAGE_ARGS)

# Who only wants to see it need not wait for what the tests take.
$(VENV)/demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --group demo
	@touch $@

# What looks for barriers on pages is a package of npm's; without npm that test is left out.
$(VENV)/complete: $(VENV)/demo
	$(BIN)/pip install --quiet --group dev
	@if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --prefix $(VENV)/npm axe-core@4.14; fi
	@touch $@

clean: ## remove what was built and installed here
	rm -rf target .venv .venv-* .cache dist
