#!/usr/bin/env bash
# What a release is, checked before it is tagged and after (docs/releasing.md): `make release-check`.
#     tools/release_check.sh PYTHON     # whose packages are those of requirements.txt: .venv/bin/python
# The tree is clean; __version__, CHANGELOG.md and the tag agree; the sdist that is built of the commit makes a wheel, and the
# wheel trains the tiny example from an environment that has nothing else of this folder. Both are left in dist/.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
unset PYTHONPATH

die() { echo "release-check: $*" >&2; exit 1; }

changed=$(git status --porcelain)
test -z "$changed" || die "the tree is not clean; commit or remove: $(head -1 <<< "$changed")"
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' aspo_megatron/__init__.py)
newest=$(sed -n 's/^## //p' CHANGELOG.md | head -1)
[[ $newest =~ ^\[$version\]\ -\ [0-9]{4}-[0-9]{2}-[0-9]{2}$ ]] ||
    die "CHANGELOG.md begins with '$newest', aspo_megatron/__init__.py says $version: write '## [$version] - YYYY-MM-DD'"
tagged=$(git rev-parse --verify --quiet "v$version^{commit}" || true)
test -z "$tagged" || test "$tagged" = "$(git rev-parse HEAD)" ||
    die "the tag v$version is at another commit, ${tagged:0:7}: raise __version__, or move the tag if nobody has it yet"

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
mkdir "$work/source" "$work/built"
git archive HEAD | tar -x -C "$work/source"
build() { (cd "$1" && "$python" -c "from setuptools import build_meta; build_meta.build_$2('$work/built')") > "$work/log" 2>&1 ||
    { cat "$work/log" >&2; die "the $2 cannot be built"; }; }
build "$work/source" sdist
tar -xzf "$work"/built/*.tar.gz -C "$work"
build "$work"/aspo_megatron-"$version" wheel

"$python" -m venv "$work/environment"
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$(echo "$work"/environment/lib/python*/site-packages)/tested.pth"
"$work/environment/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --no-index "$work"/built/*.whl
cd "$work"
told=$(environment/bin/python -c 'import aspo_megatron as a; print(a.__file__, a.__version__)')
[[ $told == "$work"/environment/*" $version" ]] || die "another package than the built one was imported: $told"
ln -s source/examples examples  # not beside the source, which ranks would import
environment/bin/aspo train examples/tiny/run.yaml output_dir="$work/tiny" train.steps=2 warmup.updates=5 > log 2>&1 ||
    { cat log >&2; die "the wheel cannot train the tiny example"; }
mkdir -p "$root/dist"
cp built/* "$root/dist/"
echo "release-check: $version is whole; dist/ has" built/*
test -n "$tagged" || echo "release-check: not tagged yet: git tag --annotate v$version --message 'aspo-megatron $version'"
