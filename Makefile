# make serve [SCENE=path/to/scene.tif] [PORT=8000]   set everything up and serve
# make test                                          set everything up and run all checks
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8000
DATA_DIR ?= tilecascade-data
SCENE ?=

.PHONY: serve test lint format check clean

$(VENV)/.serve: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.test: $(VENV)/.serve
	$(BIN)/pip install --quiet -e '.[test]'
	touch $@

serve: $(VENV)/.serve
	$(BIN)/tilecascade serve $(SCENE) --host $(HOST) --port $(PORT) --data-dir $(DATA_DIR)

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info
