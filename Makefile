# make run: set everything up and serve the studio at http://localhost:7860
# make test: set everything up and pass every test, browser included
# make security: what strangers may try, in a minute; make audit: known holes in what is installed
# make docs: the docs site; make lock: pin all that the ranges of pyproject.toml bring; make latest: every test with the newest they allow
# make check: format, lint, types, docs site and the quick unit tests; some three minutes on two cores
# make pictures: take the pictures that README and docs show once more

PYTHON ?= python3
# Files of tests at a time
JOBS ?= 2
VENV ?= .venv
# The environment of make latest
LATEST ?= .venv-latest
BIN := $(VENV)/bin
# What pip would compile one file after the other, by all cores. Some files that libraries bring are no Python of today.
COMPILE = $(BIN)/python -m compileall -qq -j 0 "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true

.PHONY: run test check quick pictures docs install format lint types unit integration e2e security audit lock latest browser wheel clean

run: $(VENV)/.installed
	@exec $(BIN)/studio serve --sample $(if $(PORT),--port $(PORT),)

test: $(VENV)/.tested
	$(BIN)/python -m tests.browser
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

# Types on one core while the tests take another
check: $(VENV)/.tested lint
	@$(MAKE) --no-print-directory -j 2 types docs quick

quick: $(VENV)/.tested
	$(BIN)/python -m pytest -q -m "not slow" tests/unit $(ARGS)

# A real training of the sample, as long as its preset says, in a real browser
pictures: $(VENV)/.tested
	$(BIN)/python -m tests.browser
	STUDIO_PICTURES=docs/images $(BIN)/python -m pytest tests/e2e/test_whole_path.py $(ARGS)

# The docs site, into build/site; a broken link or a module that is not there fails
docs: $(VENV)/.tested
	$(BIN)/zensical build --strict --config-file mkdocs.yml

lint: $(VENV)/.tested
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .

format: $(VENV)/.tested
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --quiet .

types: $(VENV)/.tested
	$(BIN)/mypy

unit integration e2e security: $(VENV)/.tested
	$(BIN)/python -m pytest tests/$@ $(ARGS)

install: $(VENV)/.installed

wheel: $(VENV)/.tested
	$(BIN)/python -m build --wheel
	cp constraints.txt dist

# An environment is complete when its mark is newer than what it was made from.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "LoRA Studio needs Python 3.11 or newer; say which: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
		{ echo "Python has no venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Installing what the studio needs (a few minutes the first time; a GPU's libraries are large)"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar on --no-compile -c constraints.txt -e .
	@$(COMPILE)
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile -c constraints.txt -e '.[dev]'
	@$(COMPILE)
	@touch $@

# Known holes in what is installed; asks the network, so it is no part of the tests. In an environment of its own. What could
# not be looked up is a failure, not a pass.
audit: $(VENV)/.installed
	@test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && \
		$(VENV)/audit/bin/python -m pip install --disable-pip-version-check --quiet 'pip-audit>=2.7,<3'; }
	@$(VENV)/audit/bin/pip-audit --skip-editable $(ARGS) \
		--path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') >$(VENV)/audit.txt; \
		found=$$?; cat $(VENV)/audit.txt; if grep -q "could not be audited" $(VENV)/audit.txt; then \
		echo "Not everything could be looked up, so this says nothing of it."; exit 1; fi; exit $$found

# constraints.txt: everything the ranges of pyproject.toml bring, for each Python and platform from 3.11 on. Only looked up,
# not installed. Versions stay as they are; ARGS=--upgrade takes the newest, ARGS="--upgrade-package torch" those of one.
lock:
	@test -x $(VENV)/lock/bin/uv || { $(PYTHON) -m venv $(VENV)/lock && \
		$(VENV)/lock/bin/python -m pip install --disable-pip-version-check --quiet 'uv>=0.9,<0.14'; }
	@cp constraints.txt $(VENV)/lock/constraints.txt
	@$(VENV)/lock/bin/uv pip compile --quiet --universal --python $(VENV)/lock/bin/python --python-version 3.11 --all-extras \
		--no-annotate --no-header $(ARGS) --output-file $(VENV)/lock/constraints.txt pyproject.toml
	@{ echo "# The tested set, made by: make lock"; cat $(VENV)/lock/constraints.txt; } >$(VENV)/lock/new.txt
	@mv $(VENV)/lock/new.txt constraints.txt

# What an upgrade would bring, for a nightly job: the newest that the ranges allow, without the lock, in an environment of its
# own. Says first where that differs from the lock. On Linux the newest torch brings CUDA, some gigabytes, GPU or not.
latest:
	@test -x $(LATEST)/bin/python || $(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip install --disable-pip-version-check --quiet --upgrade --upgrade-strategy eager -e '.[dev]'
	$(LATEST)/bin/python -m tests.lock
	$(LATEST)/bin/python -m tests.browser
	STUDIO_LATEST=1 $(LATEST)/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
