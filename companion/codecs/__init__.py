"""Codecs: pictures to real bytes, and the cells those bytes name."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from companion.errors import StreamError, WeightsError

if TYPE_CHECKING:
    from companion.codecs.neural import Learned

RATES = (0, 1, 2, 3, 4)


@functools.cache
def learned(family: str, rate: int) -> Learned:
    """Return a trained codec of the zoo, loaded once: family 'hyper' or 'elic', rate 0 to 4.

    Besides, 'hific' at rate 1: a codec that was trained against a critic, for comparison (chapter 16).
    """
    from companion import zoo
    from companion.codecs.neural import Learned

    name = f"{family}-{rate}"
    if name not in zoo.names():
        codecs = [n for n in zoo.names() if n.split("-")[0] in ("hyper", "elic", "hific")]
        raise WeightsError(f"There is no codec {name!r}. The zoo has: {', '.join(codecs)}.")
    return Learned(name)


def codec_of(data: bytes, *, source: str = "The stream") -> Learned:
    """Return the codec that can read a compressed .idem stream."""
    from companion.codecs.container import unpack

    family, rate = unpack(data, source=source).codec.rsplit("-", 1)
    try:
        return learned(family, int(rate))
    except WeightsError as problem:
        raise StreamError(f"{source} needs a codec that is not here. {problem}") from problem
