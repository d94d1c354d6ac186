"""Write the page of the photographs: whose they are, and on what terms, from `CREDITS.csv`."""

from __future__ import annotations

import csv
from pathlib import Path

CREDITS = Path("companion", "data", "photos", "CREDITS.csv")


def credits_table(root: Path) -> str:
    """Return a row for every photograph: its name, author, licence, and where it is from."""
    with (root / CREDITS).open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["name"].lower())
    lines = ["| photograph | author | licence | source |", "|---|---|---|---|"]
    for row in rows:
        source = row["source"]
        told = f"[link](<{source}>)" if source.startswith("http") else plain(source)
        author, licence = plain(row["author"]), plain(row["licence"])
        lines.append(f"| `{row['name']}` | {author} | {licence} | {told} |")
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Return text that Markdown takes as it is."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|$~" else c for c in text)
