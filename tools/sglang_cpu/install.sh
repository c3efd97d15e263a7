#!/usr/bin/env bash
# Installs the SGLang server for machines without a GPU (x86 with AVX2) into a virtual environment of its own:
#     tools/sglang_cpu/install.sh .venv-sglang [PYTHON]
# `pip install sglang` would bring gigabytes of CUDA and then fail to import. SGLang itself is installed unchanged, with
# the dependencies that its CPU path needs, and two shims for names that it imports and never calls.
set -euo pipefail
venv=$1
python=${2:-python3.11}
here=$(cd "$(dirname "$0")" && pwd)
test -x "$venv/bin/python" || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet --no-compile torch==2.13.0
pip install --quiet --no-compile -r "$here/requirements.txt"
pip install --quiet --no-compile --no-deps sglang==0.5.23 torchvision==0.28.0 sglang-router==0.3.2
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
cp -r "$here/shims/." "$packages/"
echo 'import aspo_torchvision_shim' > "$packages/aspo_torchvision_shim.pth"
SGLANG_USE_CPU_ENGINE=1 "$venv/bin/python" -W ignore -c 'import sglang.srt.server_args; print("SGLang is ready")'
touch "$venv/.installed"
