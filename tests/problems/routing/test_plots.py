"""Plots of routing: what is handed to the figure is what the plan says, and can be read."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from matplotlib.text import Text
from oracles.routing import instances, limit, llama, plain, small, term

import greenopt as go
from greenopt import plots
from greenopt.errors import ModelError, NoOptimumError, SolutionError
from greenopt.problems.routing import plots as routed
from greenopt.problems.routing.instance import RoutingInstance
from greenopt.problems.routing.showing import PLOTS

FOLDER = ROOT / "instances" / "routing"

QUERIES = [(3.0, 20.0, 100.0), (2.0, 100.0, 90.0), (1.0, 400.0, 300.0), (4.0, 50.0, 20.0)]

NAMES = ["llama-2-7b", "llama-2-13b", "llama-2-70b"]


def traded(zeta: float = 0.5, other: str = "accuracy_percent_tokens", **changes: Any) -> Any:
    """Ten queries whose energy is traded against accuracy, or run time, under one limit."""
    sign = -1.0 if other == "accuracy_percent_tokens" else 1.0
    terms = [term("energy_kwh", zeta, "largest"), term(other, sign * (1 - zeta), "largest")]
    limits = [limit("70b is used", "queries", NAMES[2:], lower=1.0, upper=6.0)]
    whole = {"objective": [{"terms": terms}], "limits": limits, "label": "batch 1", **changes}
    return RoutingInstance.parse(plain(QUERIES, **whole))


def published(name: str) -> RoutingInstance:
    """An instance of the repository."""
    instance: RoutingInstance = go.load(next(FOLDER.glob(f"{name}.json*")))
    return instance


def panels(figure: Any) -> list[Any]:
    """Axes that hold a picture, colour bars apart."""
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def overlapping(figure: Any, texts: list[Text]) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other, once drawn."""
    renderer = figure.canvas.get_renderer()
    shown = [text for text in texts if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    return [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if one.overlaps(two)]


def dots(ax: Any, gid: str) -> Any:
    """The collection of that name."""
    (found,) = (one for one in ax.collections if one.get_gid() == gid)
    return found


# all kinds


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
@pytest.mark.parametrize("kind", PLOTS)
def test_files_repeat(kind: str, ending: str, tmp_path: Path) -> None:
    """The same plan gives the same bytes, of the format that the ending names."""
    instance = traded()
    plan = go.solve(instance)
    for name in ("a", "b"):
        go.plot(instance, plan, tmp_path / f"{name}.{ending}", kind)
    first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("a", "b"))
    assert first == second
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])


@pytest.mark.parametrize("kind", PLOTS)
def test_every_figure_says_what_is_proved_and_how_it_was_measured(kind: str) -> None:
    """The title holds status, gap and label."""
    instance = traded()
    title = plots.figure(instance, go.solve(instance), kind).get_suptitle()
    assert "plain: optimal, within" in title
    assert "measurements: batch 1" in title


@pytest.mark.parametrize("name", ["alpaca-500", "azure-conv-modern", "legacy-chat"])
@pytest.mark.parametrize("kind", ["overview", "partition", "utilisation"])
def test_real_workloads_can_be_read(kind: str, name: str) -> None:
    """No label of an axis covers another, nor does a title, for 500 and for 20,000 queries."""
    instance = published(name)
    figure = plots.figure(instance, go.solve(instance, gap=0.01, time_limit=30), kind)
    figure.draw_without_rendering()
    for ax in panels(figure):
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            assert overlapping(figure, labels) == []
    titles = [ax.title for ax in panels(figure)]
    assert overlapping(figure, [*titles, figure._suptitle]) == []
    assert overlapping(figure, [text for legend in figure.legends for text in legend.texts]) == []


def test_needs_a_plan_of_the_instance() -> None:
    """A plan of another instance, or one without its array or metrics: said so."""
    instance = traded()
    plan = go.solve(instance)
    with pytest.raises(SolutionError, match="another instance"):
        plots.figure(traded(0.4), plan)
    document = copy.deepcopy(plan.document())
    document["decision"]["sent"] = document["decision"].pop("assigned")
    with pytest.raises(ModelError, match="the plan lacks 'assigned', over query, deployment"):
        plots.figure(instance, go.Solution.parse(document))
    document = copy.deepcopy(plan.document())
    del document["metrics_by"]["deployment"]["tokens"]
    with pytest.raises(ModelError, match="lacks tokens by deployment"):
        plots.figure(instance, go.Solution.parse(document))
    document = copy.deepcopy(plan.document())
    del document["metrics"]["energy_kwh"]
    with pytest.raises(ModelError, match=r"the solution lacks energy_kwh$"):
        plots.figure(instance, go.Solution.parse(document))
    with pytest.raises(ModelError, match="known are overview, partition, zeta, utilisation"):
        plots.figure(instance, plan, "flows")


def test_colours_follow_the_queries() -> None:
    """The seven largest have a colour each, the others are grey; ties go by order."""
    deployments = [llama("llama-2-7b") | {"name": f"d{i}"} for i in range(9)]
    caps = [limit(f"c{i}", "queries", [f"d{i}"], upper=float(i)) for i in range(9)]
    instance = RoutingInstance.parse(
        plain([(36.0, 20.0, 100.0)], deployments=deployments, limits=caps)
    )
    found = routed.colours(go.solve(instance))
    assert found[:2] == ["0.6", "0.6"]
    assert len(set(found[2:])) == 7
    assert found[8] == "#0072B2"


# overview


def test_bars_are_shares() -> None:
    """Lengths are per cents of the total, and the amounts stand at their ends."""
    instance = traded()
    plan = go.solve(instance)
    axes = panels(plots.figure(instance, plan))
    metrics = ("queries", "tokens", "energy_kwh")
    assert len(axes) == len(metrics)
    for ax, metric in zip(axes, metrics, strict=True):
        values = np.array(plan.metrics_by["deployment"][metric])
        widths = [bar.get_width() for bar in ax.patches]
        assert widths == pytest.approx(100 * values / values.sum())
        shown = [float(text.get_text().replace(",", "")) for text in ax.texts]
        assert shown == pytest.approx(values, rel=0.01, abs=0.5 * (metric != "energy_kwh"))
    assert [label.get_text() for label in axes[0].get_yticklabels()] == NAMES
    assert axes[2].get_title().startswith("Energy: ")
    assert axes[2].get_title().endswith(" kWh")


def test_overview_shows_carbon_and_cost_where_they_exist() -> None:
    """Panels are those of the metrics that the instance has."""
    instance = small(limits=[], accuracy_floor_percent=None)
    figure = plots.figure(instance, go.solve(instance))
    titles = [ax.get_title().split(":")[0] for ax in panels(figure)]
    assert titles == ["Queries", "Tokens", "Energy", "Carbon", "Cost"]


def test_idle_deployments_of_many_are_counted() -> None:
    """Of 65 deployments only those that answer are drawn, and the title counts the others."""
    instance = published("legacy-chat")
    plan = go.solve(instance, gap=0.01, time_limit=30)
    figure = plots.figure(instance, plan)
    used = int((np.array(plan.metrics_by["deployment"]["queries"]) > 0).sum())
    assert len(panels(figure)[0].patches) == used
    assert f"{65 - used} more deployments answer nothing" in figure.get_suptitle()


# partition


@settings(max_examples=20, deadline=None)
@given(instances())
def test_dots_are_the_plan(instance: RoutingInstance) -> None:
    """Entries are the plan's, each with the tokens on the deployment that answers it."""
    plan = go.solve(instance, bound=False, explain=False, time_limit=20)
    if not plan.decision:
        return
    found = routed.answered(instance, plan)
    dense = plan.array("assigned").dense()
    expected = Counter(
        (instance.tokens_in[q], instance.tokens_out[q, k], k, dense[q, k])
        for q, k in np.argwhere(dense > 0).tolist()
    )
    assert Counter(zip(*map(np.ndarray.tolist, found), strict=True)) == expected
    assert (np.diff(found.number) <= 0).all()


def test_plane_shows_who_answers() -> None:
    """Places are tokens, colours those of the deployments, areas as the queries."""
    instance = traded()
    plan = go.solve(instance)
    figure = plots.figure(instance, plan, "partition")
    main, top, side = panels(figure)
    drawn = dots(main, "queries")
    found = routed.answered(instance, plan)
    assert drawn.get_offsets().data.tolist() == [
        [a, b] for a, b in zip(found.tokens_in, found.tokens_out, strict=True)
    ]
    from matplotlib.colors import to_rgb

    colour = routed.colours(plan)
    assert [tuple(c[:3]) for c in drawn.get_facecolors()] == [
        to_rgb(colour[k]) for k in found.deployment
    ]
    areas = drawn.get_sizes()
    assert areas / areas[0] == pytest.approx(found.number / found.number[0])
    assert main.get_xlabel() == "input tokens of a query"
    assert main.get_ylabel() == "output tokens of a query"
    assert {main.get_xscale(), main.get_yscale()} == {"log"}
    names = [text.get_text() for text in figure.legends[0].texts]
    queries = plan.metrics_by["deployment"]["queries"]
    used = [k for k in range(3) if queries[k] > 0]
    assert len(used) > 1
    assert len(names) == len(used)
    for k in used:
        assert f"{NAMES[k]}: {queries[k]:g} queries ({queries[k] / 10:.1%})" in names
    for ax, size in ((top, "get_height"), (side, "get_width")):
        total = sum(getattr(bar, size)() for bar in ax.patches)
        ranges = total / 100  # every range with queries is full
        assert ranges == pytest.approx(round(ranges))
        assert ranges <= len(QUERIES)


def test_counts_of_ranges_add_up() -> None:
    """Every query is in one range, also the shortest and the longest."""
    instance = published("alpaca-500")
    plan = go.solve(instance)
    found = routed.answered(instance, plan)
    groups = routed._groups(instance, plan)
    for tokens in (found.tokens_in, found.tokens_out):
        number = routed.counts(tokens, found, groups, routed.edges(tokens))
        assert number.sum() == 500
        assert sorted(number.sum(axis=1)) == [1, 3, 496]


@pytest.mark.parametrize("tokens", [[0.0, 5.0, 700.0], [3.0], [1.0, 1.0, 2.0], [0.0], [0.4, 0.5]])
def test_ends_of_ranges_hold_all(tokens: list[float]) -> None:
    """Ends rise, and nothing lies beyond them; below 1 there is one range."""
    ends = routed.edges(np.array(tokens))
    assert (np.diff(ends) > 0).all()
    assert ends[0] <= min(tokens)
    assert ends[-1] >= max(tokens)


@pytest.mark.parametrize("way", ["input", "output"])
def test_one_number_of_tokens_is_a_line(way: str) -> None:
    """Where all prompts (or answers) are alike, queries are counted along the other number."""
    swap = [(n, 0.0, o) if way == "output" else (n, o, 30.0) for n, _, o in QUERIES]
    instance = RoutingInstance.parse(plain(swap))
    (ax,) = panels(plots.figure(instance, go.solve(instance), "partition"))
    assert ax.get_xlabel() == f"{way} tokens of a query"
    assert sum(bar.get_height() for bar in ax.patches) == 10


def test_prompts_of_nothing_have_a_place() -> None:
    """Zero tokens among others are drawn on an axis that is linear below 1."""
    instance = RoutingInstance.parse(plain([*QUERIES, (1.0, 0.0, 50.0)]))
    main = panels(plots.figure(instance, go.solve(instance), "partition"))[0]
    assert main.get_xscale() == "symlog"
    assert main.get_xlim()[0] < 0


# zeta


def test_zeta_of_an_objective() -> None:
    """Both published forms have it, whatever their normalisation."""
    assert routed.zeta_of(traded(0.25)) == 0.25
    assert routed.zeta_of(traded(1.0)) == 1.0
    assert routed.zeta_of(traded(0.95, "runtime_s")) == 0.95
    assert routed.zeta_of(published("hybrid-llama2")) == 0.95
    assert routed.zeta_of(published("alpaca-500-zeta0")) == 0.0


@pytest.mark.parametrize(
    "terms",
    [
        [term("energy_kwh", 1.0)],
        [term("energy_kwh", 0.5), term("accuracy_percent_tokens", 0.5)],
        [term("energy_kwh", 0.5), term("accuracy_percent_tokens", -0.6)],
        [term("energy_kwh", 1.5), term("runtime_s", -0.5)],
        [term("energy_kwh", 0.5), term("energy_kwh", 0.5)],
        [term("energy_kwh", 0.5), term("runtime_s", 0.5), term("gpu_h", 0.0)],
    ],
)
def test_objectives_without_zeta_are_refused(terms: list[Any]) -> None:
    """Other terms, weights or stages are no trade-off by one number."""
    instance = traded(objective=[{"terms": terms}])
    with pytest.raises(ModelError, match="plain: the objective has no zeta; expected one stage"):
        plots.figure(instance, go.solve(instance), "zeta")
    twice = traded(objective=[{"terms": terms}] * 2)
    with pytest.raises(ModelError, match="has no zeta"):
        routed.with_zeta(twice, 0.5)


def test_with_zeta_changes_weights_only() -> None:
    """Normalisation, limits and tolerance stay; a zeta beyond 0 to 1 is refused."""
    instance = traded(0.5)
    other = routed.with_zeta(instance, 0.25)
    assert other.limits == instance.limits
    assert [t.weight for t in other.objective[0].terms] == [0.25, -0.75]
    assert {t.normalisation for t in other.objective[0].terms} == {"largest"}
    timed = routed.with_zeta(traded(0.5, "runtime_s"), 1.0)
    assert [t.weight for t in timed.objective[0].terms] == [1.0, 0.0]
    for zeta in (-0.1, 1.5, float("nan")):
        with pytest.raises(ModelError, match="expected a number from 0 to 1"):
            routed.with_zeta(instance, zeta)


def test_sweep_has_the_reference_optima() -> None:
    """Optima recomputed elsewhere, and what must hold of any optimum over zeta."""
    zetas = [n / 10 for n in range(11)]
    plans = routed.sweep(published("alpaca-500"), zetas)
    objective = np.array([plan.objective for plan in plans])
    assert objective[[0, 5, 10]] == pytest.approx([-116.969487, -42.322440, 9.198963], abs=1e-6)
    assert plans[5].metrics_by["deployment"]["queries"] == [1, 496, 3]
    assert plans[5].metrics["energy_kwh"] == pytest.approx(1.2179, abs=5e-5)
    assert plans[10].metrics["accuracy_percent"] == pytest.approx(50.977, abs=5e-4)
    for metric in ("energy_kwh", "accuracy_percent"):
        assert (np.diff([plan.metrics[metric] for plan in plans]) <= 1e-9).all()
    assert (np.diff(objective, 2) <= 1e-9).all()


def test_alone_is_as_published() -> None:
    """Energy and run time of 52,002 queries by each model alone (energy-inference @5c2cfa4)."""
    found = routed.alone(published("alpaca-52k"))
    expected = {
        "Llama-2 7B": (74.770, 13.701, 50.97),
        "Llama-2 13B": (132.753, 23.397, 55.69),
        "Llama-2 70B": (985.157, 115.374, 64.52),
    }
    assert found.keys() == expected.keys()
    for name, own in found.items():
        assert tuple(own.values()) == pytest.approx(expected[name], abs=1e-3)


def test_alone_leaves_out_who_may_not() -> None:
    """A deployment that may not answer every query is no single answer."""
    assert set(routed.alone(published("hybrid-llama2"))) == {"A100", "V100"}


def test_front_is_optima_by_zeta() -> None:
    """Dots are optima, among them those of even zeta; more lie where neighbours were far apart."""
    instance = published("alpaca-500")
    plan = go.solve(instance)
    figure = plots.figure(instance, plan, "zeta")
    plane, energy, accuracy = panels(figure)
    drawn = dots(plane, "optima")
    zeta = np.array(drawn.get_array())
    assert set(routed.ZETAS) <= set(zeta.tolist())
    assert len(routed.ZETAS) < len(zeta) <= routed.MOST_OPTIMA
    assert (np.diff(zeta) > 0).all()
    at = zeta.tolist().index(0.5)
    here = [plan.metrics["energy_kwh"], plan.metrics["accuracy_percent"]]
    assert drawn.get_offsets().data[at] == pytest.approx(here)
    assert dots(plane, "this").get_offsets().data[0] == pytest.approx(here)
    for ax, column in ((energy, 0), (accuracy, 1)):
        line, marked = ax.get_lines()
        assert line.get_xdata() == pytest.approx(zeta)
        assert line.get_ydata() == pytest.approx(drawn.get_offsets().data[:, column])
        assert list(marked.get_xdata()) == [0.5, 0.5]
    names = [text.get_text() for text in plane.get_legend().texts]
    assert "Llama-2 70B: 9.03 kWh, 64.5 %" in names
    assert "this plan" in names


def test_far_and_forbidden_singles_are_told() -> None:
    """What lies far off, or may not answer everything, is in the legend and not in the plane."""
    instance = published("hybrid-llama2")
    plane = panels(plots.figure(instance, go.solve(instance), "zeta"))[0]
    names = [text.get_text() for text in plane.get_legend().texts]
    assert "M1 Pro: may not answer all" in names
    (line,) = (name for name in names if name.startswith("V100"))
    assert line.endswith(", off the plot")
    assert plane.get_xlim()[1] < 0.2


def test_no_time_for_optima() -> None:
    """Without enough time there is no figure, and the message says how far it came."""
    instance = traded()
    with pytest.raises(NoOptimumError, match=r"zeta 0 within 1e-09 s, only 0 at others"):
        plots.figure(instance, go.solve(instance), "zeta", time_limit=1e-9)


# utilisation


def test_sides_by_hand() -> None:
    """Use is value over largest or least over value; prices lean on the side that binds."""
    instance = traded(1.0)  # energy alone: the 70B answers no more than it must
    plan = go.solve(instance)
    least, most = routed.sides(instance, plan)
    assert (least.value, least.side, least.used) == (1.0, 1.0, 1.0)
    assert (most.value, most.side, most.used) == (1.0, 6.0, pytest.approx(1 / 6))
    price = float(plan.marginals["limit"].dense()[0])
    assert price > 0
    assert (least.price, most.price) == (price, 0.0)
    assert (least.gain, most.gain) == (pytest.approx(price / 100), 0.0)
    assert least.name == "70b is used\nat least 1 queries"
    assert least.unit == "query"


@pytest.mark.parametrize("upper", range(1, 9))
def test_prices_support_the_optimum(upper: int) -> None:
    """One more query, or one less, is worth no more than the price of the side says."""

    def limited(most: int) -> RoutingInstance:
        return traded(0.0, limits=[limit("70b", "queries", NAMES[2:], upper=float(most))])

    less, here, more = (go.solve(limited(most)) for most in (upper - 1, upper, upper + 1))
    (side,) = routed.sides(limited(upper), here)
    assert side.used == 1.0
    assert side.price < 0  # accuracy alone: all want the 70B
    assert side.gain == pytest.approx(-side.price * upper / 100)
    slack = 1e-9 * abs(here.objective)
    assert more.objective - here.objective >= side.price - slack
    assert less.objective - here.objective >= -side.price - slack


@pytest.mark.parametrize("floor", [52.0, 56.0, 60.0])
def test_floor_is_a_side(floor: float) -> None:
    """Its price per per cent is a slope of the relaxation's optimum over the floor."""
    step, found, bounds = 0.01, [], []
    for percent in (floor, floor + step):
        instance = traded(1.0, accuracy_floor_percent=percent, limits=[])
        plan = go.solve(instance, gap=0.0)
        (side,) = routed.sides(instance, plan)
        assert side.used == pytest.approx(percent / plan.metrics["accuracy_percent"])
        assert side.used <= 1 + 1e-6
        found.append(side)
        bounds.append(go.certify(instance, plan).stages[-1].proved_bound)
    slope = (bounds[1] - bounds[0]) / step  # convex: between the slopes at both ends
    assert found[0].price > 0
    assert found[0].unit == "%"
    assert found[0].price * (1 - 1e-6) <= slope <= found[1].price * (1 + 1e-6)


def test_bars_of_limits_are_their_use() -> None:
    """Bars are per cents of the sides, red where there is a price, and gains beside them."""
    instance = traded(1.0)
    plan = go.solve(instance)
    used, gain = panels(plots.figure(instance, plan, "utilisation"))
    assert [bar.get_width() for bar in used.patches] == pytest.approx([100.0, 100 / 6])
    red, blue = (bar.get_facecolor() for bar in used.patches)
    assert red != blue
    assert [text.get_text() for text in used.texts] == ["1 (100.0%)", "1 (16.7%)"]
    assert [bar.get_width() > 0 for bar in gain.patches] == [True, False]
    assert gain.texts[0].get_text().endswith(" per query")
    assert gain.texts[1].get_text() == "0"


def test_without_prices_there_is_no_second_panel() -> None:
    """A plan without multipliers shows use alone, and says so; nothing to use is refused."""
    instance = traded()
    document = copy.deepcopy(go.solve(instance).document())
    document["stages"][0]["marginals"] = {}
    bare = go.Solution.parse(document)
    figure = plots.figure(instance, bare, "utilisation")
    assert len(panels(figure)) == 1
    assert "no prices" in figure.get_suptitle()
    free = traded(limits=[])
    with pytest.raises(ModelError, match="there are no limits and no accuracy floor"):
        plots.figure(free, go.solve(free), "utilisation")


def test_prices_of_a_search_are_called_relaxed() -> None:
    """Where a search found the plan, the title says where the prices come from."""
    limits = [limit("hours", "gpu_h", None, upper=0.2)]
    instance = traded(0.2, limits=limits)
    plan = go.solve(instance)
    assert plan.bound_source in ("tree", "lp")
    title = plots.figure(instance, plan, "utilisation").get_suptitle()
    assert "prices are those of the linear relaxation" in title


def test_sides_of_nothing_have_no_share() -> None:
    """A largest value of 0, and a value below 0, have no share in per cent."""
    for value, side, upper in ((0.0, 0.0, True), (-1.0, 2.0, True), (2.0, -1.0, False)):
        own = routed.Side("s", value, side, upper, None, "kWh")
        assert np.isnan(own.used)
        assert own.gain is None
