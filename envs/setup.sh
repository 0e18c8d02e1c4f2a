#!/usr/bin/env bash
# Makes the virtual environment $1 with everything that `make study` and `make test` need (about 2.5 GB, two minutes).
set -euo pipefail
venv=$1
python=${PYTHON:-python3}

missing=()
command -v git >/dev/null || missing+=("git")
command -v make >/dev/null || missing+=("make")
command -v c++ >/dev/null || command -v g++ >/dev/null || missing+=("a C++ compiler (Debian: g++)")
if command -v "$python" >/dev/null; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || missing+=("Python 3.11 or newer ($python is older; PYTHON=... names another)")
    "$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=("Python's venv module (Debian: python3-venv)")
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        missing+=("Python's headers (Debian: python3-dev)")
else
    missing+=("Python 3.11 or newer ($python was not found; PYTHON=... names another)")
fi
if ((${#missing[@]})); then
    printf 'dataeff: error: missing on this machine:\n' >&2
    printf '  - %s\n' "${missing[@]}" >&2
    exit 1
fi

# A machine without an NVIDIA GPU takes the CPU build of torch where that index can be reached: the registry's
# default build brings several GB of CUDA libraries.
torch_index=()
if ! command -v nvidia-smi >/dev/null &&
    "$python" -c 'import urllib.request as r; r.urlopen("https://download.pytorch.org/whl/cpu/torch/", timeout=5)' 2>/dev/null; then
    torch_index=(--index-url https://download.pytorch.org/whl/cpu)
fi

echo "Setting up $venv: torch, deepspeed, snakemake, lm-eval (about two minutes)"
"$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
# torch first: packages installed after it then find it there and bring no other build of it.
"${pip[@]}" install "${torch_index[@]}" torch==2.13.0
"${pip[@]}" install -c envs/constraints.txt setuptools wheel ninja packaging numpy
# deepspeed's set-up imports torch, which an isolated build would not see.
"${pip[@]}" install -c envs/constraints.txt --no-build-isolation -e '.[study,dev]'

# DeepSpeed compiles its CPU communication on first use; better now, once, than in the first training job.
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/python" -m dataeff.pretrain.compile
