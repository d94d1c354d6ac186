#!/usr/bin/env bash
# Make .venv and install the package with all that the book and its tests need, at the versions of
# constraints.txt.  PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

# A torch and torchvision that work together and are in range: then no other needs downloading.
has_torch() {
    "$1" - 2>/dev/null <<'PY'
import torch, torchvision
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # missing where the two do not match
version = lambda m: tuple(int(p) for p in m.__version__.split("+")[0].split(".")[:2])
raise SystemExit(not ((2, 13) <= version(torch) < (3, 0) and (0, 28) <= version(torchvision) < (1, 0)))
PY
}

if ! suits .venv/bin/python; then
    chosen=
    for python in ${PYTHON:-} python3.11 python3.12 python3; do
        if suits "$python"; then chosen=$python && break; fi
    done
    if [ -z "$chosen" ]; then
        echo "No Python 3.11 or 3.12 was found. Install one, or name it: make PYTHON=/path/to/python3.11" >&2
        exit 1
    fi
    options=()
    if has_torch "$chosen"; then
        echo "Using the torch and torchvision that $chosen already has."
        options=(--system-site-packages)
    fi
    echo "Making .venv with $("$chosen" --version)."
    if ! "$chosen" -m venv --clear "${options[@]}" .venv; then
        echo "$chosen cannot make virtual environments: install its venv package (Debian: $chosen-venv)." >&2
        exit 1
    fi
fi

constraints=constraints.txt
if grep -q '^include-system-site-packages = true' .venv/pyvenv.cfg; then
    constraints=.venv/constraints.txt
    grep -vE '^(torch|torchvision)==' constraints.txt >"$constraints"
fi
.venv/bin/python -m pip install -c "$constraints" -e '.[dev]'
.venv/bin/python -c 'import compressai' # the import that a mismatched torchvision breaks
