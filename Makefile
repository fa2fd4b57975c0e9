# Everything sets itself up: a Python is all that is needed. The environment is made once, in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint docs clean

demo: $(READY)  ## the main job on synthetic livers, into demo_output/ (WEIGHTS=path for ImageNet weights)
	$(BIN)/python examples/quickstart.py $(if $(WEIGHTS),--weights $(WEIGHTS))

test: $(READY)  ## the whole test suite, on up to four cores
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY)  ## the documentation, into docs/_build/html
	$(BIN)/pip install -q -e ".[docs]"
	$(BIN)/python docs/make_figures.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e ".[test]"
	$(BIN)/pip install -q --no-deps labelImg==1.8.6  # its annotation reader is compared with; its window would need PyQt5
	touch $(READY)

clean:
	rm -rf .venv docs/_build docs/figures .pytest_cache .mypy_cache .ruff_cache .hypothesis
