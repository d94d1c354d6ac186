"""A codec of a finite source as three tables: the laboratory of chapters 4 and 6 to 8.

With finitely many atoms every expectation in the theorems is a finite sum, so a statement is
tested on thousands of random codecs without sampling noise, to twelve digits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from companion.errors import CompanionError
from companion.theory.information import (
    Array,
    array,
    entropy,
    mutual_information,
    squared_distances,
    total_variation,
    transport,
)


@dataclass(frozen=True, eq=False)
class Finite:
    """X ~ p_x on atoms, Y | X ~ encoder, X̂ | Y ~ decoder: X - Y - X̂ is a Markov chain.

    `p_x` [n]; `encoder` [n, m] holds P(y | x), or [n] integers for a deterministic f;
    `decoder` [m, n] holds P(x̂ | y), or [m] integers for a deterministic g, the index of an atom;
    `atoms` [n, d] or [n].  Source and reproduction share the atoms, so that p_X̂ and p_X can be
    compared and X̂ re-encoded; a point that only the decoder uses is an atom with p_x = 0.
    """

    p_x: Array
    encoder: Array
    decoder: Array
    atoms: Array

    def __post_init__(self) -> None:
        atoms = array(self.atoms)
        atoms = atoms[:, None] if atoms.ndim == 1 else atoms
        n, encoder, decoder = len(atoms), np.asarray(self.encoder), np.asarray(self.decoder)
        if decoder.ndim == 1:
            decoder = np.eye(n)[decoder]
        if encoder.ndim == 1:
            encoder = np.eye(len(decoder))[encoder]
        tables = (array(self.p_x), array(encoder), array(decoder), atoms)
        m = len(decoder)
        if tables[0].shape != (n,) or encoder.shape != (n, m) or decoder.shape != (m, n):
            raise CompanionError(
                f"With {n} atoms and {m} codes, p_x is [{n}], the encoder [{n}, {m}] and the "
                f"decoder [{m}, {n}]; they are {tables[0].shape}, {encoder.shape} and "
                f"{decoder.shape}."
            )
        for table in tables[:3]:
            if bool((table < 0).any()) or float(np.abs(table.sum(-1) - 1).max()) > 1e-9:
                raise CompanionError("Every row of a table must be a law that sums to 1.")
        for name, table in zip(("p_x", "encoder", "decoder", "atoms"), tables, strict=True):
            object.__setattr__(self, name, table)

    # -- the laws ------------------------------------------------------------------------------

    @cached_property
    def p_xy(self) -> Array:
        """Return the joint law of (X, Y), [n, m]."""
        return self.p_x[:, None] * self.encoder

    @cached_property
    def p_y(self) -> Array:
        """Return the law of the code, [m]."""
        return self.p_xy.sum(0)

    @cached_property
    def posterior(self) -> Array:
        """Return p(x | y), [m, n]: the decoder of a conditional generative codec.

        A code of probability zero has no posterior; its row is p_x, which no expectation sees.
        """
        used = self.p_y > 0
        rows = self.p_xy.T / np.where(used, self.p_y, 1.0)[:, None]
        return np.where(used[:, None], rows, self.p_x)

    @cached_property
    def p_xhat_y(self) -> Array:
        """Return the joint law of (X̂, Y), [n, m]."""
        return (self.p_y[:, None] * self.decoder).T

    @cached_property
    def p_xhat(self) -> Array:
        """Return the law of the decoded atom, [n]."""
        return self.p_y @ self.decoder

    @cached_property
    def p_x_xhat(self) -> Array:
        """Return the joint law of (X, X̂), [n, n]."""
        return self.p_xy @ self.decoder

    # -- how near the two ideals ---------------------------------------------------------------

    @property
    def deterministic(self) -> bool:
        """Say whether the encoder is a function of x."""
        return bool(((self.encoder == 0) | (self.encoder == 1)).all())

    @cached_property
    def epsilon(self) -> float:
        """Return ε = TV(p_X̂, p_X): zero means perfect perceptual quality (chapter 4)."""
        return total_variation(self.p_xhat, self.p_x)

    @cached_property
    def delta(self) -> float:
        """Return δ = P(f(X̂) ≠ Y): zero means code-idempotent (chapter 5).

        A random encoder draws afresh when it re-encodes.
        """
        return float((self.p_xhat_y * (1 - self.encoder)).sum())

    @cached_property
    def image_delta(self) -> float:
        """Return P(g(f(X̂)) ≠ X̂): zero means image-idempotent (chapter 5).

        A random decoder draws afresh; with its seed fixed or taken from the code it would not.
        """
        return float((self.p_xhat * (1 - np.diag(self.encoder @ self.decoder))).sum())

    @cached_property
    def conditional_tv(self) -> float:
        """Return E_Y TV(p_{X̂|Y}, p_{X|Y}): zero means the true conditional sampler.

        For a deterministic encoder it lies between max(ε, δ) and min(1, ε + δ): the robust form
        of both theorems (chapter 7).
        """
        return total_variation(self.p_xhat_y, self.p_xy)

    # -- rate and distortion -------------------------------------------------------------------

    @property
    def code_entropy(self) -> float:
        """Return H(Y), in bits: what an entropy coder pays, within one bit a block."""
        return entropy(self.p_y)

    @property
    def rate(self) -> float:
        """Return I(X; Y), in bits: H(Y) when the encoder is deterministic."""
        return mutual_information(self.p_xy)

    @cached_property
    def centroids(self) -> Array:
        """Return E[X | Y = y], [m, d]."""
        return self.posterior @ self.atoms

    @cached_property
    def mse(self) -> float:
        """Return E‖X - X̂‖²."""
        return float((self.p_x_xhat * squared_distances(self.atoms, self.atoms)).sum())

    @cached_property
    def mmse(self) -> float:
        """Return D* = E‖X - E[X|Y]‖², the least squared error of any decoder."""
        return float((self.p_xy * squared_distances(self.atoms, self.centroids)).sum())

    @cached_property
    def w2_squared(self) -> float:
        """Return W₂²(p_X, p_{E[X|Y]}): what realism costs on top of D* (chapter 8)."""
        return transport(self.p_y, self.centroids, self.p_x, self.atoms)[0]

    # -- other decoders for the same code ------------------------------------------------------

    def with_decoder(self, decoder: ArrayLike) -> Finite:
        """Return the codec with another decoder, [m, n] or [m] indices."""
        return replace(self, decoder=np.asarray(decoder))

    def conditional(self) -> Finite:
        """Return the codec that decodes with the posterior: X̂ ~ p_{X|Y}."""
        return self.with_decoder(self.posterior)

    def in_cell(self, prior: ArrayLike) -> Finite:
        """Return the codec that draws from `prior` [n], conditioned on re-encoding to y.

        With the true p_x this is Theorem 2; with another law it is every real codec (chapter 7).
        The weight of x̂ is prior(x̂) P(y | x̂), so a random encoder needs its own law, not a cell.
        Where the prior gives a code no mass it cannot be conditioned on it: X̂ is then uniform on
        the cell, or on everything if no atom can yield the code.
        """
        weight = (array(prior)[:, None] * self.encoder).T
        fallback = np.where(self.encoder.T.sum(1, keepdims=True) > 0, self.encoder.T, 1.0)
        weight = np.where(weight.sum(1, keepdims=True) > 0, weight, fallback)
        return self.with_decoder(weight / weight.sum(1, keepdims=True))

    def realistic(self) -> Finite:
        """Return the codec of least MSE among those with p_X̂ = p_X: MSE = D* + W₂² (chapter 8).

        It sends the centroids to the atoms by optimal transport, and forgets the cells.
        """
        plan = transport(self.p_y, self.centroids, self.p_x, self.atoms)[1]
        mass = plan.sum(1, keepdims=True)
        return self.with_decoder(
            np.where(mass > 0, plan / np.where(mass > 0, mass, 1.0), self.posterior)
        )

    def mmse_codec(self) -> Finite:
        """Return the codec that decodes to E[X | Y], with those points added to the alphabet.

        A new point is no atom of the source (p_x = 0) and re-encodes as its nearest atom does.
        """
        n, m = len(self.atoms), len(self.p_y)
        distance = squared_distances(self.centroids, self.atoms)
        nearest = distance.argmin(1)
        known = distance.min(1) == 0
        return Finite(
            np.concatenate([self.p_x, np.zeros(m)]),
            np.concatenate([self.encoder, self.encoder[nearest]]),
            np.where(known, nearest, n + np.arange(m)),
            np.concatenate([self.atoms, self.centroids]),
        )

    def moved(self, maps: ArrayLike) -> Finite:
        """Return the codec whose decode x̂ of code y becomes the atom maps[y, x̂] ([m, n] indices).

        Projection into the cell is such a map: it fixes the cell's points, and lands in it.
        """
        maps = np.asarray(maps)
        moved = np.zeros_like(self.decoder)
        for y in range(len(moved)):
            np.add.at(moved[y], maps[y], self.decoder[y])
        return self.with_decoder(moved)


DecoderKind = Literal["arbitrary", "posterior", "idempotent", "point"]


def random_finite(
    seed: int,
    atoms: int = 6,
    codes: int = 3,
    *,
    d: int = 2,
    decoder: DecoderKind = "arbitrary",
    noisy_encoder: bool = False,
) -> Finite:
    """Return a random codec of a random source, every code in use.

    `decoder` is a random kernel (`arbitrary`), the conditional sampler (`posterior`), a random law
    inside each cell (`idempotent`), or one random atom a code (`point`).  `noisy_encoder` gives
    the encoder private randomness: the negative control of Theorem 1.
    """
    if not 1 <= codes <= atoms:
        raise CompanionError(f"{atoms} atoms cannot fill {codes} cells: each needs at least one.")
    rng = np.random.default_rng([3, seed])
    # Concentrations from sparse to flat: extreme laws are where an inequality would break.
    sharp = float(rng.choice([0.3, 1.0, 5.0]))
    p_x = _laws(rng, sharp, 1, atoms)[0]
    labels = rng.permutation(
        np.concatenate([np.arange(codes), rng.integers(codes, size=atoms - codes)])
    )
    encoder = _laws(rng, 1.0, atoms, codes) if noisy_encoder else np.eye(codes)[labels]
    kernel = _laws(rng, sharp, codes, atoms)
    if decoder == "idempotent":
        kernel = kernel * encoder.T
        kernel /= kernel.sum(1, keepdims=True)
    if decoder == "point":
        kernel = np.eye(atoms)[rng.integers(atoms, size=codes)]
    codec = Finite(p_x, encoder, kernel, rng.standard_normal((atoms, d)))
    return codec.conditional() if decoder == "posterior" else codec


def _laws(rng: np.random.Generator, concentration: float, rows: int, n: int) -> Array:
    # A floor keeps every probability a normal number, so that ratios keep their digits.
    laws = rng.dirichlet(np.full(n, concentration), size=rows) + 1e-6
    return laws / laws.sum(1, keepdims=True)
