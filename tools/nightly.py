"""Run the tests marked slow and write what happened to tests/nightly.json, which is committed."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def git(*words: str) -> str:
    """Return what git prints, or nothing outside a repository."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> int:
    """Run, summarise, and return pytest's exit status."""
    start = time.time()
    with tempfile.TemporaryDirectory() as tmp:
        report = Path(tmp) / "report.xml"
        options = ["-n", "2", "-v", "-m", "slow", "--durations=20", "--timeout=3600"]
        command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}"]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        cases = ElementTree.parse(report).findall(".//testcase") if report.exists() else []
    outcome: dict[str, list[str]] = {"failure": [], "error": [], "skipped": []}
    seconds: dict[str, float] = {}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        seconds[name] = round(float(case.get("time", 0)), 1)
        for kind, names in outcome.items():
            if case.find(kind) is not None:
                names.append(name)
    summary = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": git("rev-parse", "HEAD"),
        "changed files": len(git("status", "--porcelain").splitlines()),
        "minutes": round((time.time() - start) / 60, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "passed": len(cases) - sum(map(len, outcome.values())),
        "failed": outcome["failure"] + outcome["error"],
        "skipped": outcome["skipped"],
        "seconds of the slowest": dict(sorted(seconds.items(), key=lambda s: -s[1])[:20]),
    }
    (ROOT / "tests" / "nightly.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"wrote tests/nightly.json: {summary['passed']} passed, {len(summary['failed'])} failed")
    return 0 if status == 5 else status  # 5: no test is marked slow


if __name__ == "__main__":
    sys.exit(main())
