#!/usr/bin/env bash
# Tries this checkout with other versions than those of requirements.txt, in an environment of their own:
#     tools/try_versions.sh newest .venv-newest [PYTHON]     # the newest of everything that pyproject.toml allows
#     tools/try_versions.sh oldest .venv-oldest [PYTHON]     # each lower bound that pyproject.toml names
# The layouts' matrix, checkpoints and the tiny run. The environment is brought up to date when it is there already.
set -euo pipefail
ages=${1:-} venv=${2:-} python=${3:-}
cd "$(dirname "$0")/.."

die() { echo "test-$ages: $*" >&2; exit 1; }
if [[ $ages != newest && $ages != oldest || -z $venv ]]; then
    echo "usage: tools/try_versions.sh newest|oldest FOLDER [PYTHON]" >&2
    exit 2
fi
runs() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

candidates=${python:-$([ "$ages" = newest ] && echo python3.12 python3.11 || echo python3.11)}
python=
for each in $candidates; do
    if runs "$each"; then python=$each && break; fi
done
test -n "$python" || die "no Python 3.11 or later by the name of ${candidates// / or }; name one: make test-$ages PYTHON=/path/to/python3"

number() { "$1" -c 'import platform; print(platform.python_version())'; }
if [ -x "$venv/bin/python" ] && [ "$(number "$venv/bin/python")" != "$(number "$python")" ]; then rm -r "$venv"; fi
test -x "$venv/bin/python" || "$python" -m venv "$venv"
echo "test-$ages: $python is Python $(number "$python"); installing in $venv (torch with CUDA is several GB)"
"$venv/bin/python" - "$ages" > "$venv/bounds.txt" <<'END'
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    asked = [text.split(">=") for text in tomllib.load(file)["project"]["dependencies"]]
if sys.argv[1] == "oldest":
    print("\n".join("==".join(each) for each in asked if len(each) == 2))
END
"$venv/bin/python" -m pip --disable-pip-version-check install --quiet --upgrade --upgrade-strategy eager \
    --constraint "$venv/bounds.txt" --editable . pytest pytest-timeout || die "FAILED to install"

versions=$("$venv/bin/python" -c '
from aspo_megatron.versions import NAMES, installed
print(", ".join(f"{name} {installed(name)}" for name in NAMES))')
echo "test-$ages: $versions"
export OMP_NUM_THREADS=1
"$venv/bin/python" -m pytest -q -p no:cacheprovider tests/parallel tests/checkpoint \
    tests/rollout/test_embedded_weights.py tests/rollout/test_decode_cache.py || die "FAILED in the tests: $versions"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
"$venv/bin/aspo" train examples/tiny/run.yaml output_dir="$work/tiny" || die "FAILED in the tiny run: $versions"
echo  # libraries may leave their last line open
echo "test-$ages: the tests and the tiny run passed with $versions"
