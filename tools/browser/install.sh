#!/usr/bin/env bash
# Brings a headless Chromium into a folder, without root, for the tests that look at pages:
#     tools/browser/install.sh .venv-browser [PYTHON]
# Nothing is fetched where a browser is on the PATH already. Else it is the one of the npm package @sparticuz/chromium,
# which brings the libraries and a font that it needs (x86-64 Linux); the checksum is pinned.
set -euo pipefail
venv=$1
python=${2:-python3.11}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$venv"
if found=$(command -v chromium chromium-browser google-chrome chrome-headless-shell | head -n 1); then
    echo "the tests use $found"
else
    test -x "$venv/bin/python" || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet brotli==1.2.0
    "$venv/bin/python" "$here/unpack.py" "$venv"
fi
touch "$venv/.installed"
