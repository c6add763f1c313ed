# All one needs is Python 3.11 or later and make. `make run` and `make test` do all of the set-up.

# A version that is known to work is taken before whatever else there is.
PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3),python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# More arguments for `make run`, `make test` and `make bench`: make run ARGS="--shards 4"
ARGS ?=

# The native kernel. Another TARGET keeps what cargo builds elsewhere.
NATIVE := flowd/_native.abi3.so
NATIVE_SOURCES := native/Cargo.toml native/crates.lock $(wildcard native/src/*.rs)
TARGET := $(CURDIR)/native/target

.PHONY: help setup run test check native bench lock clean

help:
	@echo 'make run     set up and serve on http://127.0.0.1:8000, data in ./data'
	@echo 'make setup   only set up: flowd is then .venv/bin/flowd'
	@echo 'make native  build the native kernel, which setup does only where it can'
	@echo 'make test    run the tests, and demand the branch coverage'
	@echo 'make check   formatting, lint, types, layers: what CI runs before the tests'
	@echo 'make bench   measure speed and sizes: a table, and bench.json'
	@echo 'make lock    write the lock files anew, as pyproject.toml allows'
	@echo 'make clean   remove all that make has made, but never ./data'

setup: $(VENV)/flowd-installed $(NATIVE)

run: setup
	$(BIN)/flowd serve $(ARGS)

# The report comes before pytest's closing line; see pyproject.toml for what is measured.
test: $(VENV)/dev-installed $(NATIVE)
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

check: $(VENV)/dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if ! command -v cargo >/dev/null; then echo 'No cargo, so that native/ is not checked.'; \
	else $(LOCK_NATIVE) && $(CARGO) fmt --check && cargo clippy --quiet --locked --target-dir $(TARGET) -- -D warnings; fi

bench: $(VENV)/flowd-installed $(NATIVE)
	$(BIN)/python -m loadtest.bench --json bench.json $(ARGS)

# --universal: one lock for every platform and Python that pyproject.toml allows.
UV_COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --generate-hashes \
	--no-emit-index-url --no-emit-find-links --upgrade --custom-compile-command 'make lock'

lock: $(VENV)/dev-installed
	$(UV_COMPILE) --group build --output-file requirements.lock
	$(UV_COMPILE) --group build --group dev --constraint requirements.lock \
		--output-file requirements-dev.lock

clean:
	rm -rf $(VENV) build *.egg-info .coverage .coverage.* bench.json $(NATIVE) native/target
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find flowd tests loadtest -name __pycache__ -type d -prune -exec rm -rf {} +

# Out of reach of the crates, cargo is to say so within seconds.
CARGO = cd native && CARGO_NET_RETRY=0 CARGO_HTTP_TIMEOUT=5 \
	PYO3_PYTHON=$(abspath $(BIN)/python) cargo
# Cargo.lock says which registry it was made with; crates.lock, which is kept, is the same without.
LOCK_NATIVE = if ! [ native/Cargo.lock -nt native/crates.lock ]; then \
	($(CARGO) generate-lockfile --quiet) && origin="$$(grep -m1 '^source' native/Cargo.lock)" && \
	awk -v origin="$$origin" '/^checksum/ { print origin } 1' native/crates.lock \
		>native/Cargo.lock.new && mv native/Cargo.lock.new native/Cargo.lock; fi
BUILD_NATIVE = $(LOCK_NATIVE) && ($(CARGO) build --quiet --release --locked --target-dir $(TARGET)) && \
	install $(TARGET)/release/lib_native.so $(NATIVE)

native: $(BIN)/python
	$(BUILD_NATIVE)

# Not being able to build it is no error: flowd then runs on the kernel in Python. Nothing is left
# of an older one, and the next run tries again.
$(NATIVE): $(NATIVE_SOURCES) | $(BIN)/python
	@rm -f $@; mkdir -p $(VENV); log=$(VENV)/native.log; \
	if ! command -v cargo >/dev/null; then \
		echo 'Without the native kernel, which wants a Rust toolchain: there is no cargo.'; \
	else \
		echo 'Building the native kernel, for a minute or so ...'; \
		{ $(BUILD_NATIVE); } >$$log 2>&1 || \
		echo "Without the native kernel: $$(grep -m1 '^error' $$log || echo 'it cannot be built')" \
			"(make native shows more)"; \
	fi

# The stamps make the second run quick: they are older than what they depend on only after a change.
$(VENV)/flowd-installed: $(BIN)/python requirements.lock pyproject.toml
	@echo 'Installing the locked dependencies of flowd ...'
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev-installed: $(VENV)/flowd-installed requirements-dev.lock
	@echo 'Installing what tests and checks need ...'
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo 'flowd needs Python 3.11 or later, and $(PYTHON) is not that.' >&2; \
		echo 'Name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)' >&2; exit 1; }
	@echo 'Making a virtual environment in $(VENV) ...'
	@$(PYTHON) -m venv --clear $(VENV)
