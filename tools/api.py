"""Write the reference page of `companion` from its source, as Markdown.

It reads the source (nothing is imported), so new modules appear by themselves and a docstring's
free-hand markup cannot break the build.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

MARKUP = r"(``.+?``|`[^`]+`|\*\*\w[^*\n]*\*\*|\*\w[^*\n]*\*)"  # what docstrings may use
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def api_page(root: Path) -> str:
    """Return a section for every public module of the package that has a docstring."""
    return "\n".join(module_section(p, root) for p in sorted((root / "companion").rglob("*.py")))


def module_section(path: Path, root: Path) -> str:
    """Return a module's docstring and its public functions and classes."""
    name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    tree = ast.parse(path.read_text())
    doc = ast.get_docstring(tree)
    if not doc or any(part.startswith("_") for part in name.split(".")):
        return ""
    lines = [f"(api-{name.replace('.', '-')})=", f"## `{name}`", "", prose(doc), ""]
    for node in tree.body:
        if isinstance(node, Definition) and public(node):
            lines += [f"### `{node.name}`", "", entry(node)]
            if isinstance(node, ast.ClassDef):
                methods = [m for m in node.body if isinstance(m, ast.FunctionDef) and public(m)]
                lines += [f"**`{node.name}.{m.name}`**\n\n{entry(m)}" for m in methods]
    return "\n".join(lines) + "\n"


def public(node: Definition) -> bool:
    """Say whether a definition is for users: a public name, and something said about it."""
    return not node.name.startswith("_") and bool(ast.get_docstring(node))


def entry(node: Definition) -> str:
    """Return a definition's signature as code, and its docstring."""
    return f"```python\n{signature(node)}\n```\n\n{prose(ast.get_docstring(node) or '')}\n"


def signature(node: Definition) -> str:
    """Return `def f(…) -> …`, or `class C(…)` with its fields, a parameter a line if it is long."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(b) for b in node.bases)
        fields = [f"    {ast.unparse(f)}" for f in node.body if isinstance(f, ast.AnnAssign)]
        return "\n".join([f"class {node.name}" + (f"({bases})" if bases else ""), *fields])
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    a = node.args
    a.args = [arg for arg in a.args if arg.arg != "self"]
    line = f"{node.name}({ast.unparse(a)}){returns}"
    if len(line) <= 88:
        return line
    bare = {"posonlyargs": [], "args": [], "kwonlyargs": [], "kw_defaults": [], "defaults": []}
    plain = [*a.posonlyargs, *a.args]
    parts = []
    for k, arg in enumerate(plain):
        default = k - len(plain) + len(a.defaults)
        one = {"args": [arg], "defaults": [a.defaults[default]] if default >= 0 else []}
        parts.append(ast.unparse(ast.arguments(**(bare | one))))
    if a.vararg or a.kwonlyargs:
        parts.append(f"*{ast.unparse(a.vararg)}" if a.vararg else "*")
    for arg, value in zip(a.kwonlyargs, a.kw_defaults, strict=True):
        one = {"args": [arg], "defaults": [value] if value else []}
        parts.append(ast.unparse(ast.arguments(**(bare | one))))
    if a.kwarg:
        parts.append(f"**{ast.unparse(a.kwarg)}")
    return f"{node.name}(\n" + "".join(f"    {p},\n" for p in parts) + f"){returns}"


def prose(doc: str) -> str:
    """Return a docstring as Markdown: indented blocks and tables as code, no markup but `MARKUP`."""
    blocks = []
    for block in re.split(r"\n\s*\n", doc.strip("\n")):
        indented = all(line.startswith("    ") for line in block.splitlines())
        if indented or re.search(r"^ *[=+|-]{4,}[=+| -]*$", block, re.MULTILINE):  # code, a table
            blocks.append(f"```text\n{textwrap.dedent(block)}\n```")
            continue
        parts = re.split(MARKUP, block)
        safe = [
            p if re.fullmatch(MARKUP, p) else re.sub(r"([\\*_{}\[\]<>#$~|])", r"\\\1", p)
            for p in parts
        ]
        lines = [
            re.sub(r"^(\s*)([-+:=>]|\d+[.)])", r"\1\\\2", s) for s in "".join(safe).splitlines()
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
