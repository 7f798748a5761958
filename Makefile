# The commands of a working day. `make demo` and `make test` install what they need.
.DEFAULT_GOAL := help
.PHONY: help demo test lane-quick lane-services lane-r2r lane-sandbox lane-second test-fast lint check bench lock setup tools
BIN := .venv/bin
# a test starts our programs dozens of times: what Python has compiled it keeps
export PYTHONDONTWRITEBYTECODE :=

help: ## what there is
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## what a deploy needs, and no more: the virtual environment
	@sh ops/sandbox/prepare.sh

tools:
	@sh ops/sandbox/prepare.sh dev

# the stack of the demo: qdrant or r2r
STACK := qdrant

demo: tools ## a bare machine becomes a closed, running server, proven on the screen (STACK=r2r too)
	@STACKROOM_SANDBOX=$(if $(filter r2r,$(STACK)),r2r,sandbox) $(BIN)/stackroom demo

test: tools ## every test, in five lanes side by side
	@$(BIN)/stackroom sandbox engine
	@echo "five lanes, each shown when it ends: unit and faults, services, the R2R stack, two machines"
	@$(MAKE) --no-print-directory --jobs=5 --output-sync=target \
	  lane-sandbox lane-second lane-quick lane-services lane-r2r

# the throw-away machines take longest, and wait most: the others leave them the processor
lane-quick: check
	nice -n 5 $(BIN)/pytest --hypothesis-profile=ci tests/unit tests/render
	nice -n 10 $(BIN)/pytest --hypothesis-profile=ci tests/faults $(LONG)

# the tests of R2R share one stack, so they share a lane, with those of its databases
R2R := $(shell grep -l 'r2r: R2rStack' tests/services/test_*.py) \
  tests/services/test_restore_databases.py
# of the services' the longest, for the lane that is done first
LONG := tests/services/test_restore_stack.py

lane-services:
	nice -n 10 $(BIN)/pytest --hypothesis-profile=ci $(addprefix --ignore=,$(R2R) $(LONG)) tests/services

lane-r2r:
	nice -n 10 $(BIN)/pytest --hypothesis-profile=ci tests/contract $(R2R)
	STACKROOM_SANDBOX=r2r $(BIN)/pytest -s --durations=20 tests/sandbox/r2r

# about half of the tests, by the time they take; whatever is not named here is the first's
SECOND := $(patsubst %,tests/sandbox/test_%.py, \
  backup_offsite backup_on_host developers kits migrate rendered_files runtime)

lane-sandbox:
	$(BIN)/pytest --durations=20 $(addprefix --ignore=,$(SECOND) tests/sandbox/r2r) tests/sandbox

lane-second:
	STACKROOM_SANDBOX=second $(BIN)/pytest --durations=20 $(SECOND)

test-fast: tools ## unit, render and contract tests, under a minute
	$(BIN)/pytest -q -m "not slow" tests/unit tests/render tests/contract

lint: tools check ## ruff, mypy --strict, compose-lint

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/compose-lint check --fail-on high $(wildcard compose/*/*.yaml)

bench: ## measurements, as tables: deploys beside Ansible, backups, drills, migrations, R2R
	@sh ops/sandbox/prepare.sh bench
	@$(BIN)/stackroom sandbox engine
	$(BIN)/pytest -q -s -m bench --ignore=tests/bench/test_bench_r2r.py tests/bench
	STACKROOM_SANDBOX=r2r $(BIN)/pytest -q -s -m bench tests/bench/test_bench_r2r.py

lock: ## renew requirements/*.lock (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-find-links pyproject.toml -o requirements/runtime.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-find-links -c requirements/runtime.lock requirements/host.in -o requirements/host.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-find-links --extra dev pyproject.toml -o requirements/dev.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-find-links --extra dev --extra bench pyproject.toml -o requirements/bench.lock
