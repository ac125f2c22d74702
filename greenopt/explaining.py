"""Why an instance has no plan: requirements that conflict, and the least that would help.

Nothing here knows a problem. A problem says which of its rows, closed columns and whole numbers are
a requirement's (`Requirements`), and finds the words; what belongs to no requirement always holds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from greenopt import arguments
from greenopt.errors import ModelError
from greenopt.instance import Instance
from greenopt.labelled import BoolArray, FloatArray, IntArray
from greenopt.model import Block, Model, StageObjective, clipped, dual_bound
from greenopt.problems import part
from greenopt.results import NUMERICAL_FLOOR
from greenopt.solvers import RawResult, Session, Termination, find
from greenopt.solvers.combining import Combining, core, groups_of

SIGNIFICANT = 1e-6
"""Total relative shortfall below which a set of requirements counts as met, as in the checker."""

MANY_PERIODS = 4
"""A conflict over more periods than this is told over all of them together."""

SHARPER: tuple[dict[str, Any], ...] = (
    {"dual_tolerance": 1e-9},
    {"dual_tolerance": 1e-9, "spread": 1e9},
)
"""Settings tried in turn while the own bound of a least change leaves a gap."""

SMALLEST = 1e-5
"""Relative gap between a change and its bound below which it counts as the smallest."""

MANY_RELAXATIONS = 12
"""Most members of a conflict that are relaxed alone."""

MANY_PIECES = 100
"""Of more pieces than this, multipliers choose those that are worth a solver's time."""

FEW_NEEDED = 4
"""If multipliers leave more pieces than so many times those told apart, all are told together."""

LARGE, LARGE_WHOLE = 5_000, 1_000
"""Columns from which on groups under coupling rows are solved as such, and searched for whole
numbers near the solution of their relaxation only."""

SEARCHED = (1_000, 10_000)
"""Columns that are searched then, beside those that the relaxation uses; the next if none do."""

SEARCH_S = 1.5
"""Time for such a search, s."""

Member = IntArray
"""Requirements, by number, that are told as one."""


# -- what is returned ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Requirement:
    """A member of a conflict.

    Attributes
    ----------
    name : str
        Kind and labels, such as ``gpus[2023-07-18T00:00Z, oregon, h100]``.
    kind : str
        What kind of requirement it is; a problem's documentation lists them.
    where : dict of str to str
        Labels by axis; an axis over which several are told together is not there.
    text : str
        It in words.
    """

    name: str
    kind: str
    where: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class Relaxation:
    """A change that would make a plan possible.

    Attributes
    ----------
    requirement : str
        Name of the requirement that is relaxed.
    amount : float or None
        By how much, in `unit`; None if the requirement can only be kept or dropped.
    unit : str
        Unit of `amount`.
    alone : bool
        Whether this change alone suffices; else it is a part of the least change in all.
    smallest : bool
        Whether it is proved that less would not do (within the solver's gap).
    text : str
        It in words.
    """

    requirement: str
    amount: float | None
    unit: str
    alone: bool
    smallest: bool
    text: str


@dataclass(frozen=True)
class Explanation:
    """Why an instance has no plan.

    Attributes
    ----------
    infeasible : bool or None
        Whether it has none; None if time ran out before that was known.
    conflict : tuple of Requirement
        Requirements that cannot hold together.
    irreducible : bool
        Whether it is known that any fewer of them can.
    relaxations : tuple of Relaxation
        Changes that suffice alone, then the least change in all.
    sentences : tuple of str
        The explanation in words.
    proof : dict
        ``value`` and proved lower ``bound`` of the least relative shortfall, and where the bound
        comes from: "own-dual" (evaluated by greenopt from multipliers), or "tree" (a solver's
        claim, where only whole numbers stand in the way).
    runtime_s : float
        Time it took, s.
    """

    infeasible: bool | None
    conflict: tuple[Requirement, ...] = ()
    irreducible: bool = False
    relaxations: tuple[Relaxation, ...] = ()
    sentences: tuple[str, ...] = ()
    proof: Mapping[str, Any] = field(default_factory=dict)
    runtime_s: float = 0.0

    def document(self) -> dict[str, Any]:
        """The explanation as JSON can hold it."""
        return {
            "infeasible": self.infeasible,
            "conflict": [asdict(one) for one in self.conflict],
            "irreducible": self.irreducible,
            "relaxations": [asdict(one) for one in self.relaxations],
            "sentences": list(self.sentences),
            "proof": dict(self.proof),
            "runtime_s": self.runtime_s,
        }

    def report(self) -> dict[str, Any]:
        """What a solution's report says of it."""
        document = self.document()
        named = {"explanation": "sentences", "conflict": "conflict", "irreducible": "irreducible",
                 "relaxations": "relaxations", "least_relative_shortfall": "proof"}  # fmt: skip
        return {name: document[key] for name, key in named.items() if document[key] not in ({}, [])}


# -- what a problem says -------------------------------------------------------------------------


class Bounds(NamedTuple):
    """Sides of rows and columns, and which columns are whole, while some requirements stand."""

    row_lower: FloatArray
    row_upper: FloatArray
    column_upper: FloatArray
    integer: BoolArray


@dataclass(frozen=True, eq=False)
class Requirements:
    """The requirements of an instance, numbered family by family.

    With every row freed and every column open, the zero plan must be feasible: what is left is
    physics. Problems inherit from this class and add the words.

    Attributes
    ----------
    model : Model
        All rows with the sides that requirements ask for, all columns open, no objective.
    families : dict of str to Block
        Requirements of each kind with their position on named axes, -1 where an axis does not
        apply; first those to be given up first.
    lower, upper : ndarray of int, shape (n_rows,)
        Which requirement asks for the side of a row; -1 is physics.
    freed_lower : ndarray, shape (n_rows,)
        Lower side once its requirement is given up. (A freed upper side is infinite.)
    closing : csc_array, shape (n_columns, n)
        Nonzero where a requirement closes a column: the value its limit would need to have to
        open it, infinite if no value would.
    whole : ndarray of int, shape (n_columns,)
        Which requirement asks for whole numbers in a column; -1 where there is none.
    """

    model: Model
    families: Mapping[str, Block]
    lower: IntArray
    upper: IntArray
    freed_lower: FloatArray
    closing: Any
    whole: IntArray

    wanted: ClassVar[str]
    """The family whose members ask for something to be served: its rows are what falls short."""

    tiers: ClassVar[tuple[tuple[str, ...], ...]]
    """Families that may give way in the least change in all; the first tier that suffices."""

    axes: ClassVar[tuple[str, ...]]
    """Axes along which the members of a conflict are told apart, in order; the last one only in a
    conflict of few periods (or of none)."""

    many: ClassVar[Mapping[str, int]] = {}
    """Of more labels of an axis than this, all are told together."""

    @property
    def size(self) -> int:
        """Number of requirements."""
        return sum(family.size for family in self.families.values())

    def bounds(self, standing: BoolArray) -> Bounds:
        """Sides while only some requirements stand."""
        model = self.model
        stands = np.append(standing, True)  # physics, at -1
        closed = (self.closing != 0) @ standing.astype(float) > 0
        return Bounds(
            np.where(stands[self.lower], model.row_lower, self.freed_lower),
            np.where(stands[self.upper], model.row_upper, np.inf),
            np.where(closed, 0.0, model.column_upper),
            model.integer & stands[self.whole],
        )

    def kind(self, member: Member) -> str:
        """Kind of a member."""
        first = member[0]
        return next(f.name for f in self.families.values() if f.start <= first < f.start + f.size)

    def codes_of(self, member: Member) -> dict[str, IntArray]:
        """Positions of a member's requirements, by the axes that apply."""
        family = self.families[self.kind(member)]
        inside = member - family.start
        return {a: c[inside] for a, c in family.codes.items() if (c[inside] >= 0).all()}

    def where(self, member: Member) -> dict[str, str]:
        """Labels that all of a member's requirements share."""
        labels = self.model.labels
        return {
            axis: labels[axis][code[0]]
            for axis, code in self.codes_of(member).items()
            if axis in labels and (code == code[0]).all()
        }

    def name(self, member: Member) -> str:
        """Kind and labels."""
        inside = ", ".join(self.where(member).values())
        return f"{self.kind(member)}[{inside}]" if inside else self.kind(member)

    def describe(self, members: Sequence[Member]) -> list[Requirement]:
        """Members in words."""
        return [
            Requirement(self.name(m), self.kind(m), self.where(m), self.text(m)) for m in members
        ]

    def text(self, member: Member) -> str:
        """One member in words, with what it asks for."""
        raise NotImplementedError

    def short_of(self, members: Sequence[Member]) -> Member:
        """Requirements of a conflict whose shortfall its headline tells: those that are wanted."""
        family = self.families.get(self.wanted)
        every = np.concatenate(members)
        if family is None:
            return every[:0]
        return every[(every >= family.start) & (every < family.start + family.size)]

    def summary(self, members: Sequence[Member]) -> list[str]:
        """Members in few words: many of one kind are told as one."""
        raise NotImplementedError

    def headlines(self, members: Sequence[Member], missing: Mapping[int, float]) -> list[str]:
        """What is asked for and what there is; `missing` by requirement, as little as possible."""
        raise NotImplementedError

    def relaxation(self, member: Member, amount: float | None, smallest: bool) -> Relaxation:
        """A member relaxed alone, by an amount in its own unit or to a value of `steps`."""
        raise NotImplementedError

    def least(self, amounts: Mapping[int, float], smallest: bool) -> list[Relaxation]:
        """The least change in all, by requirement in its own unit."""
        raise NotImplementedError

    def steps(self, member: Member) -> FloatArray | None:
        """Values that a limit could be raised to, rising; None for one that is no such limit."""
        raise NotImplementedError

    def eased(self, member: Member, value: float) -> Bounds:
        """Sides while everything stands and a limit has another value."""
        raise NotImplementedError

    def widened(self, member: Member) -> Member:
        """The requirements that one would change together with a member: one number, say."""
        raise NotImplementedError

    def slack_rows(self, member: Member) -> bool:
        """Whether a member can give way by an amount on its rows."""
        raise NotImplementedError

    def closer(self, member: Member, amount: float, x: FloatArray, smallest: bool) -> Requirements:
        """These requirements, or with another limit to ask about, and what is known of it.

        For a member whose row changes with its limit, so that an amount does not say which limit
        would do: `unsettled` tells that there is more to ask.

        Parameters
        ----------
        member : ndarray of int
            Which.
        amount : float
            The least amount by which its row has to give way.
        x : ndarray
            A plan that needs no more.
        smallest : bool
            Whether it is proved that less would not do.
        """
        return self

    @property
    def unsettled(self) -> bool:
        """Whether `closer` has found another limit to ask about."""
        return False

    def row_sizes(self) -> FloatArray:
        """What a row's shortfall is measured against."""
        raise NotImplementedError

    def family_of(self) -> IntArray:
        """Position of each requirement's family."""
        sizes = [family.size for family in self.families.values()]
        return np.repeat(np.arange(len(sizes)), sizes)

    def codes(self, axis: str) -> IntArray:
        """Position of each requirement on an axis, -1 where that does not apply."""
        parts = [f.codes.get(axis, np.full(f.size, -1)) for f in self.families.values()]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def missed(self, x: FloatArray) -> FloatArray:
        """How much of each requirement a point of the model misses, relative; physics comes last.

        Physics is also the side that a row keeps once its requirement is given up.
        """
        model = self.model
        activity, terms = model.matrix @ x, abs(model.matrix) @ np.abs(x)
        found, sizes = np.zeros(self.size + 1), self.row_sizes()
        for owner, excess in (
            (self.lower, model.row_lower - activity),
            (self.upper, activity - model.row_upper),
            (np.full(len(activity), -1), self.freed_lower - activity),
        ):
            real = excess > 1e-9 * terms
            np.add.at(found, owner[real], excess[real] / sizes[real])
        used = x > 1e-9 * np.where(np.isfinite(model.column_upper), model.column_upper, 1.0)
        found[:-1] += used.astype(float) @ (self.closing != 0)
        broken = model.integer & (np.abs(x - np.round(x)) > SIGNIFICANT)
        found[self.whole[broken]] += 1.0
        return found


# -- models with fewer requirements --------------------------------------------------------------


class Clock:
    """Counts time down."""

    def __init__(self, limit_s: float) -> None:
        self.end = time.perf_counter() + limit_s

    @property
    def left_s(self) -> float:
        """Seconds left, at least a thousandth."""
        return max(self.end - time.perf_counter(), 1e-3)

    @property
    def over(self) -> bool:
        """Whether time has run out."""
        return time.perf_counter() >= self.end

    def share(self, of: float) -> Clock:
        """A clock with a share of what is left."""
        return Clock(of * self.left_s)


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows and columns of the whole model that matter for a question, with slack on some rows.

    Columns that stay closed are left out, and so are the components of the rest in which the zero
    plan meets every row.
    """

    rows: IntArray
    columns: IntArray
    short: IntArray
    over: IntArray
    model: Model
    """Columns first, then a slack a row of `short`, then one a row of `over`."""

    @property
    def slack(self) -> slice:
        """Where the slack columns stand."""
        return slice(len(self.columns), None)

    def change(self, session: Session | Combining, bounds: Bounds) -> None:
        """Give a session of the part other sides; a row that is freed has no slack."""
        upper, n = self.model.column_upper.copy(), len(self.columns)
        upper[:n] = bounds.column_upper[self.columns]
        freed_by = self.model.row_lower[self.short] - bounds.row_lower[self.rows[self.short]]
        short = slice(n, n + len(self.short))
        upper[short] = np.maximum(upper[short] - freed_by, 0.0)
        session.change(
            row_lower=bounds.row_lower[self.rows],
            row_upper=bounds.row_upper[self.rows],
            column_upper=upper,
        )

    def x(self, raw: RawResult, size: int) -> FloatArray:
        """The point in the whole model's columns."""
        assert raw.x is not None
        x = np.zeros(size)
        x[self.columns] = raw.x[: len(self.columns)]
        return x


def _cut(
    req: Requirements,
    bounds: Bounds,
    openable: BoolArray,
    slack: tuple[IntArray, IntArray] | None,
    integer: BoolArray,
    shared: bool = False,
) -> _Part:
    """The part of the model that matters.

    Parameters
    ----------
    req : Requirements
        Whose.
    bounds : Bounds
        The tightest that will be asked about.
    openable : ndarray of bool
        Closed columns that may be opened later.
    slack : pair of ndarray of int, or None
        Rows with slack at their lower and upper side; by default those that zero does not meet.
    integer : ndarray of bool
        Whole columns.
    shared : bool
        One slack for all rows.
    """
    model = req.model
    kept = np.flatnonzero((bounds.column_upper > 0) | openable)
    free = np.isinf(bounds.row_lower) & np.isinf(bounds.row_upper)
    matrix = sparse.csc_array(model.matrix)[:, kept].tocsr()
    label = _components(matrix, ~free)
    zero_fails = (bounds.row_lower > 0) | (bounds.row_upper < 0)
    matters = np.zeros(label.max(initial=-1) + 1, dtype=bool)
    matters[label[: matrix.shape[0]][zero_fails]] = True
    rows = np.flatnonzero(matters[label[: matrix.shape[0]]])
    inside = matters[label[matrix.shape[0] :]]
    columns = kept[inside]
    if slack is None:
        slack = (np.flatnonzero(bounds.row_lower > 0), np.flatnonzero(bounds.row_upper < 0))
    short, over = (np.flatnonzero(np.isin(rows, side)) for side in slack)
    at = np.concatenate([short, over])
    sign = np.concatenate([np.ones(len(short)), -np.ones(len(over))])
    own = np.arange(len(at)) * (not shared)
    count = min(len(at), 1) if shared else len(at)
    extra = sparse.csr_array((sign, (at, own)), shape=(len(rows), count))
    sub = matrix[rows][:, np.flatnonzero(inside)]
    upper = model.column_upper[columns]
    reach = abs(sub) @ np.where(np.isfinite(upper), upper, 0.0)
    low, high = model.row_lower[rows], model.row_upper[rows]
    freed = req.freed_lower[rows[short]]
    most = np.minimum(reach[short] + np.abs(low[short]), low[short] - freed)
    room = np.concatenate([most, reach[over] + np.abs(high[over])])
    room = np.full(count, room.max(initial=0.0)) if shared else room
    n = len(columns) + count
    return _Part(
        rows, columns, short, over,
        Model(
            model.name, {}, {"column": Block("column", {}, 0, n)},
            {"row": Block("row", {}, 0, len(rows))},
            sparse.hstack([sub, extra], format="csr"), low, high,
            np.zeros(n), np.concatenate([upper, room]),
            np.concatenate([integer[columns], np.zeros(count, dtype=bool)]),
            (StageObjective(np.zeros(n), 0.0),),
        ),
    )  # fmt: skip


def _components(matrix: Any, binding: BoolArray) -> IntArray:
    """Connected component of each row and column, rows that bind nothing left out."""
    rows, columns = matrix.shape
    graph = matrix.tocoo()
    kept = binding[graph.row]
    links = sparse.coo_array(
        (np.ones(kept.sum(), dtype=np.int8), (graph.row[kept], rows + graph.col[kept])),
        shape=(rows + columns, rows + columns),
    )
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)


def _with_cost(part: _Part, cost: FloatArray) -> Model:
    """The part with a cost of its slack."""
    c = np.concatenate([np.zeros(len(part.columns)), cost])
    return replace(part.model, stages=(StageObjective(c, 0.0),))


def _counts(model: Model) -> bool:
    """Whether the objective is a whole number wherever columns that must be whole are so."""
    c = model.stages[0].c
    priced = np.flatnonzero(c)
    rows = np.unique(sparse.csc_array(model.matrix)[:, priced].indices)
    part = sparse.csr_array(model.matrix)[rows]
    others = np.setdiff1d(part.indices, priced)
    sides = np.concatenate([model.row_lower[rows], model.row_upper[rows]])
    sides = sides[np.isfinite(sides)]
    numbers = np.concatenate([part.data, sides])
    whole = bool((numbers == np.round(numbers)).all() and model.integer[others].all())
    return whole and bool((c[priced] == 1).all())


@dataclass(frozen=True)
class _Settings:
    """How models are solved."""

    solver: str
    isolation: str
    threads: int
    seed: int

    def session(self, model: Model, **options: Any) -> Session | Combining:
        """A model kept in the solver, or in what suits it where the default is left to choose."""
        large = not model.is_integer and model.matrix.shape[1] >= LARGE
        if large and self.solver == "highs" and (groups := groups_of(model)) is not None:
            return Combining(model, groups)
        return Session(
            model,
            solver=self.solver,
            isolation=self.isolation,
            threads=self.threads,
            seed=self.seed,
            **options,
        )

    def near(self, model: Model, clock: Clock) -> RawResult | None:
        """Search among the columns that the relaxation uses and those next to their price.

        None for a model that is small or not made of groups, or if that finds nothing out. The
        bound is the relaxation's.
        """
        groups = groups_of(model) if model.matrix.shape[1] >= LARGE_WHOLE else None
        if groups is None or not model.is_integer:
            return None
        with self.session(replace(model, integer=np.zeros_like(model.integer))) as session:
            relaxed = session.solve(clock.left_s)
        if relaxed.termination == Termination.INFEASIBLE:
            return relaxed
        if relaxed.x is None or relaxed.row_dual is None:
            return None
        if np.abs(relaxed.x - np.round(relaxed.x))[model.integer].max() <= SIGNIFICANT:
            return relaxed
        c = model.stages[0].c
        bound = dual_bound(model, c, relaxed.row_dual)
        for count in SEARCHED:
            found = core(model, groups, relaxed.x, relaxed.row_dual, count)
            with self.session(found.model, gap=SMALLEST / 10) as session:
                raw = session.solve(min(SEARCH_S, clock.left_s))
            if raw.x is not None:
                x = found.whole(raw.x)
                gap = 1 - SIGNIFICANT if _counts(model) else SMALLEST * float(c @ x)
                closed = float(c @ x) - bound <= gap
                ended = Termination.OPTIMAL if closed else Termination.LIMIT
                return replace(raw, termination=ended, x=x, row_dual=None, tree_bound=bound)
        return None


# -- the search ----------------------------------------------------------------------------------


class _Deletion:
    """Gives up requirements one group after the other while what is left still conflicts.

    Where the linear relaxation conflicts, multipliers of a model whose demands may fall short tell
    at once which requirements take part; a set of requirements they prove infeasible is not solved
    at all. Otherwise every set is a mixed-integer feasibility problem.
    """

    def __init__(self, req: Requirements, settings: _Settings, clock: Clock) -> None:
        self.req, self.settings, self.clock = req, settings, clock
        self.standing = np.ones(req.size, dtype=bool)
        self.irreducible = True
        self.linear = True
        self.short = np.zeros(req.size)  # relative shortfall of each, while all stand
        self.proof: dict[str, Any] = {}
        self._dual: FloatArray | None = None
        self._missed: list[FloatArray] = []  # by known points
        self._part: _Part | None = None
        self._session: Session | Combining | None = None
        self._integer: BoolArray | None = None

    def close(self) -> None:
        """Let the solver go."""
        if self._session is not None:
            self._session.close()
        self._session = self._part = None

    # -- questions --

    def begin(self) -> bool | None:
        """Whether all requirements together conflict; None if time ran out."""
        self._focus(np.zeros(self.req.size, dtype=bool))
        found = self._conflicts(self.standing)
        if found and self.drop(np.unique(self.req.whole[self.req.whole >= 0])):
            self._narrow()
            return True
        if found is None or not self.req.model.is_integer:
            return found
        self.linear = False
        self._focus(np.zeros(self.req.size, dtype=bool))
        return True if found else self._conflicts(self.standing)

    def drop(self, leaves: Member) -> bool:
        """Give requirements up if the others still conflict."""
        standing = self.standing.copy()
        standing[leaves] = False
        if not standing.any():
            return False
        found = self._conflicts(standing)
        self.irreducible &= found is not None
        if found:
            self.standing = standing
        return bool(found)

    def _conflicts(self, standing: BoolArray) -> bool | None:
        stands = np.append(standing, True)  # physics
        if any(missed[stands].sum() <= SIGNIFICANT for missed in self._missed):
            return False
        if self._proved(standing):
            return True
        if self.clock.over:
            return None
        return self._solve_linear(standing) if self.linear else self._solve_whole(standing)

    def _proved(self, standing: BoolArray) -> bool:
        """Whether the last multipliers prove that these requirements conflict."""
        return self._bound(standing) > SIGNIFICANT

    def _bound(self, standing: BoolArray) -> float:
        """What the last multipliers prove of 0: that it is at least this, if no plan exists."""
        if self._dual is None:
            return -np.inf
        req, bounds = self.req, self.req.bounds(standing)
        model = replace(
            req.model,
            row_lower=bounds.row_lower,
            row_upper=bounds.row_upper,
            column_upper=bounds.column_upper,
        )
        nothing = np.zeros(len(bounds.column_upper))
        without = self._leaning_on(standing)
        return max(dual_bound(model, nothing, dual) for dual in (self._dual, without))

    def _leaning_on(self, standing: BoolArray) -> FloatArray:
        """The last multipliers, without those of lower sides that have been given up."""
        assert self._dual is not None
        stands = np.append(standing, True)[self.req.lower]
        return np.where(stands, self._dual, np.minimum(self._dual, 0.0))

    def _solve_linear(self, standing: BoolArray) -> bool | None:
        assert self._part is not None
        part, raw = self._part, self._run(standing)
        if raw.x is None or raw.row_dual is None or raw.termination != Termination.OPTIMAL:
            return None
        self._remember(raw)
        relative = raw.x[part.slack] * self._cost
        if standing.all():
            self.short[self.req.lower[part.rows[part.short]]] = relative[: len(part.short)]
        shortfall = float(relative.sum())
        before = self._dual
        self._dual = np.zeros(self.req.model.matrix.shape[0])
        self._dual[part.rows] = raw.row_dual
        if self._proved(standing):
            if standing.all():
                value = float(self.short.sum())
                self.proof = {
                    "value": value, "bound": self._bound(standing), "bound_source": "own-dual"
                }  # fmt: skip
            return True
        self._dual = before
        return False if shortfall <= SIGNIFICANT else None

    def _solve_whole(self, standing: BoolArray) -> bool | None:
        raw = self._run_near(standing) or self._run(standing)
        if raw.termination == Termination.INFEASIBLE:
            return True
        if raw.x is None:
            return None
        self._remember(raw)
        return False

    def _remember(self, raw: RawResult) -> None:
        """Keep what a point misses: any set without these requirements is feasible."""
        assert self._part is not None
        missed = self.req.missed(self._part.x(raw, self.req.model.matrix.shape[1]))
        if missed[-1] <= SIGNIFICANT:
            self._missed = [*self._missed[-20:], missed]

    # -- models --

    def _focus(self, questioned: BoolArray, again: bool = False) -> None:
        """Cut the model down to what matters while only these requirements may still be given up.

        Without any given up, columns that are closed can be left out.
        """
        req, bounds = self.req, self.req.bounds(self.standing)
        openable = (req.closing != 0) @ (questioned & self.standing).astype(float) > 0
        openable &= ~((req.closing != 0) @ (self.standing & ~questioned).astype(float) > 0)
        none = (np.zeros(0, dtype=np.int64),) * 2
        integer = np.zeros_like(bounds.integer) if self.linear else bounds.integer
        cut = _cut(req, bounds, openable, None if self.linear else none, integer)
        if again and self._part and 2 * len(cut.columns) > len(self._part.columns):
            return  # a model in the solver is worth more than one that is a little smaller
        self.close()
        self._part, self._integer = cut, bounds.integer
        rows = self._part.rows[np.concatenate([self._part.short, self._part.over])]
        self._cost = 1.0 / req.row_sizes()[rows]

    def _run(self, standing: BoolArray) -> RawResult:
        assert self._part is not None
        bounds = self.req.bounds(standing)
        if not self.linear and (bounds.integer != self._integer).any():
            self._swap_integrality(bounds.integer)
        if self._session is None:
            self._session = self.settings.session(_with_cost(self._part, self._cost))
        self._part.change(self._session, bounds)
        return self._session.solve(self.clock.left_s)

    def _run_near(self, standing: BoolArray) -> RawResult | None:
        """Look for whole numbers near a large model's relaxation; None if that says nothing."""
        assert self._part is not None
        part, bounds = self._part, self.req.bounds(standing)
        model = replace(
            part.model,
            row_lower=bounds.row_lower[part.rows],
            row_upper=bounds.row_upper[part.rows],
            column_upper=bounds.column_upper[part.columns],
            integer=bounds.integer[part.columns],
        )
        return self.settings.near(model, self.clock)

    def _swap_integrality(self, integer: BoolArray) -> None:
        """Whole numbers of some columns only: a new session, as sessions know all or none."""
        assert self._part is not None
        if self._session is not None:
            self._session.close()
        self._session, self._integer = None, integer
        kept = np.zeros_like(self._part.model.integer)
        kept[: len(self._part.columns)] = integer[self._part.columns]
        self._part = replace(self._part, model=replace(self._part.model, integer=kept))

    def _narrow(self) -> None:
        """Leave out what the multipliers do not use at all."""
        assert self._dual is not None
        used = np.zeros(self.req.size + 1, dtype=bool)
        used[self.req.lower[self._dual > 0]] = True
        used[self.req.upper[self._dual < 0]] = True
        closes = np.diff(self.req.closing.indptr) > 0
        unused = np.flatnonzero(~used[:-1] & ~closes & self.standing)
        if len(unused):
            self.drop(unused)

    # -- deletion --

    def run(self) -> list[Member]:
        """Members of an irreducible conflict."""
        by_period = self._find_periods()
        self._focus(np.ones(self.req.size, dtype=bool))
        axes = ["period"] if by_period else []
        families = self.req.family_of()
        members = self._split(np.flatnonzero(self.standing), axes, families)
        members = self.shrink(members)
        self._focus(np.ones(self.req.size, dtype=bool), again=True)
        for axis in self.req.axes if by_period else self.req.axes[:-1]:
            members = self._refine(members, axis)
        return members

    def shrink(
        self, members: list[Member], known: bool = False, most: float = np.inf
    ) -> list[Member]:
        """Give up members while the rest conflicts, the first ones first; return those needed.

        Parameters
        ----------
        members : list of ndarray
            In the order in which they are to be given up.
        known : bool
            Whether it is known that not all of them can be given up.
        most : float
            Stop looking once more than this are needed.
        """
        if not members or (not known and self.drop(np.concatenate(members))):
            return []
        if len(members) == 1:
            return members
        half = len(members) // 2
        first = self.shrink(members[:half], most=most)
        if len(first) > most:
            return first
        return first + self.shrink(members[half:], not first, most - len(first))

    def _find_periods(self) -> bool:
        """Keep few periods if few suffice; else keep all, to be told together."""
        period = self.req.codes("period")
        short = np.bincount(period[period >= 0], self.short[period >= 0])
        order = sorted(set(period[period >= 0].tolist()), key=lambda t: (short[t], -t))
        members = [np.flatnonzero((period == t) & self.standing) for t in order]
        before = self.standing
        self._focus(period >= 0)
        needed = self.shrink([member for member in members if len(member)], most=MANY_PERIODS)
        if len(needed) <= MANY_PERIODS:
            return True
        self.standing = before
        return False

    def _refine(self, members: list[Member], axis: str) -> list[Member]:
        """Split members along an axis and give up what is not needed, unless much is needed.

        Where the multipliers say that much is, the others come first: less may be needed then.
        """
        families = self.req.family_of()
        fine: list[list[Member] | None] = [None] * len(members)
        for last in (False, True):
            for number, member in enumerate(members):
                if fine[number] is None:
                    pieces = self._split(member, [axis], families)
                    fine[number] = self._needed(pieces, axis, last) if len(pieces) > 1 else [member]
        return [piece for pieces in fine for piece in pieces or ()]

    def _needed(self, pieces: list[Member], axis: str, last: bool) -> list[Member] | None:
        """Those pieces that are needed, or all together if they are many.

        None, but for the last time, where multipliers alone say that they are.
        """
        before, most = self.standing, self.req.many.get(axis, np.inf)
        needed = self._trimmed(pieces)
        if len(needed) > max(FEW_NEEDED * most, MANY_PIECES) and not last:
            self.standing = before
            return None
        if len(needed) <= max(FEW_NEEDED * most, MANY_PIECES):
            needed = self.shrink(needed, known=True, most=most)
        if len(needed) > most:
            self.standing, needed = before, [np.concatenate(pieces)]
        return needed

    def _trimmed(self, pieces: list[Member]) -> list[Member]:
        """Of many pieces those that the multipliers' proof needs, most of them first given up."""
        if len(pieces) <= MANY_PIECES or self._dual is None:
            return pieces
        weights = self._weights()
        order = np.argsort([weights[piece].sum() for piece in pieces], kind="stable")

        def left(count: int) -> BoolArray:
            standing = self.standing.copy()
            standing[np.concatenate([pieces[i] for i in order[:count]])] = False
            return standing

        low, high = 0, len(pieces)  # so many can be given up, so many cannot
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._proved(left(middle)) else (low, middle)
        self.standing = left(low) if low else self.standing
        return [pieces[i] for i in order[low:]]

    def _weights(self) -> FloatArray:
        """About what the multipliers' proof loses without each requirement."""
        req, model = self.req, self.req.model
        dual = clipped(model, self._leaning_on(self.standing))
        weights = np.zeros(req.size + 1)
        leans = dual > 0
        np.add.at(weights, req.lower[leans], dual[leans] * model.row_lower[leans])
        np.add.at(weights, req.upper[dual < 0], np.inf)
        opened = np.maximum(model.matrix.T @ dual, 0.0) * model.column_upper
        weights[:-1] += (req.closing != 0).T @ opened
        return weights[:-1]

    def _split(self, leaves: Member, axes: Sequence[str], families: IntArray) -> list[Member]:
        """Leaves by family and position on some axes, in the order of the families."""
        key = np.array([families[leaves], *(self.req.codes(axis)[leaves] for axis in axes)])
        _, group = np.unique(key, axis=1, return_inverse=True)
        group = group.ravel()
        return [leaves[group == g] for g in range(group.max(initial=-1) + 1)]


# -- relaxations ---------------------------------------------------------------------------------


def _gap(model: Model, raw: RawResult) -> float:
    """Relative gap between a point of a continuous model and its own bound."""
    if raw.x is None or raw.row_dual is None:
        return np.inf
    c = model.stages[0].c
    value = float(c @ raw.x)
    return (value - dual_bound(model, c, raw.row_dual)) / max(abs(value), 1e-300)


def rounded_up(value: float) -> str:
    """A number to six digits, rounded up: what is printed as enough has to be enough."""
    if value == 0 or not math.isfinite(value):
        return f"{value:,.6g}"
    digit = 10.0 ** (math.floor(math.log10(abs(value))) - 5)
    return f"{math.ceil(value / digit - 1e-6) * digit:,.6g}"


def rounded_down(value: float) -> str:
    """A number to six digits, rounded down."""
    text = rounded_up(-value)
    return text[1:] if text.startswith("-") else f"-{text}"


def _tidy(amount: float) -> float:
    """A whole number where only rounding keeps an amount from one."""
    nearest = float(round(amount))
    return nearest if abs(amount - nearest) <= 1e-9 * abs(amount) else amount


class _Relaxer:
    """The whole instance, with slack where a requirement may give way."""

    def __init__(self, req: Requirements, settings: _Settings, clock: Clock) -> None:
        self.req, self.settings, self.clock = req, settings, clock
        self.all = np.ones(req.size, dtype=bool)

    def rows_of(self, leaves: Member) -> tuple[IntArray, IntArray]:
        """Rows with a lower and with an upper side that requirements ask for."""
        return tuple(  # type: ignore[return-value]
            np.flatnonzero(np.isin(owner, leaves) & np.isfinite(side))
            for owner, side in (
                (self.req.lower, self.req.model.row_lower),
                (self.req.upper, self.req.model.row_upper),
            )
        )

    def least_missing(
        self, leaves: Member, bounds: Bounds, relative: bool = False, shared: bool = False
    ) -> tuple[_Part, Model, RawResult]:
        """Solve for the least total slack on the rows of some requirements, or one for all."""
        slack = self.rows_of(leaves)
        closed = np.zeros(len(bounds.column_upper), dtype=bool)
        part = _cut(self.req, bounds, closed, slack, bounds.integer, shared)
        rows = part.rows[np.concatenate([part.short, part.over])]
        count = part.model.matrix.shape[1] - len(part.columns)
        cost = 1.0 / self.req.row_sizes()[rows] if relative else np.ones(count)
        model = replace(
            _with_cost(part, cost),
            row_lower=bounds.row_lower[part.rows],
            row_upper=bounds.row_upper[part.rows],
        )
        return part, model, self._solve(model)

    def _solve(self, model: Model, sharply: bool = True) -> RawResult:
        """Solve, a continuous model more sharply again while its own bound leaves a gap."""
        if (near := self.settings.near(model, self.clock)) is not None:
            return near
        best: RawResult | None = None
        for options in ({}, *SHARPER) if sharply else ({},):
            with self.settings.session(model, **options) as session:
                raw = session.solve(self.clock.left_s)
            if best is None or best.x is None or _gap(model, raw) < _gap(model, best):
                best = raw
            if model.is_integer or raw.x is None or _gap(model, best) <= SMALLEST:
                break
        assert best is not None
        return best

    def _smallest(self, model: Model, raw: RawResult) -> bool:
        """Whether no smaller value is possible."""
        if model.is_integer:
            return raw.termination == Termination.OPTIMAL
        return _gap(model, raw) <= SMALLEST

    def amounts(self, part: _Part, raw: RawResult) -> dict[int, float]:
        """Slack by requirement, without what is rounding only."""
        assert raw.x is not None
        slack, sizes = raw.x[part.slack], self.req.row_sizes()
        rows = part.rows[np.concatenate([part.short, part.over])]
        owner = np.concatenate(
            [self.req.lower[part.rows[part.short]], self.req.upper[part.rows[part.over]]]
        )
        found: dict[int, float] = {}
        for at in np.flatnonzero(slack > SIGNIFICANT * sizes[rows]):
            leaf = int(owner[at])
            found[leaf] = found.get(leaf, 0.0) + float(slack[at])
        return {leaf: _tidy(amount) for leaf, amount in found.items()}

    def feasible(self, bounds: Bounds) -> bool | None:
        """Whether a plan exists between these bounds."""
        none = np.zeros(0, dtype=np.int64)
        closed = np.zeros(len(bounds.column_upper), dtype=bool)
        part = _cut(self.req, bounds, closed, (none, none), bounds.integer)
        model = replace(
            part.model,
            row_lower=bounds.row_lower[part.rows],
            row_upper=bounds.row_upper[part.rows],
        )
        raw = self._solve(model, sharply=False)
        if raw.termination == Termination.INFEASIBLE:
            return False
        return None if raw.x is None else True

    def alone(self, member: Member) -> Relaxation | None:
        """The least change of one member that makes a plan possible, if there is one."""
        if self.req.slack_rows(member):
            wide = self.req.widened(member)
            one = self.req.widened(member[:1])  # a number that many requirements share is one
            shared = len(wide) > len(member) or len(one) == len(wide) > 1
            part, model, raw = self.least_missing(wide, self.req.bounds(self.all), shared=shared)
            if raw.x is None or not part.model.matrix.shape[1] > len(part.columns):
                return None
            amount = _tidy(float(raw.x[part.slack].sum()))
            x, smallest = part.x(raw, self.req.model.matrix.shape[1]), self._smallest(model, raw)
            closer = self.req.closer(wide, amount, x, smallest)
            if closer.unsettled and not self.clock.over:
                return _Relaxer(closer, self.settings, self.clock).alone(member)
            return closer.relaxation(wide, amount, smallest)
        without = self.all.copy()
        without[member] = False
        if not self.feasible(self.req.bounds(without)):  # not known counts as no
            return None
        steps = self.req.steps(member)
        if steps is None:
            return self.req.relaxation(member, None, True)
        low, high, certain = 0, len(steps) - 1, True
        while low < high:
            middle = (low + high) // 2
            found = self.feasible(self.req.eased(member, float(steps[middle])))
            certain &= found is not None
            low, high = (low, middle) if found else (middle + 1, high)
        return self.req.relaxation(member, float(steps[low]), certain)

    def least(self) -> tuple[list[Relaxation], dict[str, Any]]:
        """The least relative change in all, and the proof that there must be one."""
        bounds, families = self.req.bounds(self.all), self.req.families
        for tier in self.req.tiers:
            leaves = [families[name] for name in tier if name in families]
            if not leaves:
                continue
            numbers = np.concatenate([np.arange(f.start, f.start + f.size) for f in leaves])
            part, model, raw = self.least_missing(numbers, bounds, relative=True)
            if raw.x is not None:
                found = self.req.least(self.amounts(part, raw), self._smallest(model, raw))
                return found, self._proof(model, raw)
            if raw.termination != Termination.INFEASIBLE:
                break
        return [], {}

    def _proof(self, model: Model, raw: RawResult) -> dict[str, Any]:
        """A positive lower bound on the change that is needed proves that there is no plan."""
        assert raw.x is not None
        c, value = model.stages[0].c, float(model.stages[0].c @ raw.x)
        bound = -np.inf if raw.row_dual is None else dual_bound(model, c, raw.row_dual)
        if model.is_integer:
            relaxed = self._solve(replace(model, integer=np.zeros_like(model.integer)))
            if relaxed.row_dual is not None:
                bound = dual_bound(model, c, relaxed.row_dual)
        source = "own-dual"
        if model.is_integer and bound <= NUMERICAL_FLOOR:
            bound, source = max(bound, raw.tree_bound), "tree"
        return {
            "value": value,
            "bound": float(bound) if np.isfinite(bound) else None,
            "bound_source": source,
        }


# -- the entry -----------------------------------------------------------------------------------


def explain(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    solver: str = "highs",
    isolation: str = "auto",
    seed: int = 0,
    threads: int = 1,
) -> Explanation:
    """Say why an instance has no plan, and what would help.

    Parameters
    ----------
    instance : Instance
        Which.
    time_limit : float
        Wall-clock limit, s. When it ends, what is known by then is returned.
    solver : str
        One that keeps a model between solves, such as "highs" or "highs-simplex".
    isolation : str
        As for `greenopt.solve`.
    seed, threads : int
        Given to the solver.

    Returns
    -------
    Explanation
        Also for an instance that has a plan: then it says so.

    Raises
    ------
    ModelError
        For something that is no instance, or a time limit that is not above 0 s.
    SolverError
        For a solver that cannot be used.
    """
    if not isinstance(instance, Instance):
        given = type(instance).__name__
        raise ModelError(f"expected an instance, got a {given}; greenopt.load reads a file")
    time_limit = arguments.time_limit_s(time_limit)
    arguments.seed(seed)
    arguments.threads(threads)
    find(solver)
    started, clock = time.perf_counter(), Clock(time_limit)
    req: Requirements = part(getattr(instance, "problem", ""), "requirements").requirements(
        instance
    )
    settings = _Settings(solver, isolation, threads, seed)
    found = _explained(req, settings, clock)
    return replace(found, runtime_s=time.perf_counter() - started)


def _explained(req: Requirements, settings: _Settings, clock: Clock) -> Explanation:
    search, own = _Deletion(req, settings, clock), clock.share(0.4)
    try:
        infeasible = search.begin()
        if infeasible is False:
            return Explanation(False, sentences=("a plan exists: nothing conflicts",))
        if infeasible is None:
            return Explanation(None, sentences=("time ran out before anything was found out",))
        search.clock = max(own, clock.share(0.2), key=lambda one: one.end)
        members = search.run()
    finally:
        search.close()
    missing = _missing(_Relaxer(req, settings, clock.share(0.1)), search.standing, members)
    least, proof = _Relaxer(req, settings, clock.share(0.5)).least()
    proof = proof or search.proof
    alone: dict[str, Relaxation] = {}
    chosen = _varied(req, members)[:MANY_RELAXATIONS]
    for number, member in enumerate(chosen):
        relaxer = _Relaxer(req, settings, clock.share(max(1 / (len(chosen) - number), 0.4)))
        if not clock.over and (found := relaxer.alone(member)) is not None:
            alone.setdefault(found.requirement, found)
    conflict = req.describe(members)
    return Explanation(
        True,
        tuple(conflict),
        search.irreducible,
        (*alone.values(), *least),
        (
            *(() if missing is None else req.headlines(members, missing)),
            *_sentences(search, members, list(alone.values()), least, clock.over),
        ),
        proof,
    )


def _missing(
    relaxer: _Relaxer, standing: BoolArray, members: list[Member]
) -> dict[int, float] | None:
    """How much of what a conflict is short of cannot be had while the rest of it stands.

    None if that was not found out.
    """
    short = relaxer.req.short_of(members)
    if not len(short):
        return {}
    part, model, raw = relaxer.least_missing(short, relaxer.req.bounds(standing))
    unproved = model.is_integer and raw.termination != Termination.OPTIMAL
    return None if raw.x is None or unproved else relaxer.amounts(part, raw)


def _varied(req: Requirements, members: Iterable[Member]) -> list[Member]:
    """One member of each kind first, then the others."""
    families, seen = req.family_of(), set[int]()
    first, later = list[Member](), list[Member]()
    for member in members:
        kind = int(families[member[0]])
        (later if kind in seen else first).append(member)
        seen.add(kind)
    return [*first[::-1], *later]


def _sentences(
    search: _Deletion,
    members: list[Member],
    alone: list[Relaxation],
    least: list[Relaxation],
    over: bool,
) -> list[str]:
    """The explanation in words."""
    texts = search.req.summary(members)
    lines = [f"cannot hold{' together' if len(texts) > 1 else ''}: {'; '.join(texts)}"]
    if not search.irreducible:
        lines.append("fewer of these may conflict already: time ran out before that was known")
    lines += [f"enough alone: {one.text}" for one in alone]
    if not alone:
        why = "time ran out" if over else "others conflict too"
        lines.append(f"no single change of these was found to be enough: {why}")
    lines += [f"least change in all: {one.text}" for one in least[:20]]
    if len(least) > 20:
        lines.append(f"and {len(least) - 20} more")
    return lines
