"""The builders reproduce the committed instances, and those have the published optima."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import ROOT, shared
from scipy.optimize import linprog

from greenopt.errors import InputError, InstanceError
from greenopt.problems.placement.builders import EGLB_SOURCE, EGLB_START, eglb, eglb_csv
from greenopt.problems.placement.eligibility import services
from greenopt.problems.placement.instance import PlacementInstance

INSTANCES = ROOT / "instances" / "placement"

GOLDEN = {
    "equitable": "eglb-equitable",
    "min_price": "eglb-min-price",
    "price_carbon": "eglb-price-carbon",
    "total": "eglb-total",
}
HEADER = "hour,load_fraction,A|price_usd_per_mwh,A|carbon_kg_per_kwh,A|water_l_per_kwh\n"
PROVENANCE = {"description": "d", "builder": "b", "data_licence": "MIT", "sources": [EGLB_SOURCE]}


def script(name: str, folder: Path = INSTANCES) -> ModuleType:
    """Import a build script of instances."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def eglb_optimum(instance: PlacementInstance) -> float:
    """Optimum of an eGLB instance from its arrays alone: flows x[t, o, s], and a maximum z each."""
    (profile,), (k,) = instance.profiles, instance.classes
    (level,) = profile.levels
    seconds = k.work_per_request[profile.mode] / level.requests_per_s
    kwh = seconds * level.power_w / 3.6e6
    of_request = {
        "cost_usd": kwh * instance.price_usd_per_mwh / 1000,
        "carbon_kg": kwh * instance.carbon_g_per_kwh / 1000,
        "water_l": kwh / instance.pue * instance.wue_l_per_kwh + kwh * instance.ewif_l_per_kwh,
    }
    periods, origins, sites = len(instance.periods.start), len(instance.origins), 10
    by_period = sp.eye_array(periods)
    serve = sp.kron(sp.eye_array(periods * origins), np.ones((1, sites)))
    fill = sp.kron(by_period, sp.kron(np.ones((1, origins)), sp.eye_array(sites)))
    room = instance.gpus[:, :, 0] * np.array(instance.periods.duration_s)[:, None] / seconds
    cost, tops, site_rows = np.zeros(serve.shape[1]), [], []
    for term in instance.objective[0].terms:
        spread = np.repeat(of_request[term.metric][:, None, :], origins, axis=1).ravel()
        weight = term.weight / term.scale
        if term.over_sites == "max" and weight:
            select = sp.kron(np.ones((1, periods * origins)), sp.eye_array(sites))
            site_rows.append(select @ sp.diags_array(spread))
            tops.append(weight)
        else:
            cost += spread * weight / (sites if term.over_sites == "mean" else 1)
    z = sp.kron(sp.eye_array(len(tops)), -np.ones((sites, 1)))
    blocks = [[fill, None], [sp.vstack(site_rows), z]] if tops else [[fill]]
    rows = sp.block_array(blocks, format="csr")
    limits = np.concatenate([room.ravel(), np.zeros(sites * len(tops))])
    serve = sp.hstack([serve, sp.csr_array((serve.shape[0], len(tops)))], format="csr")
    found = linprog(
        np.concatenate([cost, tops]), rows, limits, serve, instance.demand_requests.ravel()
    )
    assert found.status == 0, found.message
    return float(found.fun)


@pytest.mark.parametrize("case", GOLDEN)
def test_eglb_optimum_is_the_published_one(case: str) -> None:
    """An LP straight from the committed arrays has the optimum the authors printed."""
    golden = json.loads(shared("golden/eglb.json").read_text())
    (published,) = [c for c in golden["cases"] if c["name"] == case]
    instance = PlacementInstance.read(INSTANCES / f"{GOLDEN[case]}.json.gz")
    assert eglb_optimum(instance) == pytest.approx(published["optimum"], rel=1e-8)


@pytest.mark.parametrize("case", GOLDEN)
def test_eglb_weights_are_the_published_ones(case: str) -> None:
    """The build script uses the weights of the authors' notebook."""
    golden = json.loads(shared("golden/eglb.json").read_text())
    (published,) = [c for c in golden["cases"] if c["name"] == case]
    weights = script("build_eglb").PUBLISHED[GOLDEN[case]]
    assert weights["over_sites"] == published["aggregate"]
    assert {k: weights[k] for k in ("price", "water", "carbon")} == {
        k: published[k] for k in ("price", "water", "carbon")
    }


def test_build_eglb_reproduces_the_committed_files(tmp_path: Path) -> None:
    """Re-running the eGLB script gives the committed instances."""
    data = shared("data/peers/eglb/eglb_457h_10sites.csv")
    script("build_eglb").main(["--data", str(data), "--out", str(tmp_path)])
    for name in GOLDEN.values():
        built = PlacementInstance.read(tmp_path / f"{name}.json.gz")
        assert built.sha256 == PlacementInstance.read(INSTANCES / f"{name}.json.gz").sha256


def test_build_freesh_reproduces_the_committed_files(tmp_path: Path) -> None:
    """Re-running the FREESH script gives the 24 committed instances, byte for byte."""
    folder, data = ROOT / "instances" / "placement-freesh", shared("data/peers/freesh")
    script("build_freesh", folder).main(["--data", str(data), "--out", str(tmp_path)])
    names = sorted(path.name for path in folder.glob("freesh-*.json"))
    assert names == [f"freesh-{window:02d}.json" for window in range(0, 48, 2)]
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_build_quick_reproduces_the_committed_file(tmp_path: Path) -> None:
    """Re-running the quick script gives the committed instance, byte for byte."""
    script("build_quick").main(["--data", str(shared("data")), "--out", str(tmp_path)])
    built, committed = tmp_path / "quick.json", INSTANCES / "quick.json"
    assert PlacementInstance.read(built).sha256 == PlacementInstance.read(committed).sha256
    assert built.read_bytes() == committed.read_bytes()


def test_build_eglb_writes_one_further_weighting(tmp_path: Path) -> None:
    """With a name, the eGLB script writes that weighting and nothing else."""
    table = tmp_path / "table.csv"
    table.write_text(HEADER + "0,0.5,40,0.3,2\n1,0.25,-3,0.2,1\n")
    options = ["--name", "wet", "--water", "600", "--carbon", "0", "--over-sites", "mean"]
    script("build_eglb").main(["--data", str(table), "--out", str(tmp_path), *options])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "wet.json.gz"]
    instance = PlacementInstance.read(tmp_path / "wet.json.gz")
    terms = {term.metric: (term.weight, term.over_sites) for term in instance.objective[0].terms}
    assert terms == {
        "cost_usd": (1.0, "sum"),
        "water_l": (0.6, "mean"),
        "carbon_kg": (0.0, "mean"),
    }


def test_eglb_csv_reads_series_by_site_and_hour(tmp_path: Path) -> None:
    """Values land at their hour and site in the instance's units, the load at every gateway."""
    table = tmp_path / "table.csv"
    table.write_text(
        "hour,B|price_usd_per_mwh,B|carbon_kg_per_kwh,B|water_l_per_kwh,load_fraction,"
        "A|water_l_per_kwh,A|carbon_kg_per_kwh,A|price_usd_per_mwh\n"
        "0,1,0.2,3,0.5,6,0.5,4\n1,-7,0.8,9,0.25,12,0.11,10\n"
    )
    instance = eglb_csv(table, gateways=2)
    assert instance.sites == ("B", "A")
    assert instance.price_usd_per_mwh.tolist() == [[1, 4], [-7, 10]]
    assert instance.carbon_g_per_kwh.tolist() == [[200, 500], [800, 110]]
    assert instance.wue_l_per_kwh.tolist() == [[3, 6], [9, 12]]
    assert instance.demand_requests[:, :, 0].tolist() == [[0.5, 0.5], [0.25, 0.25]]
    assert instance.periods.start == ("2022-09-22T00:00Z", "2022-09-22T01:00Z")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file: has no rows"),
        (HEADER, "file: has no rows"),
        ("hour,load_fraction\n0,1\n", "header: names no site"),
        (HEADER.replace(",A|carbon_kg_per_kwh", "") + "0,1,1,1\n", "'A|carbon_kg_per_kwh'"),
        (HEADER.replace("hour", "time") + "0,1,1,1,1\n", "column 'hour': is missing"),
        (HEADER.replace("load_fraction", "hour") + "0,1,1,1,1\n", "column 'hour': stands"),
        (HEADER + "0,1,x,1,1\n", "data row 1, column 'A|price_usd_per_mwh': is 'x'; expected a nu"),
        (HEADER + "0,1,1,nan,1\n", "column 'A|carbon_kg_per_kwh': is 'nan'; expected a finite"),
        (HEADER + "0,1,1,1\n", "column 'A|water_l_per_kwh': is ''; expected a number"),
        (HEADER + "0,1,1,1,1\n2,1,1,1,1\n", "data row 2, column 'hour': is '2'; expected 1"),
        (HEADER + "0,1,1,1,1\n" * 9, "file: and 3 more like these"),
    ],
)
def test_eglb_csv_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    """A table that cannot be used is refused with file, row, column and value."""
    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(InputError) as caught:
        eglb_csv(table)
    assert message in str(caught.value)
    assert str(table) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_eglb_csv_refuses_unreadable_files(tmp_path: Path, content: bytes | None) -> None:
    """A missing or binary file is an input error as well."""
    table = tmp_path / "table.csv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(InputError, match=r"table\.csv: file: "):
        eglb_csv(table)


def small_eglb(**changes: Any) -> PlacementInstance:
    """Two hours, two sites, three gateways."""
    arguments: dict[str, Any] = {
        "price_usd_per_mwh": np.ones((2, 2)),
        "carbon_kg_per_kwh": np.ones((2, 2)),
        "water_l_per_kwh": np.ones((2, 2)),
        "load_fraction": np.arange(6.0).reshape(2, 3) / 6,
        "sites": ["a", "b"],
        "origins": ["x", "y", "z"],
        "start": EGLB_START,
        "provenance": PROVENANCE,
        "name": "small",
    }
    return eglb(**{**arguments, **changes})


def test_eglb_takes_a_load_for_each_gateway() -> None:
    """A two-dimensional load is by period and origin; the result survives its document."""
    instance = small_eglb()
    assert instance.demand_requests[:, :, 0].tolist() == (np.arange(6) / 6).reshape(2, 3).tolist()
    assert PlacementInstance.parse(instance.document()) == instance


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "yesterday"}, "is not an ISO 8601 time"),
        ({"start": "2022-09-22T00:00"}, "has no time zone"),
        ({"price_usd_per_mwh": np.ones((3, 2))}, "$.price_usd_per_mwh: has 3 entries along period"),
        ({"load_fraction": [[-1, 0, 0], [0, 0, 0]]}, "$.demand_requests"),
        ({"origins": ["x"]}, "along origin"),
    ],
)
def test_eglb_refuses_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    """Wrong shapes, signs and times are instance errors with their place."""
    with pytest.raises(InstanceError) as caught:
        small_eglb(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize("file", [*(f"{n}.json.gz" for n in GOLDEN.values()), "quick.json"])
def test_instances_state_sources_and_survive_a_round_trip(file: str, tmp_path: Path) -> None:
    """Every committed instance names licences and rules, and saving it again changes nothing."""
    instance = PlacementInstance.read(INSTANCES / file)
    assert instance.name == file.split(".")[0]
    assert instance.provenance.rules
    for source in instance.provenance.sources:
        assert source.licence
        assert source.url
        assert not source.licence.startswith("LicenseRef-") or source.note
    instance.save(tmp_path / file)
    assert PlacementInstance.read(tmp_path / file) == instance


def test_quick_is_share_alike() -> None:
    """The data derived from Electricity Maps stays under its licence."""
    provenance = PlacementInstance.read(INSTANCES / "quick.json").provenance
    assert provenance.data_licence.startswith("ODbL-1.0 AND ")
    assert any("Electricity Maps" in s.name and s.licence == "ODbL-1.0" for s in provenance.sources)


def test_quick_has_limits_that_bind() -> None:
    """Every class and origin has places to go, and limits exclude levels for each class."""
    quick = PlacementInstance.read(INSTANCES / "quick.json")
    offers = services(quick)
    for k in range(len(quick.classes)):
        own = [one.eligible[list(one.classes).index(k)] for one in offers if k in one.classes]
        fits = np.concatenate(own)
        assert (fits.any(axis=0).sum(axis=1) >= 2).all()
        assert not fits.any(axis=(1, 2)).all()


def test_quick_demand_takes_sixty_percent_of_gpus() -> None:
    """In the busiest hour the stated sizing plan keeps 0.6 of all GPUs busy."""
    quick, build = PlacementInstance.read(INSTANCES / "quick.json"), script("build_quick")
    busiest = quick.demand_requests.sum(axis=(1, 2)).max()
    busy = busiest * build.gpu_s_per_request(quick) / 3600 / quick.gpus[0].sum()
    assert busy == pytest.approx(0.6, rel=1e-5)
