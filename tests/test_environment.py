"""The files that describe the environment agree with one another and with what is installed."""

from __future__ import annotations

import ast
import importlib.metadata as metadata
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [s for s in (ROOT / "constraints.txt").read_text().splitlines() if not s.startswith("#")]
PINS = dict(line.split("==") for line in LINES)
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(r) for r in [*PROJECT["dependencies"], *chain(*EXTRAS.values())]]
DIRECT = [r for r in REQUIREMENTS if canonicalize_name(r.name) != PROJECT["name"]]


def test_constraints_are_exact_sorted_and_for_any_machine():
    names = [line.split("==")[0] for line in LINES]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.!]+", line) for line in LINES)
    assert names == sorted(set(names))
    assert not [n for n in names if n.startswith(("nvidia-", "cuda-"))], "a CPU build has none"


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
def test_every_dependency_has_a_pin_within_its_range(requirement):
    name = canonicalize_name(requirement.name)
    assert name in PINS, "run `make lock` in an environment where the tests pass"
    assert requirement.specifier.contains(PINS[name], prereleases=True)


def test_installed_versions_are_the_pinned_ones():
    config = (Path(sys.prefix) / "pyvenv.cfg").read_text()
    lent = "include-system-site-packages = true" in config
    borrowed = {"torch", "torchvision"} if lent else set()
    differ = {
        name: (version, pin)
        for name, pin in PINS.items()
        if name not in borrowed
        and (version := metadata.version(name).split("+")[0]) != pin.split("+")[0]
    }
    assert not differ, f"installed, pinned: {differ}; `tools/env.sh` installs what is pinned"


def test_conda_and_binder_get_the_same_environment():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    (python,) = [d.removeprefix("python=") for d in plain if d.startswith("python=")]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.0")
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in ("3.11", "3.12")


def test_everything_imported_is_a_declared_dependency():
    providers = metadata.packages_distributions()
    own = {"companion", "tools", "tests", "conftest"}
    missing: dict[str, str] = {}
    for folder in ("companion", "tests", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    modules = [node.module]
                for top in {m.split(".")[0] for m in modules} - own - sys.stdlib_module_names:
                    names = {canonicalize_name(d) for d in providers.get(top, [])}
                    if not names & PINS.keys():
                        missing[top] = path.relative_to(ROOT).as_posix()
    assert not missing, "add to pyproject.toml, then `make lock`"


def test_importing_the_package_is_light():
    heavy = ["compressai", "diffusers", "matplotlib", "skimage", "torchvision", "torch_geometric"]
    code = (
        "import sys, companion, companion.viz, companion.widgets\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_page_scripts_are_the_ones_that_were_checked():
    from tools.vendor import VENDOR, sums

    assert (VENDOR / "SHA256SUMS").read_text() == sums()
