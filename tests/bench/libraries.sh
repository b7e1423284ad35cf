#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# libraries.sh FOLDER: put there what the plots are drawn with: not for the machine, and of the versions
# that analyse/requirements.txt says.
set -eu

python3 -m pip --version >/dev/null || { echo "please install pip (python3-pip)" >&2; exit 1; }
python3 -m pip install --quiet --no-deps --target "$1" -r "$(dirname "$0")/analyse/requirements.txt"
