"""Plots: what is handed to the figure is what the plan says, and can be read."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.text import Annotation, Text
from oracles import tiny as oracle
from oracles.tiny import Document, random_document

import greenopt as go
from greenopt import drawing, plots
from greenopt.errors import ModelError, NoOptimumError, SolutionError
from greenopt.problems.placement import plots as placed
from greenopt.problems.placement.showing import PLOTS

QUICK = Path(__file__).resolve().parents[1] / "instances" / "placement" / "quick.json"

PLACES = {
    "us": {"latitude_deg": 40.0, "longitude_deg": -75.0},
    "europe": {"latitude_deg": 50.0, "longitude_deg": 8.0},
    "oregon": {"latitude_deg": 45.0, "longitude_deg": -121.0},
    "sweden": {"latitude_deg": 50.0, "longitude_deg": 8.0},
}
"""Of the hand-made document; Europe's requests arise where Sweden's GPUs stand."""

CITIES = {
    "Virginia": (39.0, -77.5), "California": (37.8, -122.4), "Texas": (32.8, -96.8),
    "London": (51.5, -0.1), "Frankfurt": (50.1, 8.7), "Tokyo": (35.7, 139.7),
    "Sydney": (-33.9, 151.2), "Sao Paulo": (-23.6, -46.6),
}  # fmt: skip


def tiny(**overrides: Any) -> go.PlacementInstance:
    """The hand-made instance, with places."""
    document = copy.deepcopy(oracle.tiny(**{"locations": PLACES, **overrides}))
    return go.PlacementInstance.parse(document)


def queue(**overrides: Any) -> go.PlacementInstance:
    """Two instances of two GPUs each, of six, serve an hour's 3600 requests of half a second."""
    level = {"requests_per_s": 1.8, "power_w": 1000.0, "itl_s": {"mean": 0.02},
             "prefill_s": [0.1, 0.2]}  # fmt: skip
    law = {"service_s": 0.5, "service_cv2": 1.0, "arrival_cv2": 1.0}
    whole = oracle.tiny()
    document = whole | {
        "periods": {"start": ["2023-07-18T00:00Z"], "duration_s": [3600.0]},
        "origins": ["us"],
        "sites": ["oregon"],
        "modes": ["fast"],
        "models": [{"name": "8b", "weight_bytes": None, "kv_bytes_per_token": None}],
        "gpu_types": whole["gpu_types"][:1],
        "profiles": [
            {
                "model": "8b", "mode": "fast", "gpu_type": "h100", "gpus_per_instance": 2.0,
                "power_boundary": "server", "prefill_tokens": [16.0, 4096.0], "levels": [level],
                "queue": law,
            }
        ],
        "classes": [
            {
                "name": "assist", "model": "8b", "egress_bytes_per_request": 0.0,
                "prompt_tokens": {"values": [64.0], "probabilities": [1.0]},
                "output_tokens": {"values": [64.0], "probabilities": [1.0]},
                "work_per_request": {"fast": 1.0},
            }
        ],
        "demand_requests": [[[3600.0]]],
        "gpus": [[[6.0]]],
        **{n: [[v]] for n, v in (("carbon_g_per_kwh", 500.0), ("price_usd_per_mwh", 50.0),
                                 ("pue", 1.2), ("wue_l_per_kwh", 1.0), ("ewif_l_per_kwh", 2.0))},
        "cycles_of_concentration": [3.0],
        "rtt_s": [[0.01]],
        "last_mile_s": [0.0],
        "egress_usd_per_gb": [[0.0]],
        "gpu_usd_per_hour": None,
        "load_rule": "at_most",
        "fixed_instances": [[[[2.0]]]],
        "objective": [{"terms": [{"metric": "carbon_kg", "weight": 1.0}]}],
        **overrides,
    }  # fmt: skip
    return go.PlacementInstance.parse(document)


def long_document(n_periods: int) -> Document:
    """The hand-made document over many quarters of an hour."""
    begin = np.datetime64("2023-07-18T00:00")
    starts = [f"{begin + np.timedelta64(15 * t, 'm')}Z" for t in range(n_periods)]
    over = {"periods": {"start": starts, "duration_s": [900.0] * n_periods}}
    for name in ("carbon_g_per_kwh", "price_usd_per_mwh", "pue", "wue_l_per_kwh", "ewif_l_per_kwh",
                 "gpus", "demand_requests"):  # fmt: skip
        values = np.array(oracle.tiny()[name])[np.arange(n_periods) % 2]
        over[name] = (values / 4 if name == "demand_requests" else values).tolist()
    return copy.deepcopy(oracle.tiny(locations=PLACES, **over))


def quick() -> go.PlacementInstance:
    """The quick instance, with places."""
    places = {n: {"latitude_deg": a, "longitude_deg": b} for n, (a, b) in CITIES.items()}
    return go.load(QUICK).replace(locations=places)


def random_plan(seed: int, **features: bool) -> tuple[go.PlacementInstance, go.Solution]:
    """A random instance and its plan; skipped where there is none."""
    instance = go.PlacementInstance.parse(random_document(np.random.default_rng(seed), **features))
    solution = go.solve(instance, bound=False, explain=False, time_limit=20)
    if not solution.decision:
        pytest.skip("no plan")
    return instance, solution


def panels(figure: Any) -> list[Any]:
    """Axes that hold a picture, colour bars apart."""
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.get_visible()]


def overlapping(figure: Any, texts: list[Text]) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other, once drawn."""
    renderer = figure.canvas.get_renderer()
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    boxes = [(text.get_text(), Text.get_window_extent(text, renderer)) for text in shown]
    return [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if one.overlaps(two)]


# what all kinds share


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
@pytest.mark.parametrize("kind", PLOTS)
def test_files_repeat(kind: str, ending: str, tmp_path: Path) -> None:
    """The same plan gives the same bytes, of the format that the ending names."""
    instance = tiny()
    solution = go.solve(instance)
    for name in ("a", "b"):
        go.plot(instance, solution, tmp_path / f"{name}.{ending}", kind)
    first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("a", "b"))
    assert first == second
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert first.startswith(start)


def test_overview_is_the_default(tmp_path: Path) -> None:
    """Without a kind it is the six panels, each over all sites and periods."""
    instance = quick()
    solution = go.solve(instance)
    go.plot(instance, solution, tmp_path / "a.png")
    go.plot(instance, solution, tmp_path / "b.png", "overview")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    six = panels(plots.figure(instance, solution))
    assert len(six) == 6
    grid = np.array(solution.metrics_by["period,site"]["carbon_kg"]).T
    assert np.allclose(np.ma.filled(six[0].images[0].get_array(), 0.0), grid)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"kind": "pie"}, ModelError, "known are overview, flows"),
        ({"path": "plan.jpeg"}, ModelError, r"plan.jpeg: .* one of .png, .svg, .pdf"),
        ({"time_limit": -1.0}, ModelError, "time_limit"),
        ({"kind": "marginal_carbon", "time_limit": 1e-9}, NoOptimumError, "no time left"),
    ],
)
def test_refused(change: dict[str, Any], error: type, words: str, tmp_path: Path) -> None:
    """Unknown kinds and endings and impossible limits are refused, and no file is left."""
    instance = tiny()
    path = tmp_path / change.pop("path", "plan.png")
    with pytest.raises(error, match=words):
        go.plot(instance, go.solve(instance), path, **change)
    assert list(tmp_path.iterdir()) == []


def test_needs_a_plan_of_the_instance(tmp_path: Path) -> None:
    """No plan, a plan of another instance, or one without its arrays or metrics: said so."""
    instance, other = tiny(), tiny(name="other")
    solution = go.solve(instance)
    with pytest.raises(SolutionError, match="another instance"):
        go.plot(other, solution, tmp_path / "p.png")
    demand = np.array(instance.demand_requests)
    scarce = instance.replace(demand_requests=demand * 1e6)
    with pytest.raises(ModelError, match="status infeasible, there is no plan to draw"):
        go.plot(scarce, go.solve(scarce), tmp_path / "p.png")
    document = copy.deepcopy(solution.document())
    del document["decision"]["instances"]
    with pytest.raises(ModelError, match="the plan lacks 'instances'"):
        go.plot(instance, go.Solution.parse(document), tmp_path / "p.png", "utilisation")
    document = copy.deepcopy(solution.document())
    del document["metrics_by"]["period,site"]["water_l"]
    with pytest.raises(ModelError, match="lacks water_l by period and site"):
        go.plot(instance, go.Solution.parse(document), tmp_path / "p.png")
    document = copy.deepcopy(solution.document())
    document["metrics_by"]["site"]["water_grid_l"] = [1.0]
    with pytest.raises(ModelError, match="lacks 'water_grid_l' by site"):
        go.plot(instance, go.Solution.parse(document), tmp_path / "p.png", "sources")


@pytest.mark.parametrize("kind", ["utilisation", "marginal_carbon"])
def test_many_periods_can_be_read(kind: str) -> None:
    """Over a week of quarters of an hour, labels of days do not cover each other."""
    instance = go.PlacementInstance.parse(long_document(672))
    figure = plots.figure(instance, go.solve(instance), kind)
    figure.draw_without_rendering()
    for ax in panels(figure):
        labels = ax.get_xticklabels()
        assert [label.get_text() for label in labels][:2] == ["18 Jul", "19 Jul"]
        assert len(labels) == 7
        assert overlapping(figure, labels) == []


# flows


def test_map_needs_locations(tmp_path: Path) -> None:
    """Without places the missing field is named."""
    instance = tiny(locations=None)
    with pytest.raises(ModelError, match=r"tiny: \$.locations is missing; .* latitude"):
        go.plot(instance, go.solve(instance), tmp_path / "p.png", "flows")


@pytest.mark.parametrize(
    ("n_periods", "expected"),
    [(1, [0]), (2, [0, 1]), (6, [0, 1, 2, 3, 4, 5]), (24, [0, 4, 8, 12, 16, 20])],
)
def test_moments(n_periods: int, expected: list[int]) -> None:
    """Six periods evenly spread, or all of fewer."""
    assert placed.moments(n_periods) == expected


@pytest.mark.parametrize("seed", range(4))
def test_arcs_are_the_flows(seed: int) -> None:
    """Arcs of a period are the plan's flows between origin and site, per second."""
    instance, solution = random_plan(seed)
    flow = solution.array("flow")
    sums: Counter[tuple[int, int, int]] = Counter()
    for (t, o, _, s, _, _), value in zip(flow.codes.T.tolist(), flow.values, strict=True):
        sums[t, o, s] += value / instance.periods.duration_s[t]
    rates = placed.served_per_s(instance, solution)
    for t, served in enumerate(rates):
        drawn = {(arc.origin, arc.site): arc.requests_per_s for arc in placed.arcs(served)}
        expected = {(o, s): v for (at, o, s), v in sums.items() if at == t and v > 1e-6}
        assert drawn.keys() >= expected.keys()
        assert {pair: drawn[pair] for pair in expected} == pytest.approx(expected)
        assert sum(drawn.values()) == pytest.approx(served.sum())


def test_map_shows_the_plan() -> None:
    """Widths are as flows, areas as requests, colours as carbon; what stays at home has no arc."""
    instance = tiny()
    solution = go.solve(instance)
    figure = plots.figure(instance, solution, "flows")
    axes = panels(figure)
    assert len(axes) == 2
    rates = placed.served_per_s(instance, solution)
    demand = instance.demand_requests.sum(axis=2) / np.array([[3600.0], [1800.0]])
    home = ("europe", "sweden")
    away = [r * [[(o, s) != home for s in instance.sites] for o in instance.origins] for r in rates]
    assert rates[0, 1, 1] > 0
    width: dict[tuple[int, str], float] = {}
    for t, ax in enumerate(axes):
        lines = [c for c in ax.collections if isinstance(c, LineCollection)]
        expected = {f"{o}-{s}" for o, s in np.argwhere(away[t] > 1e-9)}
        assert {line.get_gid() for line in lines} == expected
        circles = {c.get_gid(): c for c in ax.collections if isinstance(c, PathCollection)}
        intensity = instance.carbon_g_per_kwh[t]
        for line in lines:
            width[t, line.get_gid()] = line.get_linewidths()[-1]
            site = int(line.get_gid().split("-")[1])
            assert line.get_colors()[0] == pytest.approx(circles["served"].to_rgba(intensity[site]))
        for gid, amounts in (("served", rates[t].sum(axis=0)), ("demand", demand[t])):
            areas = circles[gid].get_sizes()
            most = max(rates.sum(axis=1).max(), demand.max())
            assert areas == pytest.approx(26.0**2 * amounts / most, abs=1e-6)
        assert circles["served"].get_array().tolist() == intensity.tolist()
    most = max(r.max() for r in away)
    for (t, gid), drawn in width.items():
        o, s = map(int, gid.split("-"))
        assert drawn == pytest.approx(max(5.0 * away[t][o, s] / most, 0.3))


def test_ways_take_the_shorter_side() -> None:
    """From Tokyo to California it is over the Pacific, and the map is then the whole world."""
    instance = quick()
    world = placed._Map(instance, go.solve(instance))
    names = instance.origins
    way = world.path(names.index("Tokyo"), names.index("California"))
    assert way[0] == pytest.approx([139.7, 35.7])
    assert way[-1] == pytest.approx([-122.4 + 360, 37.8])
    assert world.window[0] == (-180.0, 180.0)
    near = world.path(names.index("London"), names.index("Frankfurt"))
    assert np.ptp(near[:, 0]) < 10


def test_names_on_the_map_can_be_read() -> None:
    """Every place is named in every panel, no name over another or over the edge."""
    instance = quick()
    figure = plots.figure(instance, go.solve(instance), "flows")
    figure.draw_without_rendering()
    axes = panels(figure)
    assert len(axes) == 6
    for ax in axes:
        names = [text for text in ax.texts if isinstance(text, Annotation)]
        assert {text.get_text() for text in names} == set(CITIES)
        assert overlapping(figure, names) == []
        edge = ax.get_window_extent()
        for text in names:
            box = Text.get_window_extent(text, figure.canvas.get_renderer())
            assert edge.x0 <= box.x0
            assert box.x1 <= edge.x1


def test_labels_keep_apart() -> None:
    """Thirty labels of a crowd of circles neither cover each other nor a circle."""
    rng = np.random.default_rng(3)
    places = [(float(x), float(y)) for x, y in rng.uniform(60, 440, (30, 2))]
    radii, sizes = [8.0] * 30, [(40.0, 8.0)] * 30
    inside = (0.0, 0.0, 500.0, 500.0)
    found = placed._spread(places, radii, sizes, inside)
    boxes = [(x + dx - 20, y + dy - 4, x + dx + 20, y + dy + 4)
             for (x, y), (dx, dy, _) in zip(places, found, strict=True)]  # fmt: skip
    assert all(placed._overlap(a, b) == 0 for a, b in combinations(boxes, 2))
    circles = [(x - 8, y - 8, x + 8, y + 8) for x, y in places]
    assert all(placed._overlap(box, circle) == 0 for box in boxes for circle in circles)
    assert all(placed._overlap(box, inside) == pytest.approx(320.0) for box in boxes)


# sources


@pytest.mark.parametrize("seed", range(4))
def test_stacks_are_the_metrics(seed: int) -> None:
    """Bars have the metrics' lengths, laid end to end, negative ones to the left of zero."""
    instance, solution = random_plan(seed, demand_charge=True)
    price = np.array(instance.price_usd_per_mwh)
    price[:, 0] = -np.abs(price[:, 0])  # at one site electricity is paid for being taken
    instance = instance.replace(price_usd_per_mwh=price)
    solution = go.solve(instance, bound=False)
    by_site = solution.metrics_by["site"]
    axes = panels(plots.figure(instance, solution, "sources"))
    assert len(axes) == 3
    negative = 0
    for ax, parts in zip(axes, placed.SOURCES.values(), strict=True):
        assert len(ax.containers) == len(parts)
        ends = np.zeros((2, len(instance.sites)))  # of what is negative, of what is positive
        for bars, metric in zip(ax.containers, parts, strict=True):
            lengths = np.array([bar.get_width() for bar in bars])
            assert lengths == pytest.approx(np.array(by_site[metric]))
            for site, bar in enumerate(bars):
                side = int(bar.get_width() >= 0)
                assert bar.get_x() == pytest.approx(ends[side, site])
                ends[side, site] += bar.get_width()
                negative += bar.get_width() < 0
        total = sum(np.array(by_site[metric]) for metric in parts)
        shown = [float(text.get_text().replace(",", "")) for text in ax.texts]
        assert shown == pytest.approx(total, rel=0.01, abs=0.5)
    assert negative > 0
    whole = {"Carbon": "carbon_total_kg", "Water": "water_l", "Cost": "cost_usd"}
    for ax in axes:
        title, value = ax.get_title().split(": ")
        total = solution.metrics[whole[title.split(",")[0]]]
        assert float(value.replace(",", "")) == pytest.approx(total, rel=0.01)


def test_stacks_on_both_sides_of_zero() -> None:
    """Parts of either sign, in any order, lie end to end on their own side."""
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    parts = {"a": [2.0, -1.0], "b": [-3.0, -4.0], "c": [5.0, 6.0]}
    drawing.stacks(ax, "Sum", {name: np.array(values) for name, values in parts.items()})
    starts = [[bar.get_x() for bar in bars] for bars in ax.containers]
    assert starts == [[0.0, 0.0], [0.0, -1.0], [2.0, 0.0]]
    assert [text.get_text() for text in ax.texts] == ["4", "1"]
    assert ax.get_title() == "Sum: 5"
    assert ax.get_xlim()[0] < -5


def test_stacks_say_whose_embodied_carbon() -> None:
    """The legend tells installed from running GPUs."""
    for charge in ("installed", "running"):
        instance = tiny(embodied_charge=charge)
        first = panels(plots.figure(instance, go.solve(instance), "sources"))[0]
        names = [text.get_text() for text in first.get_legend().get_texts()]
        assert any(name.startswith(f"embodied, {charge} GPUs") for name in names)


# utilisation


def test_utilisation_by_hand() -> None:
    """3600 half seconds on two instances for an hour: a quarter; four of six GPUs are held."""
    instance = queue()
    solution = go.solve(instance)
    assert solution.status == "optimal"
    share, busy = panels(plots.figure(instance, solution, "utilisation"))
    assert share.images[0].get_array() == pytest.approx(np.array([[4 / 6]]))
    assert busy.images[0].get_array() == pytest.approx(np.array([[0.25]]))
    assert "67%" in share.get_title()
    assert "up to 0.25" in busy.get_title()


def test_utilisation_at_full_load() -> None:
    """By rule exact an instance is as busy as its level says, however many there are."""
    instance = queue(load_rule="exact", fixed_instances=None)
    solution = go.solve(instance)
    (grid,) = placed.queue_utilisation(instance, solution).values()
    assert grid == pytest.approx(np.array([[0.9]]))
    assert placed.gpu_share(instance, solution) == pytest.approx(2 * (1 / 1.8) / 6)


def test_nothing_to_hold_is_not_zero() -> None:
    """Without GPUs, or with as many as anyone wants, there is no share; nor a queue unused."""
    gpus = [[[24.0, None], [24.0, 0.0]], [[24.0, 24.0], [16.0, 32.0]]]
    instance = tiny(gpus=gpus)
    share = placed.gpu_share(instance, go.solve(instance))
    assert np.isnan(share).tolist() == [[[False, True], [False, True]], [[False] * 2] * 2]
    idle = queue(demand_requests=[[[0.0]]], fixed_instances=None)
    (grid,) = placed.queue_utilisation(idle, go.solve(idle)).values()
    assert np.isnan(grid).all()
    figure = plots.figure(idle, go.solve(idle), "utilisation")
    assert len(panels(figure)) == 1
    assert "queues not used: 8b in fast" in figure.get_suptitle()


@pytest.mark.parametrize("features", [{}, {"whole_instances": True, "startup": True}])
@pytest.mark.parametrize("seed", range(3))
def test_gpus_held_are_those_of_the_plan(seed: int, features: dict[str, bool]) -> None:
    """Shares times GPUs are what a loop over the plan adds up, starting instances included."""
    instance, solution = random_plan(seed, **features)
    held = np.zeros(instance.gpus.shape)
    name = "running" if instance.counts_instances else "instances"
    array = solution.array(name)
    assert bool(features) == (name == "running")
    profiles = {(p.model, p.mode): p for p in instance.profiles}
    types = [h.name for h in instance.gpu_types]
    for code, value in zip(array.codes.T.tolist(), array.values, strict=True):
        t, s, n, m = code[:4]
        p = profiles[instance.models[n].name, instance.modes[m]]
        held[t, s, types.index(p.gpu_type)] += value * p.gpus_per_instance
    share = placed.gpu_share(instance, solution)
    there = np.isfinite(share)
    assert (share[there] * instance.gpus[there]) == pytest.approx(held[there])
    assert (share[there] <= 1 + 1e-6).all()


# marginal carbon


@pytest.mark.parametrize("features", [{}, {"running": True, "queue": True}, {"at_most": True}])
@pytest.mark.parametrize("seed", range(3))
def test_mean_carbon_adds_up_to_the_checkers(seed: int, features: dict[str, bool]) -> None:
    """Over the horizon the carbon charged to each class is the solution's metric by class."""
    instance, solution = random_plan(seed, **features)
    served, charged = placed._served_and_charged_kg(instance, solution)
    by_class = solution.metrics_by["class"]
    assert served.sum(axis=0) == pytest.approx(np.array(by_class["requests"]))
    assert charged.sum(axis=0) == pytest.approx(np.array(by_class["carbon_kg"]))
    mean = placed.mean_carbon_g(instance, solution)
    some = served > 0
    assert mean[some] == pytest.approx(1e3 * charged[some] / served[some])
    assert np.isnan(mean[~some]).all()


def test_lines_are_the_marginals() -> None:
    """Median and range over origins of what `marginals` says, in grams, a panel a class."""
    instance = tiny()
    solution = go.solve(instance)
    rates = 1e3 * go.marginals(instance, of="demand")["demand"].rates["carbon_kg"]
    axes = panels(plots.figure(instance, solution, "marginal_carbon"))
    assert [ax.get_title() for ax in axes] == ["chat", "summary", "assist"]
    for k, ax in enumerate(axes):
        median, mean = ax.get_lines()[:2]
        assert median.get_ydata() == pytest.approx(np.repeat(np.median(rates[:, :, k], axis=1), 2))
        expected = placed.mean_carbon_g(instance, solution)[:, k]
        assert mean.get_ydata() == pytest.approx(np.repeat(expected, 2))
        band = ax.collections[0].get_paths()[0].vertices
        drawn = band[np.isclose(band[:, 0], 0.0) | (band[:, 0] < 0.5), 1]
        low, high = rates[0, :, k].min(), rates[0, :, k].max()
        assert (drawn.min(), drawn.max()) == pytest.approx((low, high))


def test_rates_that_are_no_numbers_are_marked() -> None:
    """No plan counts as infinite and is marked; what is unknown is marked and left out."""
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    nothing, inf = np.nan, np.inf
    rate = np.array([[1.0, 2.0, 6.0], [1.0, inf, inf], [nothing, 3.0, 5.0], [nothing] * 3])
    placed._draw_range(ax, rate, np.array([1.0, 1.0, nothing, 1.0]))
    lines = {line.get_label(): line for line in ax.get_lines()}
    middle = lines["median of origins"].get_ydata()[::2]
    assert middle == pytest.approx([2.0, nothing, 4.0, nothing], nan_ok=True)
    assert list(lines["no plan with one more, of some origin"].get_xdata()) == [1]
    assert list(lines["not known in time, of some origin"].get_xdata()) == [2, 3]


def test_what_readers_of_marginals_must_know() -> None:
    """Whole numbers that are held are said, and a plan that is not the optimum."""
    whole = tiny(instance_counts="integer", load_rule="at_most")
    solution = go.solve(whole, time_limit=20)
    head = plots.figure(whole, solution, "marginal_carbon").get_suptitle()
    assert "whole numbers held at the plan's" in head
    carbon = tiny(objective=[{"terms": [{"metric": "carbon_kg", "weight": 1.0}]}])
    cost = tiny(objective=[{"terms": [{"metric": "cost_usd", "weight": 1.0}]}])
    dear = go.solve(carbon)
    assert (
        "marginals of the optimum"
        not in plots.figure(carbon, dear, "marginal_carbon").get_suptitle()
    )
    document = copy.deepcopy(dear.document()) | {"instance_sha256": cost.sha256}
    document["stages"][0]["objective"] = dear.metrics["cost_usd"]
    other = go.Solution.parse(document)
    assert "marginals of the optimum" in plots.figure(cost, other, "marginal_carbon").get_suptitle()
