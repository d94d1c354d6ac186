"""The command line: `companion compress`, `decompress`, `verify`, `info`, `zoo`, `train`, …"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

from companion import commands
from companion.commands import LONG, TRAINED
from companion.errors import CompanionError


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    arguments = parser().parse_args(argv)
    for out in (sys.stdout, sys.stderr):  # file names may be bytes that the terminal cannot write
        if hasattr(out, "reconfigure"):
            out.reconfigure(errors="backslashreplace")
    # CompressAI compiles a few functions in a way that newer releases of torch remark on.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    try:
        return arguments.run(arguments)
    except (CompanionError, OSError) as problem:
        print(f"companion: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("companion: interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(prog="companion", description=__doc__)
    subcommands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        sub = subcommands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    sub = command("compress", commands.compress, "compress a picture, or every picture of a folder")
    sub.add_argument("source", type=Path, help="a picture, or a folder of pictures")
    sub.add_argument("target", type=Path, help="the .idem file to write, or a folder for them")
    sub.add_argument("--codec", choices=("hyper", "elic"), default="hyper")
    sub.add_argument("--rate", type=int, choices=range(5), default=1, help="0 smallest, 4 best")
    sub = command(
        "decompress", commands.decompress, "decompress a .idem or JPEG file, or a folder of them"
    )
    sub.add_argument("source", type=Path, help="a .idem or JPEG file, or a folder of them")
    sub.add_argument("target", type=Path, help="the PNG file to write, or a folder for them")
    sub.add_argument(
        "--mode",
        choices=("mse", "perceptual"),
        default="mse",
        help="perceptual: up to 16 megapixels, and 8,192 pixels a side",
    )
    draw = sub.add_argument_group("of perceptual mode")
    draw.add_argument("--preset", choices=("fast", "best"), help="fast unless said otherwise")
    draw.add_argument("--prior", help="prior (ours), gaussian, a diffusers folder, or a hub name")
    draw.add_argument("--samples", type=int, help="pictures a stream, NAME-0.png and so on")
    draw.add_argument("--dial", type=float, help="from 0, the MSE decode, to 1, the draw")
    draw.add_argument("--seed", type=int, help="by default the bytes decide it")
    sub.add_argument(
        "--sheet", action="store_true", help="also write NAME-sheet.png: before and after"
    )
    sub = command(
        "verify", commands.verify, "say whether a picture re-compresses to exactly this stream"
    )
    sub.add_argument("stream", type=Path, help="a .idem or JPEG file, or a folder of them")
    sub.add_argument("picture", type=Path, help="a picture, or a folder with one of each name")
    sub = command("info", commands.info, "say what a .idem file holds")
    sub.add_argument("stream", type=Path, help="a .idem file, or a folder of them")
    command("zoo", commands.show_zoo, "list the models that are shipped")
    sub = command(
        "train", commands.train, "train a model and put it into the zoo; resumes by itself"
    )
    sub.add_argument("what", choices=tuple(TRAINED))
    sub.add_argument("name", help="; ".join(f"{k}: {' or '.join(v)}" for k, v in TRAINED.items()))
    sub.add_argument("--rate", type=int, choices=range(5), action="append", help="of a codec only")
    sub.add_argument("--fraction", type=float, default=1.0, help="stop early, ship nothing")
    sub.add_argument("--fresh", action="store_true", help="ignore what earlier runs left")
    sub.add_argument(
        "--ship",
        action="store_true",
        help="of a prior: no training, ship the last checkpoint as it is",
    )
    sub = command("evaluate", commands.evaluate, "test anyone's decodes of our streams, in a page")
    sub.add_argument("--streams", type=Path, required=True, help="a folder of .idem files")
    sub.add_argument(
        "--pictures", type=Path, required=True, help="their decodes, NAME.png or NAME-0.png …"
    )
    sub.add_argument("--originals", type=Path, help="a folder of the originals, NAME.png")
    sub.add_argument("--out", type=Path, default=Path("report"), help="where the report goes")
    sub = command(
        "reproduce", commands.reproduce, "compute the results of part IV; resumes by itself"
    )
    sub.add_argument(
        "--scale", choices=("smoke", "laptop", "full"), default="smoke", help="full: --plan only"
    )
    sub.add_argument("--out", type=Path, default=Path("results"), help="where the results go")
    sub.add_argument("--plan", action="store_true", help="list the items and the hours; do nothing")
    sub.add_argument("--processes", type=int, default=1, help="that share the work on this machine")
    sub.add_argument(
        "--part", default="0/1", help="k/n: every n-th item, from the k-th; for job arrays"
    )
    sub.add_argument(
        "--features",
        choices=("judge", "loss", "inception"),
        help="what realism is judged by: inception is the standard one, from its file",
    )
    sub = command("bench", commands.bench, "measure, and write the result into the package")
    sub.add_argument("what", choices=("codecs", "jpeg", "truth", "sizes", "paces", *LONG))
    spread = f"k/n: every n-th item, from the k-th; of {', '.join(LONG)}"
    sub.add_argument("--part", default="0/1", help=spread)
    return top


if __name__ == "__main__":
    sys.exit(main())
