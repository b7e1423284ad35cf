# SPDX-License-Identifier: GPL-2.0-only
# make help tells what there is.

VM := tests/vm
KREL ?=
LANE ?= stock
export CASES KREL LANE TIMEOUT RUN CMDLINE QEMU

.DEFAULT_GOAL := help
.PHONY: help setup module stage vm cases demo test fuzz-host bench-smb clean

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

vm:
	@$(VM)/host-packages.sh
	@$(VM)/run.sh $(SCRIPT) $(ARGS)

cases: module stage
	@$(VM)/cases.sh $(CASES)

demo:
	@$(VM)/demo.sh

test:
	@$(VM)/test.sh

fuzz-host:
	@tests/fuzz/run.sh $(or $(SECONDS),30) $(TARGETS)

bench-smb: module stage
	@$(VM)/run.sh tests/bench/smb $(ROUNDS)

clean:
	rm -rf build
