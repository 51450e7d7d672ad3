# make serve [SCENE=path/to/scene.tif] [PORT=8000]   set everything up and serve
# make test                                          set everything up and run all checks but the slow tests
# make test-slow                                     run the slow ones, half an hour
# make test-cluster                                  run those with a Ray cluster, six minutes
# make test-newest                                   the same with the newest versions of all packages, in .venv-newest
# make test-oldest                                   the same with the oldest that pyproject.toml allows, in .venv-oldest
# make lock                                          write the versions of .venv to deploy/constraints.txt
# make wheel                                         build a wheel and try it in an empty environment
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8000
DATA_DIR ?= tilecascade-data
SCENE ?=

INSTALL ?= pip install --quiet --constraint deploy/constraints.txt
PYTEST ?= -n 2 --dist worksteal

.PHONY: serve test test-slow test-cluster test-newest test-oldest lint format lock wheel clean campaign audit sbom

$(VENV)/.serve: pyproject.toml deploy/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(INSTALL) -e .
	mkdir -p $(VENV)/src/tilecascade
	for room in app cache model; do ln -sfn $(CURDIR)/$$room $(VENV)/src/tilecascade/$$room; done
	touch $@

$(VENV)/.test: $(VENV)/.serve
	$(BIN)/$(INSTALL) -e '.[test,train,cluster]'
	touch $@

serve: $(VENV)/.serve
	$(BIN)/tilecascade serve $(SCENE) --host $(HOST) --port $(PORT) --data-dir $(DATA_DIR)

test: lint
	$(BIN)/python -m pytest -m 'not slow' $(PYTEST)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m 'slow and not cluster' $(PYTEST)

test-cluster: $(VENV)/.test
	$(BIN)/python -m pytest -m cluster

# the long form of what CI runs in a short form: an hour or two
campaign: $(VENV)/.test
	TILECASCADE_CAMPAIGN_HEALTH=1 TILECASCADE_CAMPAIGN_SOAK=100000 TILECASCADE_CAMPAIGN_REQUESTS=100000 TILECASCADE_CAMPAIGN_STEPS=2000 TILECASCADE_CAMPAIGN_KILLS=50 \
	$(BIN)/python -m pytest tests/campaign -s --timeout 7200

test-newest:
	$(MAKE) test VENV=.venv-newest INSTALL='pip install --quiet --upgrade --upgrade-strategy eager'

test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet uv
	$(MAKE) test VENV=.venv-oldest INSTALL='uv pip install --quiet --python .venv-oldest --resolution lowest-direct'

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(VENV)/src $(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.test
	(echo "# The versions that this project is tested with, Python 3.11. Made by \`make lock\`; used by make, CI and the images."; \
	$(BIN)/pip freeze --exclude-editable | grep ==) > deploy/constraints.txt
	$(BIN)/pip install --quiet --dry-run --ignore-installed --report - --constraint deploy/constraints.txt . \
	| $(BIN)/python deploy/hashes.py > deploy/requirements.lock

# programs that look at this one, in an environment of their own
.venv-tools: pyproject.toml
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/pip install --quiet pip-audit cyclonedx-bom
	touch .venv-tools

# known weaknesses of what this program needs; says so if nobody can be asked
audit: .venv-tools
	$(PYTHON) deploy/audit.py .venv-tools/bin/pip-audit

# what this program is made of, in CycloneDX
sbom: .venv-tools $(VENV)/.serve
	mkdir -p build
	.venv-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file build/sbom.cdx.json $(BIN)/python
	@echo "build/sbom.cdx.json is written"

wheel: $(VENV)/.test
	$(BIN)/python -m pytest tests/test_wheel.py

clean:
	rm -rf .venv .venv-newest .venv-oldest .venv-tools build dist *.egg-info
