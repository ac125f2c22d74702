"""The builder of instances of the size of the world reproduces its files and does what it says."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT, shared

import greenopt as go
from greenopt.errors import InputError
from greenopt.problems.placement.instance import PlacementInstance

FOLDER = ROOT / "instances" / "placement-world"


@cache
def world() -> ModuleType:
    """The build script; its folder of data has to be there."""
    shared("data")
    spec = importlib.util.spec_from_file_location("build_world", FOLDER / "build_world.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_world"] = module
    spec.loader.exec_module(module)
    return module


def build(kind: str = "world-day", **choices: object) -> PlacementInstance:
    """Build an instance in hours, unless another step is chosen."""
    instance: PlacementInstance = world().build(kind, **{"step_min": 60, **choices})
    return instance


@pytest.mark.parametrize(
    "kind",
    [
        "world-day",
        "world-day-integer",
        "world-day-deferrable",
        "world-day-equity",
        "world-day-residency",
        "world-week",
    ],
)
def test_committed_files_are_reproduced(kind: str, tmp_path: Path) -> None:
    """Re-running the script gives the committed instances, byte for byte."""
    world().main(["--type", kind, "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == [f"{kind}.json.gz"]
    committed = FOLDER / f"{kind}.json.gz"
    assert (tmp_path / committed.name).read_bytes() == committed.read_bytes()


@pytest.mark.parametrize("kind", ["world-day-budgets", "world-day-30-budgets"])
def test_committed_budgets_are_reproduced(kind: str) -> None:
    """Instances with budgets come back; limits, which a solver finds, to 5 digits."""
    committed = PlacementInstance.read(FOLDER / f"{kind}.json.gz")
    built = build(kind, step_min=15)
    limits = [[b.limit.values.item() for b in one.budgets] for one in (built, committed)]
    assert limits[0] == pytest.approx(limits[1], rel=1e-5)
    assert built.replace(budgets=committed.budgets) == committed


def test_hours_are_quarter_hours_added_up() -> None:
    """The hourly instance has the demand of the quarter-hourly one up to its own scale."""
    hours, quarters = build(), build(step_min=15)
    added = quarters.demand_requests.reshape(24, 4, 15, 2).sum(axis=1)
    ratio = hours.demand_requests.sum() / added.sum()
    assert 1 <= ratio < 1.1  # its busiest period is no busier than the busiest quarter-hour
    assert hours.demand_requests == pytest.approx(added * ratio, rel=1e-3)
    assert (hours.carbon_g_per_kwh == quarters.carbon_g_per_kwh[::4]).all()


def test_utilisation_scales_demand_alone() -> None:
    """Demand is proportional to utilisation, and nothing else changes but scales."""
    low, high = build(utilisation=0.3), build(utilisation=0.6)
    assert high.demand_requests == pytest.approx(2 * low.demand_requests, abs=1.1)
    assert (low.gpus == high.gpus).all()
    assert low.profiles == high.profiles


def test_utilisation_is_the_share_of_gpus_needed() -> None:
    """At utilisation u, u of the GPUs suffice for the busiest period in one place, less do not."""
    instance = build(utilisation=0.5)
    t = int(instance.demand_requests.sum(axis=(1, 2)).argmax())
    series = ("carbon_g_per_kwh", "price_usd_per_mwh", "pue", "wue_l_per_kwh", "ewif_l_per_kwh")
    one_place = instance.replace(
        periods={"start": instance.periods.start[t : t + 1], "duration_s": [3600.0]},
        origins=instance.origins[:1],
        sites=instance.sites[:1],
        locations=None,
        demand_requests=instance.demand_requests[t : t + 1].sum(axis=1, keepdims=True),
        gpus=instance.gpus[t : t + 1].sum(axis=1, keepdims=True),
        cycles_of_concentration=instance.cycles_of_concentration[:1],
        rtt_s=instance.rtt_s[:1, :1],
        last_mile_s=instance.last_mile_s[:1],
        egress_usd_per_gb=instance.egress_usd_per_gb[:1, :1],
        **{name: getattr(instance, name)[t : t + 1, :1] for name in series},
    )
    for share, status in ((0.5 + 1e-6, "optimal"), (0.5 - 1e-3, "infeasible")):
        assert go.solve(one_place.replace(gpus=one_place.gpus * share)).status == status


def test_demand_follows_local_time() -> None:
    """An origin five and a half hours ahead has the demand of Greenwich that much earlier."""
    instance = build(date="2022-12-13", step_min=15)
    at = {name: i for i, name in enumerate(instance.origins)}
    relative = instance.demand_requests / instance.demand_requests.mean(axis=0)
    london, mumbai = (relative[:, at[name]] for name in ("London", "Mumbai"))
    assert mumbai == pytest.approx(np.roll(london, -22, axis=0), rel=1e-3)
    assert not np.allclose(mumbai, london, rtol=0.05)


def test_summer_time_counts() -> None:
    """London's demand comes an hour earlier in July than in December."""
    summer, winter = (build(date=date) for date in ("2023-07-18", "2022-12-13"))
    course = [
        one.demand_requests[:, 5] / one.demand_requests[:, 5].mean(axis=0)
        for one in (summer, winter)
    ]
    assert summer.origins[5] == "London"
    assert course[0] == pytest.approx(np.roll(course[1], -1, axis=0), rel=1e-3)


def test_series_are_those_of_the_date() -> None:
    """Another date has other series; the same zone and hour is the file's value."""
    instance = build(date="2022-11-08")
    table = world().pd.read_csv(
        shared("data") / "carbon/em_ci_lca_g_per_kwh_2022.csv.gz", index_col="datetime_utc"
    )
    rows = table.loc["2022-11-08T00:00Z":"2022-11-08T23:00Z", ["FR", "ZA"]].to_numpy()
    sites = [instance.sites.index(name) for name in ("Paris", "Johannesburg")]
    assert instance.carbon_g_per_kwh[:, sites] == pytest.approx(rows, rel=1e-5)
    assert instance.carbon_signal.year == 2022
    assert instance.name == "world-day-2022-11-08-60min"


def test_network_is_azures() -> None:
    """Round trips by sending region, egress by sending site, nothing within a region."""
    instance = build()
    o, s = instance.origins.index("Tokyo"), instance.sites.index("London")
    assert instance.rtt_s[o, s] == 0.230  # Japan East to UK South
    assert instance.egress_usd_per_gb[o, s] == 0.05  # West Europe's price
    assert instance.egress_usd_per_gb[s, o] == 0.08  # Japan East sends
    assert (np.diag(instance.egress_usd_per_gb) == 0).all()
    assert (np.diag(instance.rtt_s) < 0.01).all()
    london, amsterdam = 5, tuple(world().ORIGINS).index("Amsterdam")
    assert build("world-day-30-budgets").egress_usd_per_gb[amsterdam, london] == 0.05


def test_choices_change_what_they_name() -> None:
    """Factor sets, raw water, embodied carbon: the field, and the rule about it."""
    plain = build()
    ren, raw, running = build(ewif="ren"), build(wue="raw"), build(embodied="running")
    ontario = plain.sites.index("Ontario")
    assert plain.ewif_l_per_kwh[0, ontario] > 10 > 1 > ren.ewif_l_per_kwh[0, ontario]
    assert any("Less Thirsty" in source.name for source in ren.provenance.sources)
    ratio = raw.wue_l_per_kwh / plain.wue_l_per_kwh
    assert ratio == pytest.approx(np.full(ratio.shape, ratio[0, 0]), rel=1e-4)
    assert ratio[0, 0] > 3
    assert raw.wue_basis.kind == "raw polynomial"
    assert (plain.embodied_charge, running.embodied_charge) == ("installed", "running")
    assert len({one.provenance.rules for one in (plain, ren, raw, running)}) == 4


def test_budgets_bind_on_another_date() -> None:
    """All three budgets have a price, which the script checks before it writes."""
    instance = build("world-day-budgets", date="2022-12-13", utilisation=0.7)
    world().refuse_slack_budgets(instance)
    solution = go.solve(instance)
    for budget in instance.budgets:
        assert float(solution.marginals[f"budget.{budget.name}"].dense()) < 0
    loose = {"name": "water_l", "metric": "water_l", "limit": {"axes": [], "values": 1e9}}
    slack = instance.replace(budgets=(instance.budgets[0], loose, instance.budgets[2]))
    with pytest.raises(InputError, match="budget water_l: has no price"):
        world().refuse_slack_budgets(slack)


def test_a_family_is_one_file_for_each_date_and_utilisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The family command writes its members by name; all its dates are complete."""
    monkeypatch.setattr(world(), "FAMILY_UTILISATIONS", (0.7,))
    options = ["--type", "world-day", "--family", "--step-min", "60", "--out", str(tmp_path)]
    world().main(options)
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 10
    assert "world-day-2022-02-15-u0.7-60min.json.gz" in names


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"date": "2022-01-21"}, "expected 1 days within 2022-01-22 to 2023-12-31: GB prices"),
        ({"date": "2024-01-01"}, "FR carbon ends with 2023"),
        ({"date": "18 July"}, "is no date; expected YYYY-MM-DD"),
        ({"date": "2022-05-31"}, "electricity price: IN-WE: lacks 16 hours from 2022-05-31T01:00Z"),
        ({"utilisation": 0.0}, "utilisation: is 0.0, expected a number above 0"),
        ({"step_min": 30}, "step_min: is 30, expected one of"),
        ({"ewif": "other"}, "ewif: is 'other', expected one of"),
        ({"kind": "world-year"}, "kind: is 'world-year', expected one of"),
    ],
)
def test_what_cannot_be_built_is_one_clear_error(choices: dict[str, object], message: str) -> None:
    """Dates outside the series or with gaps, and unknown choices, name what is wrong."""
    with pytest.raises(InputError, match=message):
        build(**choices)  # type: ignore[arg-type]


def test_missing_prices_name_every_series_and_hour() -> None:
    """Two series that both have a gap are both named."""
    with pytest.raises(InputError) as caught:
        build(date="2022-09-03")
    assert {problem.path for problem in caught.value.problems} == {"FR", "DE-LU"}
