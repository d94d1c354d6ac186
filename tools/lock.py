"""Write constraints.txt: the exact version of everything that `companion[dev]` needs, as installed.

CUDA's packages are left out: torch pins its own, and a build for the CPU has none.
"""

from __future__ import annotations

import importlib.metadata as metadata
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
LEFT_OUT = re.compile(r"^(nvidia-|cuda-|triton$)")
HEADER = """\
# The one place that states exact versions.  `make lock` writes this file from the environment in
# which the tests passed; `make book`, `make test` and environment.yml install by it.
"""


def needed(root: str, extras: set[str]) -> dict[str, str]:
    """Return name -> version for what a distribution needs, extras included, all the way down."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(root, extra) for extra in ["", *extras]]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        distribution = metadata.distribution(name)
        found[name] = distribution.version.split("+")[0]
        for line in distribution.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                child = canonicalize_name(requirement.name)
                queue += [(child, e) for e in ["", *requirement.extras]]
    found.pop(root)
    return found


if __name__ == "__main__":
    versions = needed("companion", {"dev"})
    lines = [f"{n}=={v}\n" for n, v in sorted(versions.items()) if not LEFT_OUT.match(n)]
    CONSTRAINTS.write_text(HEADER + "".join(lines))
    print(f"wrote {CONSTRAINTS.name}: {len(lines)} packages")
