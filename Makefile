# kmend: `make help` lists everything.
SHELL := /bin/bash
PY := .venv/bin/python

.PHONY: help setup setup-packaging packages demo demo-fleet test test-all test-interpreters bench-build bench-agent bench-loading bench-server bench-server-full bench-knowledge soak-levels kernels-table lint format fuzz
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## install what is needed (apt packages, virtual environment); idempotent
	@scripts/setup

setup-packaging: setup ## install what making packages needs besides
	@scripts/setup packaging

packages: setup-packaging ## the agent as deb and rpm, in dist/ (OUTPUT=DIR)
	@PYTHONPATH=src:packaging $(PY) -m packager build -o $(or $(OUTPUT),dist)

demo: setup ## build, publish and apply a real fix on a real kernel in a virtual machine
	@$(PY) -m demo

demo-fleet: setup-packaging ## a server, three real hosts and two thousand simulated ones: a good level, a bad one, a recall
	@PYTHONPATH=src:.:packaging $(PY) -m demo.fleet

test: setup-packaging lint ## unit, build and VM tests that fit in a coffee break
	@$(PY) -m pytest -n 2 --dist loadfile -m "not slow" tests

test-all: setup-packaging lint ## every test, the slow ones too
	@$(PY) -m pytest tests

test-interpreters: setup-packaging ## the agent's tests on every Python from 3.10 on that can be had (ONLY="--only 3.10")
	@PYTHONPATH=src:. $(PY) -m tests.interpreters $(ONLY)

bench-build: setup ## what building livepatches costs: CPU seconds, memory
	@$(PY) -m bench.build

bench-agent: setup ## what the agent costs a host: memory, CPU, bytes, time to apply
	@PYTHONPATH=src:. $(PY) -m bench.agent

bench-server: setup ## what a server carries: check-ins, held requests, storms, restarts, octets (PARTS="check-ins held")
	@PYTHONPATH=src:. $(PY) -m bench.server $(PARTS)

bench-server-full: setup ## the long form of bench-server
	@PYTHONPATH=src:. $(PY) -m bench.server --full $(PARTS)

bench-knowledge: setup ## check-ins while a thousand CVEs come in; questions about 10,000 hosts (PARTS="importing asking", ARGS=--trial)
	@PYTHONPATH=src:. $(PY) -m bench.knowledge $(ARGS) $(PARTS)

bench-loading: setup ## what a livepatch costs the kernel that takes it (two hours; PARTS="curve stalls hot")
	@PYTHONPATH=src:. $(PY) -m bench.loading $(PARTS)

soak-levels: setup ## successive levels on one boot: what memory, modules and files grow by with each (LEVELS=1000)
	@PYTHONPATH=src:. $(PY) -m bench.levels --levels $(or $(LEVELS),1000)

kernels-table: setup ## one fix built for every kernel that can be prepared, and loaded (half an hour, 10 GB of packages)
	@$(PY) -m bench.kernels

# The agent's part must do with Python 3.10: its grammar and library (vermin, mypy), and what it carries.
AGENT := src/kmend/core src/kmend/trust src/kmend/agent
lint: setup ## formatting, types, import rules, the oldest Python, no compiled dependencies of the agent
	@.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/lint-imports
	@.venv/bin/vermin -t=3.10- --violations --no-tips -q $(AGENT) && .venv/bin/mypy --python-version 3.10 $(AGENT)
	@$(PY) packaging/check_dependencies.py

fuzz: setup ## fuzz what reads patches, objects, vmlinux, packages, lists; MINUTES=15 each, TARGETS="patch object"
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt 'atheris>=3,<4'
	@nice -n 10 $(PY) -m tests.fuzz --minutes $(or $(MINUTES),15) $(TARGETS)

format: setup ## rewrite the formatting
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .
