# `make` prints the targets. Everything runs in .venv, inside the checkout.

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
# The first Python of a fitting version; PYTHON=/path/to/python overrules.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c 'import sys; \
	print("$(p)" if (3,11) <= sys.version_info[:2] < (3,14) else "")' 2>/dev/null)))
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# A process for each core. Compiled files are kept: every command that a test starts reads them.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-slow check bench audit-table audit-updates table1 frontier coverage picture lock results schema docs clean

help: ## print this list
	@grep -E '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv with everything in it (the other targets do this by themselves)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found"; \
		echo "hint: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@start=$$(date +%s); set -e; \
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	$(PIP) "$$(grep '^torch==' constraints.txt)"; \
	$(PIP) --editable '.[dev]'; \
	touch $(READY); \
	echo "set-up took $$(( $$(date +%s) - start )) s"

demo: $(READY) ## run the whole job on embedded images: runs/demo/report.html
	@$(BIN)/cipherward-coordinator simulate configs/demo.yaml

test: $(READY) ## run the fast tests
	@$(PYTEST)

test-long: $(READY) ## run the tests of several seconds, and the small study
	@$(PYTEST) -m long

test-slow: $(READY) ## run all tests, the slow ones too; those on real images need CIPHERWARD_DATA
	@$(PYTEST) -m ''

check: $(READY) ## lint, format, types, and the trust boundary
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY) ## sealing beside copying and decoding, federating beside training; with CIPHERWARD_DATA, key recovery
	@$(BIN)/python -m benchmarks.schemes
	@$(BIN)/python -m benchmarks.sealing
	@$(BIN)/python -m benchmarks.federation
	@if [ -n "$$CIPHERWARD_DATA" ]; then \
		$(BIN)/python -m benchmarks.key_recovery --images "$$CIPHERWARD_DATA/brain_mri/train"; \
		$(BIN)/python -m benchmarks.pool_size --images "$$CIPHERWARD_DATA/brain_mri"; \
	else echo "key recovery: set CIPHERWARD_DATA to a folder that holds brain_mri/"; fi

audit-table: $(READY) ## the smallest pool that breaks each scheme, on real images: CIPHERWARD_DATA, two hours at most
	@if [ -n "$$CIPHERWARD_DATA" ]; then \
		$(BIN)/python -m benchmarks.audit_table --jobs 2 --hours 2 --json runs/audit_table/table.json; \
	else echo "the audit table: set CIPHERWARD_DATA to a folder that holds brain_mri/ and cifar10_jpeg.npz"; fi

audit-updates: $(READY) ## what updates give away under each protection, on real images: CIPHERWARD_DATA, an hour; goes on where it stopped
	@if [ -n "$$CIPHERWARD_DATA" ]; then \
		$(BIN)/python -m benchmarks.protection; \
	else echo "updates: set CIPHERWARD_DATA to a folder that holds brain_mri/, pneumoniamnist.npz and vit_tiny_patch16_224.safetensors"; fi

table1: $(READY) ## schemes × networks × data, both protocols for CPUs: CIPHERWARD_DATA, HOURS=8 at most for each; goes on where it stopped
	@if [ -n "$$CIPHERWARD_DATA" ]; then \
		for protocol in cpu pretrained; do \
			$(BIN)/python -m benchmarks.table1 --protocol configs/table1/$$protocol.yaml --hours $(or $(HOURS),8) \
				--json runs/table1/$$protocol.json || exit; \
		done; \
	else echo "table 1: set CIPHERWARD_DATA to a folder that holds pneumoniamnist.npz, cifar10_jpeg.npz, brain_mri/ and vit_tiny_patch16_224.safetensors"; fi

frontier: $(READY) ## docs/frontier.png: accuracy against the sealed images that break a choice, from docs/results/*.json
	@$(BIN)/python -m benchmarks.frontier

coverage: $(READY) ## which lines the fast tests run, by package
	@$(BIN)/coverage erase
	@$(PYTEST) --cov --cov-report=
	@for package in crypto coordinator parties; do \
		echo "$$package: $$($(BIN)/coverage report --include="$$package/*" | tail -1)"; done

picture: $(READY) ## docs/report.png from the demo's report, by headless Chromium
	@test -f runs/demo/report.html || { echo "error: no report of the demo"; echo "hint: make demo"; exit 1; }
	@chromium=$$(command -v chromium || command -v chromium-browser || command -v google-chrome) || \
		{ echo "error: no Chromium found"; echo "hint: install it, on Debian: apt-get install chromium"; exit 1; }; \
	$$chromium --headless --no-sandbox --hide-scrollbars --window-size=1000,1180 --screenshot=docs/report.png \
		"file://$(CURDIR)/runs/demo/report.html" 2>/dev/null && echo docs/report.png

results: $(READY) ## write docs/results.md, its pages, the README table and what reports cite from docs/results/*.json
	@$(BIN)/python -m benchmarks.results

docs: $(READY) ## build/site from docs/ and the other documents, warnings are errors; NOTEBOOK=off does not run the notebook
	@$(BIN)/python -m benchmarks.reference >/dev/null
	@NOTEBOOK=$(or $(NOTEBOOK),force) $(BIN)/python -m sphinx -q -W --keep-going -E -c docs -b html . build/site && echo build/site/docs/index.html

schema: $(READY) ## write the JSON Schemas of report.json and scores.json into docs/schema
	@$(BIN)/python -m coordinator.report.json_schema docs/schema

lock: $(READY) ## write constraints.txt from what is installed in .venv
	@{ echo "# What was tested together. make lock writes this file."; \
	$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' | sed -E 's/\+[a-z0-9.]+$$//'; } > constraints.new
	@mv constraints.new constraints.txt && touch $(READY)

clean: ## remove .venv and the demo's folder
	rm -rf $(VENV) runs/demo
