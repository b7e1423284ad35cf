# SPDX-License-Identifier: GPL-2.0-only
# make help tells what there is.

VM := tests/vm
KREL ?=
LANE ?= stock
export CASES KREL LANE TIMEOUT RUN CMDLINE QEMU PREFIX DESTDIR DISABLE IOCTL
export BATCHES TIME SEED SUITES GO_ON COVERAGE

.DEFAULT_GOAL := help
.PHONY: help setup module stage install vm cases demo test test-all test-raw test-mutants test-debug tally test-conformance \
	test-smbtorture coverage fuzz fuzz-host bench bench-quick clean

help:
	@cat $(VM)/help.txt

setup:
	@$(VM)/setup.sh

module:
	@$(VM)/host-packages.sh
	@$(VM)/module.sh $(if $(CLIPPY),CLIPPY=1)

stage:
	@$(VM)/host-packages.sh
	@$(VM)/stage.sh

install: stage
	@userlib/install.sh build/stage

vm:
	@$(VM)/host-packages.sh
	@$(VM)/run.sh $(SCRIPT) $(ARGS)

cases: module stage
	@$(VM)/cases.sh $(CASES)

test-raw: module stage
	@TIMEOUT=$${TIMEOUT:-$(if $(filter debug,$(LANE)),5400,1500)} $(VM)/run.sh tests/raw/run.py $(WORDS)

test-mutants: module stage
	@DISABLE=1 $(VM)/module.sh
	@TIMEOUT=$${TIMEOUT:-$(if $(filter debug,$(LANE)),3600,900)} $(VM)/run.sh tests/raw/mutants.py

demo:
	@$(VM)/demo.sh

test:
	@$(VM)/test.sh

test-all:
	@ALL=1 $(VM)/test.sh

fuzz: module stage
	@tests/fuzz/device/run.sh

test-debug:
	@$(VM)/test-debug.sh

tally:
	@$(VM)/tally.sh

coverage:
	@$(VM)/host-packages.sh
	@$(VM)/coverage.sh

fuzz-host:
	@tests/fuzz/run.sh $(or $(SECONDS),30) $(TARGETS)

test-conformance: module stage
	@TIMEOUT=$(or $(TIMEOUT),3600) $(VM)/run.sh tests/cases/conformance.py all $(WORDS)

test-smbtorture: module stage
	@TIMEOUT=$(or $(TIMEOUT),14400) $(VM)/run.sh tests/torture/run $(or $(TESTS),all)

bench:
	@tests/bench/bench.sh $(GROUPS)

bench-quick:
	@QUICK=1 tests/bench/bench.sh $(GROUPS)

clean:
	rm -rf build
