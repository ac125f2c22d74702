"""A problem of a few lines, to see that nothing outside placement's package needs placement.

Items go to deployments that take so many each; every item costs energy there. The one file stands
for all modules of the problem's package. Axes, metrics, terms and plots are not placement's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
from scipy import sparse

from greenopt import problems
from greenopt.instance import Instance, Provenance, Quantity
from greenopt.labelled import FloatArray, LabelledArray
from greenopt.model import Block, Directions, Model, StageObjective
from greenopt.showing import Column, Fact
from greenopt.validation import NonNegative, NotBoolean, Number, Part, Positive, Text

PARTS = ("instance", "formulation", "marginals", "check", "certify", "methods", "showing", "plots")


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the problem known for one test."""
    monkeypatch.setitem(problems.PROBLEMS, "stub", "StubInstance")
    for name in PARTS:
        monkeypatch.setitem(sys.modules, f"greenopt.problems.stub.{name}", sys.modules[__name__])


# -- instance ------------------------------------------------------------------------------------


class Term(Part):
    """A term without `over_sites`, with a normalisation."""

    metric: Literal["energy_kwh", "items"]
    weight: Number
    scale: Positive = 1.0
    normalisation: Literal["none", "largest"] = "none"


class Stage(Part):
    """A weighted sum to minimise."""

    terms: tuple[Term, ...]
    tolerance: NonNegative = 1e-6


class StubInstance(Instance):
    """Items and the deployments they may go to."""

    title: ClassVar[str] = "Items to deployments"

    problem: Literal["stub"]
    schema_version: Annotated[Literal[1], NotBoolean]
    name: Text
    provenance: Provenance
    deployments: tuple[Text, ...]
    items: NonNegative
    most: Annotated[FloatArray, Quantity(("deployment",), "items", minimum=0)]
    energy_kwh: Annotated[FloatArray, Quantity(("deployment",), "kWh")]
    objective: tuple[Stage, ...]


def instance(**changes: Any) -> StubInstance:
    """Ten items; the first deployment takes four at 1 kWh, the second any at 3 kWh."""
    whole = {
        "problem": "stub",
        "schema_version": 1,
        "name": "ten",
        "provenance": {
            "description": "ten items",
            "builder": "by hand",
            "data_licence": "CC0-1.0",
            "sources": [],
            "rules": ["Nothing here is real."],
        },
        "deployments": ["small", "large"],
        "items": 10.0,
        "most": [4.0, 100.0],
        "energy_kwh": [1.0, 3.0],
        "objective": [
            {
                "terms": [
                    {"metric": "energy_kwh", "weight": 6.0, "normalisation": "largest"},
                    {"metric": "items", "weight": 1.0, "scale": 1000.0},
                ]
            }
        ],
    }
    return StubInstance.parse({**whole, **changes})


# -- formulation, marginals ----------------------------------------------------------------------


class Formulation:
    """The model: a column a deployment, a row for the items. Also what `marginals` asks for."""

    curved, suits = False, None
    metrics = ("energy_kwh",)
    sums: ClassVar[dict[str, str]] = {}
    count = "items"

    def __init__(self, inst: StubInstance) -> None:
        self.instance, n = inst, len(inst.deployments)
        self.model = Model(
            inst.name,
            dict(inst.sets),
            {"sent": Block("sent", {"deployment": np.arange(n)}, 0, n)},
            {
                "items": Block("items", {}, 0, 1),
                "most": Block("most", {"deployment": np.arange(n)}, 1, n),
            },
            sparse.csr_array(np.vstack([np.ones(n), np.eye(n)])),
            np.append(inst.items, np.full(n, -np.inf)),
            np.append(inst.items, inst.most),
            np.zeros(n),
            np.full(n, inst.items),
            np.zeros(n, dtype=bool),
            tuple(
                StageObjective(
                    sum(map(self.term_vector, stage.terms), np.zeros(n)), stage.tolerance
                )
                for stage in inst.objective
            ),
        )

    def metric_vector(self, name: str) -> FloatArray:
        """Coefficients of a metric."""
        every = {"energy_kwh": self.instance.energy_kwh, "items": np.ones(len(self.instance.most))}
        return every[name]

    def term_vector(self, term: Term) -> FloatArray:
        """Coefficients of a term."""
        vector = self.metric_vector(term.metric)
        size = vector.max() if term.normalisation == "largest" else 1.0
        return term.weight / (term.scale * size) * vector

    def decode(self, x: FloatArray) -> dict[str, LabelledArray]:
        """The plan."""
        return {"sent": self.model.pick(self.model.columns["sent"], "items", x)}

    def below(self) -> None:
        """No curves."""

    def proving(self, model: Model, stage: int, row_dual: FloatArray) -> FloatArray:
        """Multipliers prove as they are."""
        return row_dual

    def marginals_of(self, model: Model, row_dual: FloatArray) -> dict[str, LabelledArray]:
        """The price of an item."""
        return {"items": LabelledArray.from_dense("items", "objective per item", {}, row_dual[0])}

    def mean_in(self, stage: int) -> FloatArray:
        """No means."""
        return np.zeros(len(self.instance.most))

    def directions(self) -> dict[str, Directions]:
        """One more item at each deployment."""
        n = len(self.instance.most)
        rows = sparse.csc_array(np.eye(n + 1)[:, 1:])
        labels = dict(self.instance.sets)
        return {"most": Directions("place", labels, np.arange(n)[None], rows, np.zeros(n))}

    def for_marginals(self, x: FloatArray | None = None) -> Model:
        """The model without bounds that rows imply."""
        return replace(self.model, column_upper=np.full(len(self.instance.most), np.inf))


def formulate(inst: StubInstance) -> Formulation:
    """The model of an instance."""
    return Formulation(inst)


# -- check, certify, methods ---------------------------------------------------------------------

RULES: dict[str, str] = {}


def evaluate(inst: StubInstance, decision: Mapping[str, LabelledArray], tolerance: float) -> Any:
    """What a plan is worth, by item and deployment."""
    sent = decision["sent"].dense()
    short = abs(float(sent.sum()) - inst.items) > tolerance * inst.items
    largest = {"energy_kwh": max(inst.energy_kwh), "items": 1.0}
    by = {"energy_kwh": (sent * inst.energy_kwh).tolist(), "items": sent.tolist()}
    totals = {name: float(sum(values)) for name, values in by.items()}
    stages = [
        sum(
            t.weight * totals[t.metric] / t.scale
            / (largest[t.metric] if t.normalisation == "largest" else 1.0)
            for t in stage.terms
        )
        for stage in inst.objective
    ]  # fmt: skip
    return SimpleNamespace(
        metrics=totals,
        metrics_by={"deployment": by},
        stages=stages,
        stage_tolerances=[stage.tolerance for stage in inst.objective],
        violations=["items are left over"] if short else [],
        notes={"largest": inst.deployments[int(np.argmax(sent))]},
    )


def lower_bound(
    inst: StubInstance, stage: int, marginals: Mapping[str, LabelledArray], earlier: list[float]
) -> tuple[float, float]:
    """Weak duality with the price of an item."""
    price = float(marginals["items"].values[0])
    cost = formulate(inst).model.stages[stage].c
    saved = np.minimum(cost - price, 0.0) * inst.most
    return price * inst.items + float(saved.sum()), abs(price * inst.items) + float(-saved.sum())


# -- showing, plots ------------------------------------------------------------------------------

COLUMNS: tuple[Column, ...] = (("energy_kwh", "energy kWh", ",.1f"),)
BREAKDOWN = ("deployment", (("items", "items", ",.0f"), *COLUMNS))
FACTS = {"items": Fact(lambda inst: inst.items, lambda items: f"items: {items:g}\n  to be sent")}
MODEL_FACTS = {
    "open": Fact(lambda own: int((own.model.column_upper > 0).sum()), lambda n: f"open: {n}")
}
DIRECTIONS = {"most": "one more place"}
PLOTS = {"overview": "items by deployment", "spiral": "the same, less clearly"}
TERM_SUFFIX = None


def objective(inst: StubInstance) -> Iterator[str]:
    """Lines of stages."""
    for stage in inst.objective:
        yield "minimise " + " + ".join(f"{t.weight:g} {t.metric}" for t in stage.terms)


def notes(said: Mapping[str, Any]) -> Iterator[str]:
    """Lines of notes."""
    yield f"most items go to {said['largest']}"


def draw(figure: Any, inst: Any, solution: Any, kind: str, *, time_limit: float) -> None:
    """A bar a deployment."""
    ax = figure.subplots()
    ax.bar(solution.sets["deployment"], solution.metrics_by["deployment"]["items"])
    ax.set_title(kind)
