"""Fetch the page scripts of the book (mathematics, widgets) into book/_vendor, checked by sha256.

Run by hand, `make vendor`, when a version changes; the files are committed, so that building and
reading the book need no network.  They are not in `_static`, because Jupyter Book puts every
script of `_static` on every page.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).parents[1] / "book" / "_vendor"

# npm package, sha256 of its tarball, folder, {file or folder in the package: name in the folder}
PACKAGES = [
    (
        "mathjax@3.2.2",
        "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
        "mathjax",
        {
            "es5/tex-chtml-full.js": "tex-chtml-full.js",  # all of TeX in one file …
            "es5/output/chtml/fonts/woff-v2": "output/chtml/fonts/woff-v2",  # … and its fonts
            "LICENSE": "LICENSE",
        },
    ),
    (
        "@jupyter-widgets/html-manager@1.0.15",
        "2b9d65cb7913e1c7d671757a10008b32c9c2448d4429513371e55c07d6107638",
        "widgets",
        {
            "dist/embed-amd.js": "embed-amd.js",
            "dist/1551f4f60c37af51121f.woff2": "1551f4f60c37af51121f.woff2",  # its icons
            "dist/embed.js.LICENSE.txt": "LICENSE-bundled",
        },
    ),
    (
        "requirejs@2.3.8",
        "777158e89275e16bd51aec3ef714fbcb5dc45789e7078659933bc814916d7dec",
        "requirejs",
        {"require.js": "require.js"},
    ),
]


def sums() -> str:
    """Return a line "sha256  path" for every vendored file."""
    files = sorted(p for p in VENDOR.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    return "".join(
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(VENDOR).as_posix()}\n"
        for p in files
    )


def fetch(package: str, sha256: str, folder: Path, wanted: dict[str, str]) -> None:
    """Download one npm package and copy what is wanted of it."""
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run(["npm", "pack", "--silent", package], cwd=tmp, check=True)
        (tarball,) = Path(tmp).glob("*.tgz")
        found = hashlib.sha256(tarball.read_bytes()).hexdigest()
        if found != sha256:
            raise SystemExit(f"{package} has sha256 {found}, not {sha256}: not unpacked.")
        with tarfile.open(tarball) as tar:
            tar.extractall(tmp, filter="data")
        for source, name in wanted.items():
            path, target = Path(tmp) / "package" / source, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, target)
    print(f"{package}: sha256 as expected")


if __name__ == "__main__":
    for package, sha256, folder, wanted in PACKAGES:
        fetch(package, sha256, VENDOR / folder, wanted)
    (VENDOR / "SHA256SUMS").write_text(sums())
    size = sum(p.stat().st_size for p in VENDOR.rglob("*") if p.is_file())
    print(f"{VENDOR}: {size / 1e6:.1f} MB")
