#!/usr/bin/env bash
# The steps of the container recipes. They need no container: this does on a plain machine what Dockerfile.cpu does.
#     docker/install.sh system compilers                             # as root: packages of Debian or Ubuntu
#     docker/install.sh --python python3.11 --into FOLDER venv torch-cpu requirements project doctor
# FOLDER (/opt/aspo) gets .venv, and by the step sglang or sglang-cpu also .venv-sglang. Steps come in the order of the
# Dockerfiles. TORCH_INDEX is another index for the torch of torch-cpu, empty for pip's own; MAX_JOBS how many compilers
# work at once. Versions are those of requirements.txt, and of docker/versions.env for what that does not name.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=docker/versions.env
source "$root/docker/versions.env"
into=/opt/aspo
python=python3

extras=datasets,wandb,quantize,code
# What the project's wheel is made of.
sources=(pyproject.toml MANIFEST.in README.md LICENSE aspo_megatron slurm examples)

pip() { "$into/.venv/bin/python" -m pip --disable-pip-version-check --no-cache-dir "$@"; }
apt() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet
    apt-get install --quiet --yes --no-install-recommends "$@"
    rm -rf /var/lib/apt/lists/*
}

step_system() { # what runs need
    apt ca-certificates python3 tini
}

step_compilers() { # what the other steps need besides: some packages are built
    apt build-essential ca-certificates git python3-dev python3-venv
}

step_venv() {
    "$python" -m venv "$into/.venv"
}

# torch comes first and by itself, so that nothing else chooses another build of it.
step_torch-cpu() {
    local index=${TORCH_INDEX-$CPU_TORCH_INDEX} # empty: pip's own, where that has a build without CUDA
    if [ -n "$index" ]; then pip install --quiet --no-deps --index-url "$index" "$(pinned torch)"; fi
    pip install --quiet "$(pinned torch)"
    "$into/.venv/bin/python" -W ignore -c 'import sys, torch; sys.exit(torch.version.cuda and "this is a torch with CUDA: set TORCH_INDEX")'
}

step_torch() {
    pip install --quiet "$(pinned torch)"
    "$into/.venv/bin/python" -W ignore - "$TORCH_CUDA" <<'END'
import sys, torch
if torch.version.cuda != sys.argv[1]:
    sys.exit(f"torch is built with CUDA {torch.version.cuda}, and docker/versions.env says TORCH_CUDA={sys.argv[1]}")
END
}

pinned() { grep "^$1==" "$root/requirements.txt"; }

step_requirements() { # what pyproject.toml asks for, at the versions of requirements.txt; no tools of its developers
    local asked
    asked=$(mktemp)
    "$into/.venv/bin/python" - "$root/pyproject.toml" "$extras" > "$asked" <<'END'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
print("\n".join(project["dependencies"]))
for name in sys.argv[2].split(","):
    print("\n".join(project["optional-dependencies"][name]))
END
    pip install --quiet --constraint "$root/requirements.txt" --requirement "$asked"
    rm "$asked"
}

step_project() { # as a wheel, built of a copy: a build leaves its own files beside the sources
    local work
    work=$(mktemp -d)
    (cd "$root" && cp --archive "${sources[@]}" "$work")
    pip wheel --quiet --no-deps --wheel-dir "$work/wheel" "$work"
    pip install --quiet --no-deps "$work"/wheel/*.whl
    rm -r "$work"
    pip check
}

step_transformer-engine() { # compiled against this torch, with the image's CUDA
    NVTE_FRAMEWORK=pytorch NVTE_PYTORCH_FORCE_BUILD=TRUE MAX_JOBS=${MAX_JOBS:-8} \
        pip install --quiet --no-build-isolation --constraint "$root/requirements.txt" \
        "transformer_engine[core_cu13,pytorch]==$TRANSFORMER_ENGINE"
}

step_apex() { # without its contrib modules, and so without their submodules
    local work
    work=$(mktemp -d)
    git init --quiet "$work"
    git -C "$work" fetch --quiet --depth 1 "$APEX_SOURCE" "$APEX_COMMIT"
    git -C "$work" checkout --quiet FETCH_HEAD
    APEX_CPP_EXT=1 APEX_CUDA_EXT=1 APEX_PARALLEL_BUILD=${MAX_JOBS:-8} TORCH_CUDA_ARCH_LIST=$CUDA_ARCHITECTURES \
        pip install --quiet --no-build-isolation --no-deps "$work"
    rm -rf "$work"
}

step_build-tools() { # of Transformer Engine and Apex, which are built without an environment of their own
    pip install --quiet --constraint "$root/requirements.txt" 'setuptools>=77' wheel ninja packaging
}

step_sglang() {
    "$python" -m venv "$into/.venv-sglang"
    "$into/.venv-sglang/bin/python" -m pip --disable-pip-version-check --no-cache-dir install --quiet "sglang==$SGLANG"
}

step_sglang-cpu() { # of two builds of one version pip takes that with the longer name, here +cpu
    PIP_NO_CACHE_DIR=1 PIP_EXTRA_INDEX_URL=${TORCH_INDEX-$CPU_TORCH_INDEX} \
        "$root/tools/sglang_cpu/install.sh" "$into/.venv-sglang" "$python"
}

step_nccl() { # the servers' NCCL, which is that of a newer torch: weights go to them by NCCL between equal versions only
    local version
    version=$("$into/.venv-sglang/bin/python" -c 'import torch.cuda.nccl as n; print(*n.version(), sep=".")')
    pip install --quiet --no-deps "nvidia-nccl-cu13==$version"
}

step_doctor() { # in the current folder, as a run would
    local servers=$into/.venv-sglang/bin/python words=()
    if [ -x "$servers" ]; then words=("rollout.servers.python=$servers"); fi
    "$into/.venv/bin/aspo" doctor "${words[@]}"
}

usage() { sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; }

if [ "${1:-}" = --help ]; then usage && exit; fi
if [ "${1:-}" = --python ]; then python=$2 && shift 2; fi
if [ "${1:-}" = --into ]; then into=$2 && shift 2; fi
if [ $# = 0 ]; then usage >&2 && exit 2; fi
for step; do
    if ! declare -F "step_$step" > /dev/null; then
        echo "docker/install.sh: no step $step; there are: $(declare -F | sed -n 's/^declare -f step_//p' | xargs)" >&2
        exit 2
    fi
done
for step; do
    echo "docker/install.sh: $step"
    "step_$step"
done
