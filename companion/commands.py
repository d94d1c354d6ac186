"""What each command of `companion` does, told the arguments that `companion.cli` parsed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from companion.errors import CompanionError, StreamError
from companion.files import each, is_one_of, outputs, pairs

JPEG = (".jpg", ".jpeg")

LONG = (
    "critics",
    "conditional",
    "inversion",
    "draws",
    "exactness",
    "restore",
)  # measurements that are cut and spread

TRAINED = {
    "codec": ("hyper", "elic"),
    "features": ("loss", "judge"),
    "prior": ("diffusion", "gan", "gaussian"),
    "decoder": ("hific", "illm", "multirealism", "diffusion", "end-to-end"),
}


def compress(arguments: argparse.Namespace) -> int:
    """Run `companion compress`."""
    from companion.codecs import learned
    from companion.photos import SUFFIXES, read_picture

    codec = learned(arguments.codec, arguments.rate)

    def one(source: Path, target: Path) -> None:
        x = read_picture(source)
        (stream,) = codec.compress(x[None])
        target.write_bytes(stream)
        bpp = 8 * len(stream) / (x.shape[-1] * x.shape[-2])
        print(f"{target}: {len(stream):,} bytes, {bpp:.3f} bits per pixel")

    return each(pairs(arguments.source, arguments.target, SUFFIXES, ".idem"), "compress", one)


def decompress(arguments: argparse.Namespace) -> int:
    """Run `companion decompress`: our streams and JPEG files alike."""
    from tqdm import tqdm

    from companion.decode import decode, is_jpeg
    from companion.inversion.presets import PRESETS
    from companion.photos import write_png

    given = {k: getattr(arguments, k) for k in ("preset", "prior", "samples", "dial", "seed")}
    how = {k: v for k, v in given.items() if v is not None}
    if arguments.mode == "mse" and how:
        raise CompanionError(
            f"{', '.join(f'--{k}' for k in how)}: there is one MSE decode, add --mode perceptual."
        )
    samples = how.get("samples", 1)
    if samples < 1:
        raise CompanionError("At least one sample is drawn.")
    endings = tuple(f"-{k}" for k in range(samples)) if samples > 1 else ("",)
    also = ("-sheet",) if arguments.sheet else ()
    kinds = (".idem", *JPEG)
    todo = pairs(arguments.source, arguments.target, kinds, ".png", (*endings, *also))
    if arguments.mode == "perceptual":
        how["prior"] = open_prior(how.get("prior", "prior"))
    total = samples * PRESETS[how.get("preset", "fast")].keywords["steps"]

    def one(source: Path, target: Path) -> None:
        data = source.read_bytes()
        # Large pictures take minutes: a bar of their own, for those that last.
        with tqdm(total=total, desc=source.name, unit="step", delay=3, leave=False) as bar:
            done = decode(
                data, mode=arguments.mode, source=str(source), watch=lambda *_: bar.update(), **how
            )
        paths = outputs(target, endings)
        for path, x, exact in zip(paths, done.pictures, done.exact.tolist(), strict=True):
            write_png(path, x, done.metadata)
            what = "coefficients" if is_jpeg(data) else "bytes"
            print(f"{path}: {'compresses' if exact else 'does not compress'} to the same {what}")
        if any(record.extra["astray"] for record in done.records):
            print(
                f"{source}: the sampler went astray, do not trust the picture; try another --seed"
            )
        if arguments.sheet:
            before = decode(data, source=str(source)).pictures[0]
            whole = sheet([before, *done.pictures])
            write_png(outputs(target, also)[0], whole, done.metadata)

    return each(todo, "decompress", one)


def open_prior(name: str) -> Any:
    """Return a prior by name."""
    from companion import zoo
    from companion.priors import diffusion_prior, gaussian_prior

    if name in zoo.names() and name not in ("prior", "gaussian"):
        raise CompanionError(f"{name} does not denoise: of the zoo, prior or gaussian can draw.")
    return gaussian_prior() if name == "gaussian" else diffusion_prior(name)


def sheet(pictures: list[Any]) -> Any:
    """Return pictures [3, H, W] side by side, a white line between them."""
    from torchvision.utils import make_grid

    return make_grid(pictures, nrow=len(pictures), padding=4, pad_value=1.0)[:, 4:-4, 4:-4]


def verify(arguments: argparse.Namespace) -> int:
    """Run `companion verify`: 0 when every picture lies in its stream's cell, 1 when one does not."""
    from companion.photos import SUFFIXES

    todo = [(arguments.stream, arguments.picture)]
    if arguments.stream.is_dir():
        there = sorted(p for p in arguments.picture.glob("*") if is_one_of(p, SUFFIXES))
        pictures = {p.stem: p for p in there}
        streams = pairs(arguments.stream, Path(), (".idem", *JPEG), "")
        missing = [s.name for s, _ in streams if s.stem not in pictures]
        if missing:
            raise CompanionError(f"{arguments.picture} holds no picture for {', '.join(missing)}.")
        todo = [(s, pictures[s.stem]) for s, _ in streams]
    differ: list[int] = []
    failed = each(todo, "verify", lambda *pair: differ.append(verify_one(*pair)))
    return failed or int(any(differ))


def verify_one(stream: Path, picture: Path) -> int:
    """Print and return how many symbols of a picture (of a JPEG file: coefficients) differ."""
    from companion.codecs import codec_of
    from companion.codecs.jpeg import read
    from companion.codecs.jpeg_cells import JpegCells
    from companion.decode import is_jpeg
    from companion.photos import read_picture

    data = stream.read_bytes()
    # A JPEG file's decode carries its orientation and its profile, and its pixels are as stored.
    x = read_picture(picture, as_stored=is_jpeg(data))

    def check(height: int, width: int) -> None:
        if x.shape[-2:] != (height, width):
            raise StreamError(
                f"{picture} is {x.shape[-1]}×{x.shape[-2]}, {stream} holds a picture of {width}×{height}."
            )

    if is_jpeg(data):
        file = read(data, source=str(stream))
        check(file.height, file.width)
        cells = JpegCells.of_files([file])
        differ, count, what = int(cells.mismatches(x[None])), cells.centre.numel(), "coefficients"
        same = f"has exactly its {count:,} coefficients"
    else:
        codec = codec_of(data, source=str(stream))
        target = codec.read(data, source=str(stream))
        check(target.height, target.width)
        mine = codec.symbols(x[None]).flat()
        differ, count, what = int((mine != target.flat()).sum()), len(mine), "symbols"
        same = f"re-compresses to exactly these {len(data):,} bytes"
    if differ:
        print(f"different: {picture}: {differ:,} of {count:,} {what} differ")
    else:
        print(f"the same: {picture} {same}")
    return differ


def info(arguments: argparse.Namespace) -> int:
    """Run `companion info`."""
    todo = pairs(arguments.stream, Path(), (".idem",), "")

    def one(path: Path, _: Path) -> None:
        print(*([] if path is todo[0][0] else [""]), f"file         {path}", sep="\n")
        describe(path)

    return each(todo, "info", one)


def describe(path: Path) -> None:
    """Print what one .idem file holds."""
    from companion.codecs import codec_of
    from companion.codecs.container import unpack

    data = path.read_bytes()
    stream = unpack(data, source=str(path))
    bpp = 8 * len(data) / (stream.height * stream.width)
    print(f"picture      {stream.width}×{stream.height}")
    print(f"codec        {stream.codec}, weights {stream.fingerprint.hex()}")
    print(f"size         {len(data):,} bytes, {bpp:.3f} bits per pixel")
    codec = codec_of(data, source=str(path))
    symbols = codec.read(data, source=str(path))
    print(f"symbols      {len(symbols.flat()):,}, {(symbols.flat() != 0).sum():,} of them not zero")
    print(f"entropy      {codec.entropy_bits(symbols) / 8:,.1f} bytes under the model")


def show_zoo(arguments: argparse.Namespace) -> int:
    """Run `companion zoo`."""
    from companion import zoo

    for name in zoo.names():
        card = zoo.card(name)
        print(
            f"{name:14} {card['architecture']:20} {card['parameters'] / 1e3:7.0f} k parameters  "
            f"{card['bytes'] / 1e6:5.2f} MB  {card['licence']}  sha256 {card['sha256'][:12]}…"
        )
    return 0


def train(arguments: argparse.Namespace) -> int:
    """Run `companion train`."""
    from companion.lab import features, train_codec, train_decoder, train_gan, train_prior

    what, name = arguments.what, arguments.name
    if name not in TRAINED[what]:
        raise CompanionError(f"There is no {what} {name!r}: it is {' or '.join(TRAINED[what])}.")
    if not 0 < arguments.fraction <= 1:
        raise CompanionError(f"A fraction is above 0 and at most 1, not {arguments.fraction:g}.")
    given = {"rate": arguments.rate, "fresh": arguments.fresh, "fraction": arguments.fraction < 1}
    long = name != "gaussian" and not arguments.ship
    useful = {"rate": what == "codec" and not arguments.ship, "fresh": long, "fraction": long}
    if useless := [f"--{option}" for option, on in given.items() if on and not useful[option]]:
        raise CompanionError(f"{', '.join(useless)}: of no use to `train {what} {name}`.")
    if arguments.ship:
        if what != "prior" or name not in ("diffusion", "gan"):
            raise CompanionError("Only the long trainings, of the priors, are shipped unfinished.")
        train_prior.ship() if name == "diffusion" else train_gan.ship_unfinished()
        return 0
    how = {"fraction": arguments.fraction, "resume": not arguments.fresh}
    if what == "codec":
        train_codec.train(name, arguments.rate, **how)
    elif what == "features":
        features.train(name, **how)
    elif what == "decoder":
        train_decoder.train(name, **how)
    elif name == "diffusion":
        train_prior.train(**how)
    elif name == "gan":
        train_gan.train(**how)
    else:
        train_prior.fit_gaussian()
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Run `companion evaluate`."""
    from companion.lab.evaluate import evaluate as measure
    from companion.lab.evaluate import sentences

    found = measure(arguments.streams, arguments.pictures, arguments.originals, arguments.out)
    print(*sentences(found), f"The page is {arguments.out / 'report.png'}.", sep="\n")
    return 0


def reproduce(arguments: argparse.Namespace) -> int:
    """Run `companion reproduce`."""
    from companion.lab import reproduce as module
    from companion.lab.work import spread

    scale, out, features = arguments.scale, arguments.out, arguments.features
    if scale == "full" and not arguments.plan:
        raise CompanionError("The full scale is only planned: add --plan.")
    if arguments.plan:
        print(module.plan_of(scale, out, features))
        return 0
    part = parsed_part(arguments)
    if arguments.processes > 1:
        if part != (0, 1):
            raise CompanionError("--processes makes parts of its own: leave --part out.")
        command = [sys.executable, "-m", "companion.cli", "reproduce", "--scale", scale]
        command += ["--out", str(out), *([] if features is None else ["--features", features])]
        spread(command, arguments.processes)
    if module.reproduce(scale, out, part, features) is None:
        print("This part is done; the results are written by whoever finds all parts done.")
    else:
        print(f"The results are in {module.result_file(scale, out, features)}.")
    return 0


def parsed_part(arguments: argparse.Namespace) -> tuple[int, int]:
    """Return what `--part k/n` says."""
    try:
        k, n = (int(number) for number in arguments.part.split("/"))
    except ValueError:
        raise CompanionError(f"A part is k/n, such as 0/4, not {arguments.part}.") from None
    return k, n


def bench(arguments: argparse.Namespace) -> int:
    """Run `companion bench`."""
    import importlib

    module = importlib.import_module(f"companion.lab.bench_{arguments.what}")
    part = parsed_part(arguments)
    if arguments.what not in LONG and part != (0, 1):
        raise CompanionError(f"bench {arguments.what} is done in one piece: leave --part out.")
    module.run(part) if arguments.what in LONG else module.run()
    return 0
