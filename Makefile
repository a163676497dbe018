# Everything starts here. On a fresh Debian or Ubuntu with root: `make demo`, `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What an engine needs on its host, and what the tests need besides.
HOST_PACKAGES := python3 python3-venv busybox-static libnftables1 iproute2 procps tini
TEST_PACKAGES := $(HOST_PACKAGES) python3-dev gcc btrfs-progs libbtrfsutil-dev nftables runc crun runsc criu libseccomp2 openssl \
	mmdebstrap skopeo curl socat util-linux mount e2fsprogs iptables

.PHONY: help demo test test-vm setup setup-host lint unit conformance engine compat faults abuse thirdparty bench-start bench-launch bench-runtime bench-storage bench-network bench-unpack clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: setup-host $(VENV)/.installed ## set up, start an engine in a directory of its own, run a container, stop
	@$(BIN)/python tools/demo.py

test: setup lint ## set up and run all tests
	$(BIN)/pytest -q -n 3 --dist loadfile tests

ON_CGROUP2 := '(limit or memory or stats or update or pause or kill or cgroup or devices or delete) and not user_namespace'

test-vm: $(VENV)/.developed ## what needs another kernel, in an emulated VM (downloads QEMU and Debian's kernel)
	VM_PACKAGES=xfsprogs tests/vm/boot $(BIN)/pytest -q --noconftest -p no:cacheprovider --timeout 600 --durations 0 tests/vm/storage.py
	tests/vm/boot $(BIN)/pytest -q --noconftest -p no:cacheprovider --timeout 600 tests/conformance/test_network_macvlan.py -k 'vlan_is_made or forgotten or renamed'
	tests/vm/boot $(BIN)/pytest -q --noconftest -p no:cacheprovider --timeout 600 tests/conformance/test_network_vxlan.py -k 'two_machines or takes_nothing or frame or moves'
	VM_PACKAGES=criu tests/vm/boot $(BIN)/pytest -q --noconftest -p no:cacheprovider --timeout 600 tests/vm/cgroup2.py tests/conformance/test_cgroups.py
	tests/vm/boot $(BIN)/pytest -q --noconftest -p no:cacheprovider --timeout 600 tests/conformance/test_runtime_native.py -k $(ON_CGROUP2)
	tests/vm/boot $(BIN)/python tests/vm/overlay_stacks.py
	tests/vm/boot $(BIN)/python tests/vm/detached_unpack.py

setup: ## install all that developing and testing needs
	@tools/install-packages $(TEST_PACKAGES)
	@command -v docker >/dev/null && command -v dockerd >/dev/null || tools/install-packages docker.io
	@$(MAKE) --no-print-directory $(VENV)/.developed

setup-host:
	@tools/install-packages $(HOST_PACKAGES)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sampan needs Python 3.11 or newer: set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[fast]'
	@touch $@

$(VENV)/.developed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[fast,btrfs]' --group dev
	@touch $@ $(VENV)/.installed

lint: $(VENV)/.developed ## ruff, mypy --strict, and the walls
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit conformance engine compat faults abuse thirdparty: $(VENV)/.developed ## one kind of tests (set up first)
	$(BIN)/pytest -q tests/$@

bench-start: $(VENV)/.developed ## `docker run` beside dockerd, in one run (needs docker.io)
	$(BIN)/python tools/bench_start.py

bench-launch: $(VENV)/.developed ## what zygote, shim and client add; memory of idle shims
	$(BIN)/python tools/bench_launch.py

bench-runtime: $(VENV)/.developed ## the native runtime beside runc and crun
	$(BIN)/python tools/bench_runtime.py

bench-storage: $(VENV)/.developed ## storage drivers beside each other, tar and dockerd: table, JSON, SVG (needs docker.io)
	$(BIN)/python tools/bench_storage.py

bench-network: $(VENV)/.developed ## networks beside dockerd: starts, ports, streams, names: table, JSON, SVG (needs docker.io)
	@command -v iperf3 >/dev/null || tools/install-packages iperf3
	$(BIN)/python tools/bench_network.py

bench-unpack: $(VENV)/.developed ## unpacking layers beside tar
	$(BIN)/python tools/bench_unpack.py

clean: ## remove what the tools made here
	rm -rf $(VENV) .cache .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
