"""Waiting in queues, piece by piece: chords above the curve, tangents below it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from greenopt.labelled import FloatArray, IntArray
from greenopt.physics.queueing import waiting_share

INTERVALS, FINE = 16, 64
"""Pieces of every curve to begin with, and where nothing refines them."""

CLOSE = 1e-9
"""Points of utilisation nearer to each other than this are one."""


class Pieces(NamedTuple):
    """Points on, or corners below, the curves of waiting over utilisation.

    Attributes
    ----------
    curve : ndarray of int
        Number of the curve of each point, increasing.
    utilisation : ndarray
        Where it is, increasing along each curve.
    waiting : ndarray
        Requests waiting on an instance there, for a variability of 1.
    """

    curve: IntArray
    utilisation: FloatArray
    waiting: FloatArray

    @property
    def number(self) -> IntArray:
        """Number of each point along its curve."""
        first = np.searchsorted(self.curve, self.curve)
        return np.arange(len(self.curve)) - first

    @property
    def last(self) -> IntArray:
        """Position of the last point of each curve."""
        return np.flatnonzero(np.diff(self.curve, append=-1))


def chords(most: FloatArray, intervals: int = INTERVALS, power: float = 1.0) -> Pieces:
    """Points between an idle instance and the utilisation `most` of each curve."""
    share = (np.arange(intervals + 1) / intervals) ** power
    utilisation = 1 - (1 - most[:, None]) ** share
    utilisation[:, -1] = most
    return _on_curve(np.repeat(np.arange(len(most)), intervals + 1), utilisation.ravel())


def fine_tangents(most: FloatArray) -> Pieces:
    """Corners of many tangents of each curve, for a relaxation that nothing refines.

    They are closer to each other near idleness, where waiting is a small part of itself.
    """
    return tangents(chords(most, FINE, 2.0))


def closer(pieces: Pieces, curve: IntArray, utilisation: FloatArray) -> Pieces:
    """Further points at a utilisation of each curve, and at a quarter of the way to its neighbours.

    A plan's price moves a little from round to round, so that the next touching point is near.
    """
    ends = pieces.curve + pieces.utilisation  # increasing: utilisations are below 1
    after = np.searchsorted(ends, curve + utilisation)
    above = np.minimum(after, pieces.last[curve])
    below = np.maximum(above - 1, 0)
    around = [
        utilisation + (pieces.utilisation[neighbour] - utilisation) / 4
        for neighbour in (below, above)
    ]
    return refined(pieces, np.tile(curve, 3), np.concatenate([utilisation, *around]))


def refined(pieces: Pieces, curve: IntArray, utilisation: FloatArray) -> Pieces:
    """Further points, in between those there are."""
    curves = np.concatenate([pieces.curve, curve])
    points = np.concatenate([pieces.utilisation, utilisation])
    order = np.lexsort([points, curves])
    curves, points = curves[order], points[order]
    new = (np.diff(curves, prepend=-1) > 0) | (np.diff(points, prepend=-1) > CLOSE)
    # Of two points that are one, the later may be the end of its curve: it stays.
    keep = np.append(new[1:], True)
    return _on_curve(curves[keep], points[keep])


def tangents(pieces: Pieces) -> Pieces:
    """Corners of the tangents at the points of each curve, and its two ends."""
    room = 1 - pieces.utilisation
    inside = np.flatnonzero(np.diff(pieces.curve) == 0)  # between this point and the next
    total = room[inside] + room[inside + 1]
    corner = 1 - 2 * room[inside] * room[inside + 1] / total
    below = 2 / total - 1 - corner
    ends = np.union1d(pieces.last, np.searchsorted(pieces.curve, np.unique(pieces.curve)))
    curve = np.concatenate([pieces.curve[inside], pieces.curve[ends]])
    utilisation = np.concatenate([corner, pieces.utilisation[ends]])
    waiting = np.concatenate([np.maximum(below, 0.0), pieces.waiting[ends]])
    order = np.lexsort([utilisation, curve])
    return Pieces(curve[order], utilisation[order], waiting[order])


def touching(
    price: FloatArray, reward: FloatArray, most: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Where ``price * waiting - reward * utilisation`` is least, and its value there.

    Parameters
    ----------
    price, reward : ndarray
        Not negative.
    most : ndarray
        Largest utilisation.
    """
    ratio = np.divide(reward, price, out=np.full_like(reward, np.inf), where=price > 0)
    free = 1 - 1 / np.sqrt(1 + ratio)
    at = np.where(reward > 0, np.minimum(free, most), 0.0)
    return at, price * waiting_share(at) - reward * at


def _on_curve(curve: IntArray, utilisation: FloatArray) -> Pieces:
    return Pieces(curve, utilisation, waiting_share(utilisation))
