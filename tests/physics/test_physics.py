"""Water, carbon, energy, latency and KV memory against hand calculations and published tables."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenopt.physics import carbon, energy, kv_cache, latency, water

CELSIUS = [5.0, 10.0, 15.0, 20.0, 25.0]
FAHRENHEIT = [41.0, 50.0, 59.0, 68.0, 77.0]
MAKE_UP = {
    6.0: [2.3223, 3.1200, 3.7233, 4.4471, 5.6064],
    3.0: [2.9029, 3.9000, 4.6541, 5.5589, 7.0080],
}
"""Dossier, table 5.1: L/kWh by cycles of concentration at the wet bulbs above."""

EXACT = settings(max_examples=120, deadline=None, derandomize=True)


# Water on site


@pytest.mark.parametrize("cycles", MAKE_UP)
@pytest.mark.parametrize(("unit", "wet_bulb"), [("C", CELSIUS), ("F", FAHRENHEIT)])
def test_make_up_table(cycles: float, unit: Any, wet_bulb: list[float]) -> None:
    """The polynomial gives the table in both units, one by one and as an array."""
    args: dict[str, Any] = {"unit": unit, "cycles_of_concentration": cycles}
    found = water.make_up_wue_l_per_kwh(np.array(wet_bulb), **args)
    assert found == pytest.approx(MAKE_UP[cycles], abs=1e-4)
    for t, expected in zip(wet_bulb, MAKE_UP[cycles], strict=True):
        assert float(water.make_up_wue_l_per_kwh(t, **args)) == pytest.approx(expected, abs=1e-4)


def test_make_up_at_a_round_number() -> None:
    """At 50 °F the cubic is 7.5 - 25 + 30.5 - 10.4 = 2.6; six cycles make 3.12 of it."""
    found = water.make_up_wue_l_per_kwh(50.0, unit="F", cycles_of_concentration=6)
    assert float(found) == pytest.approx(3.12, rel=1e-12)


def test_wet_bulb_unit_is_explicit() -> None:
    """There is no default unit, no positional one, and nothing but C and F."""
    with pytest.raises(TypeError):
        water.make_up_wue_l_per_kwh(20.0, cycles_of_concentration=6)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        water.make_up_wue_l_per_kwh(20.0, "C", cycles_of_concentration=6)  # type: ignore[misc]
    for unit in ("c", "f", "K", "Celsius", "", None):
        with pytest.raises(ValueError, match="unit must be 'F' or 'C'"):
            water.make_up_wue_l_per_kwh(20.0, unit=unit, cycles_of_concentration=6)  # type: ignore[arg-type]


def test_celsius_taken_for_fahrenheit_would_vanish() -> None:
    """The classic mistake: 20 °C read as 20 °F lies below the curve's root."""
    wrong = water.make_up_wue_l_per_kwh(20.0, unit="F", cycles_of_concentration=6)
    assert float(wrong) == 0.0


@pytest.mark.parametrize("floor", [0.0, 0.05, 1.5])
def test_make_up_floor(floor: float) -> None:
    """No value lies below the floor, and values above it are left alone."""
    found = water.make_up_wue_l_per_kwh(
        np.array([0.0, 20.0, 50.0]), unit="F", cycles_of_concentration=6, floor=floor
    )
    assert found == pytest.approx([floor, floor, 3.12], rel=1e-12)


@pytest.mark.parametrize("cycles", [1.0, 0.5, 0.0, -3.0, float("nan")])
def test_cycles_must_exceed_one(cycles: float) -> None:
    """At one cycle all make-up would be blowdown; less has no meaning."""
    with pytest.raises(ValueError, match="exceed 1"):
        water.make_up_wue_l_per_kwh(20.0, unit="C", cycles_of_concentration=cycles)


def test_split_of_make_up_by_hand() -> None:
    """Six litres at six cycles: five evaporate, one is blown down."""
    assert water.evaporation_and_blowdown(6.0, 6.0) == pytest.approx((5.0, 1.0), rel=1e-15)
    assert water.evaporation_and_blowdown(6.0, 3.0) == pytest.approx((4.0, 2.0), rel=1e-15)
    assert water.blowdown_from_evaporation(5.0, 6.0) == pytest.approx(1.0, rel=1e-15)
    assert water.blowdown_from_evaporation(4.0, 3.0) == pytest.approx(2.0, rel=1e-15)


@given(st.floats(0, 20), st.floats(1.01, 50))
@EXACT
def test_split_is_the_tower_balance(make_up: float, cycles: float) -> None:
    """Evaporation and blowdown add up to the make-up, and blowdown is evaporation/(s-1)."""
    evaporated, blown = water.evaporation_and_blowdown(make_up, cycles)
    assert evaporated + blown == pytest.approx(make_up, rel=1e-12, abs=1e-300)
    assert evaporated == pytest.approx(make_up * (cycles - 1) / cycles, rel=1e-9, abs=1e-300)
    expected = water.blowdown_from_evaporation(evaporated, cycles)
    assert blown == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("t", FAHRENHEIT)
def test_evaporation_does_not_depend_on_cycles(t: float) -> None:
    """The factor s/(s-1) is the blowdown and nothing else: evaporation is the bare cubic."""
    evaporated = [
        water.evaporation_and_blowdown(
            water.make_up_wue_l_per_kwh(t, unit="F", cycles_of_concentration=s), s
        )[0]
        for s in (2.0, 3.0, 6.0)
    ]
    cubic = 6e-5 * t**3 - 0.01 * t**2 + 0.61 * t - 10.4
    assert evaporated == pytest.approx([cubic] * 3, rel=1e-12)


def test_evaporation_of_a_kwh_of_heat() -> None:
    """3.6 MJ over 2.45 MJ/kg is 1.47 litres."""
    assert water.evaporation_l_per_kwh_of_heat() == pytest.approx(1.4693877551, rel=1e-9)
    assert round(water.evaporation_l_per_kwh_of_heat(), 2) == 1.47


def test_wet_bulb_of_stull() -> None:
    """Stull's own example: 20 °C at 50 % is 13.7 °C; the function takes arrays as well."""
    assert float(water.wet_bulb_c(20.0, 50.0)) == pytest.approx(13.7, abs=0.01)
    both = water.wet_bulb_c(np.array([20.0, 20.0]), np.array([50.0, 99.0]))
    assert both[0] == pytest.approx(13.7, abs=0.01)
    assert both[1] == pytest.approx(20.0, abs=0.3)


@pytest.mark.parametrize("t", [0.0, 10.0, 20.0, 30.0, 40.0])
def test_wet_bulb_rises_with_humidity_up_to_the_air(t: float) -> None:
    """Within the fit, more humidity means a higher wet bulb, never far above the air itself."""
    found = water.wet_bulb_c(t, np.arange(20.0, 100.0, 5.0))
    assert (np.diff(found) > 0).all()
    assert found.max() < t + 0.5


def test_scale_to_mean() -> None:
    """Scaling keeps the shape and reaches the mean."""
    assert water.scale_to_mean([1.0, 2.0, 3.0], 1.0).tolist() == [0.5, 1.0, 1.5]
    series = np.array([2.3, 0.0, 5.6, 4.4])
    scaled = water.scale_to_mean(series, 0.31)
    assert scaled.mean() == pytest.approx(0.31, rel=1e-12)
    assert scaled / scaled[0] == pytest.approx(series / series[0], rel=1e-12)


@pytest.mark.parametrize("series", [[0.0, 0.0], [-1.0, 0.5], [float("nan"), 1.0]])
def test_scale_to_mean_needs_a_positive_mean(series: list[float]) -> None:
    """A series that is zero on average cannot be scaled to anything."""
    with pytest.raises(ValueError, match="positive mean"):
        water.scale_to_mean(series, 1.0)


# Water of electricity


@pytest.mark.parametrize(
    ("fuel", "gal_per_mwh", "l_per_kwh"),
    [
        ("nuclear", 600, 2.271),
        ("coal", 450, 1.703),
        ("gas", 300, 1.136),
        ("oil", 350, 1.325),
        ("hydro", 0, 0.0),
        ("wind", 0, 0.0),
        ("solar", 0, 0.0),
        ("other", 475, 1.798),
    ],
)
def test_ren_factors_and_their_litres(fuel: str, gal_per_mwh: float, l_per_kwh: float) -> None:
    """Dossier, table 5.2: gallons per MWh as published, and the litres per kWh they are."""
    assert water.REN_EWIF_GAL_PER_MWH[fuel] == gal_per_mwh
    assert gal_per_mwh * water.L_PER_GAL / 1000 == pytest.approx(l_per_kwh, abs=5e-4)


def test_waterwise_factors() -> None:
    """Dossier, table 5.2: the other set, which has 17 L/kWh for hydro where Ren has none."""
    assert dict(water.WATERWISE_EWIF_L_PER_KWH) == {
        "nuclear": 2.6,
        "coal": 1.51,
        "gas": 1.02,
        "oil": 1.79,
        "hydro": 17.0,
        "wind": 0.0,
        "solar": 0.06,
        "biomass": 1.14,
        "geothermal": 5.8,
    }


def test_mix_by_hand() -> None:
    """Half nuclear, 30 % gas, 20 % wind: 1.3 + 0.306 + 0; with Ren's factors 390 gal/MWh."""
    shares = {"nuclear": 0.5, "gas": 0.3, "wind": 0.2}
    assert water.ewif_of_mix(shares, water.WATERWISE_EWIF_L_PER_KWH) == pytest.approx(1.606)
    assert water.ewif_of_mix(shares, water.REN_EWIF_GAL_PER_MWH) == pytest.approx(390.0)
    assert water.ewif_of_mix({"hydro": 1.0}, {"hydro": 17.0, "coal": 1.51}) == 17.0


def test_mix_refuses_what_it_cannot_weigh() -> None:
    """A fuel without a factor is named; shares that are no whole are refused."""
    with pytest.raises(ValueError, match="peat, tidal"):
        water.ewif_of_mix({"tidal": 0.5, "coal": 0.3, "peat": 0.2}, {"coal": 1.5})
    for share in (0.4, 0.6, 0.0):
        with pytest.raises(ValueError, match="expected 1"):
            water.ewif_of_mix({"coal": 0.5, "gas": share}, water.WATERWISE_EWIF_L_PER_KWH)


# Energy


def test_server_power() -> None:
    """A server's kilowatt at PUE 1.25 is 1.25 kW at the feed."""
    assert energy.it_and_facility_power_w(1000.0, "server", 1.25) == (1000.0, 1250.0)


def test_gpu_power_needs_the_rest_of_the_server() -> None:
    """PUE multiplies GPUs plus host, never GPUs alone; without the host's power it is refused."""
    assert energy.it_and_facility_power_w(1000.0, "gpu", 1.25, 200.0) == (1200.0, 1500.0)
    assert energy.it_and_facility_power_w(1000.0, "gpu", 1.25, 0.0) == (1000.0, 1250.0)
    with pytest.raises(ValueError, match="host_adder_w"):
        energy.it_and_facility_power_w(1000.0, "gpu", 1.25)


def test_facility_power_already_holds_the_pue() -> None:
    """Facility power is divided by PUE to get at IT power, not multiplied once more."""
    assert energy.it_and_facility_power_w(1500.0, "facility", 1.25) == (1200.0, 1500.0)


def test_unknown_boundary_is_refused() -> None:
    """A boundary is gpu, server or facility."""
    with pytest.raises(ValueError, match="'rack'"):
        energy.it_and_facility_power_w(1.0, "rack", 1.2)  # type: ignore[arg-type]


@pytest.mark.parametrize("boundary", ["gpu", "server", "facility"])
def test_boundaries_broadcast(boundary: Any) -> None:
    """Arrays of power and PUE give what their elements give."""
    power, pue = np.array([[500.0], [800.0]]), np.array([1.0, 1.1, 1.5])
    it, facility = energy.it_and_facility_power_w(power, boundary, pue, 100.0)
    for (i, j), feed in np.ndenumerate(np.broadcast_to(facility, (2, 3))):
        alone = energy.it_and_facility_power_w(float(power[i, 0]), boundary, float(pue[j]), 100.0)
        assert (np.broadcast_to(it, (2, 3))[i, j], feed) == alone
        assert feed == pytest.approx(alone[0] * pue[j], rel=1e-15)


def test_energy_of_half_an_hour() -> None:
    """1.5 kW for 1,800 s is 0.75 kWh."""
    assert energy.energy_kwh(1500.0, 1800.0) == 0.75


# Carbon


def test_operational_carbon_by_hand() -> None:
    """2 kWh at 400 g/kWh are 0.8 kg; a negative marginal intensity gives a negative amount."""
    assert carbon.operational_kg(2.0, 400.0) == pytest.approx(0.8, rel=1e-15)
    assert carbon.operational_kg(2.0, -50.0) == pytest.approx(-0.1, rel=1e-15)
    both = carbon.operational_kg(np.array([2.0, 0.0]), np.array([-8353.0, 9067.0]))
    assert both == pytest.approx([-16.706, 0.0], rel=1e-15)


def test_embodied_carbon_of_waterwise() -> None:
    """1,633,982 g over four years is 0.0129533 g/s for one busy server."""
    rate = carbon.embodied_kg(1633.982, 4 * 365 * 86400, 1, 1) * 1000
    assert rate == pytest.approx(0.0129533, abs=5e-8)


def test_embodied_carbon_is_linear_in_units_and_time() -> None:
    """Eight GPUs of 150 kg over five years of 365 days, one hour: 8 x 150 / 43,800 kg."""
    found = carbon.embodied_kg(150.0, 5 * 365 * 86400, 8, 3600)
    assert found == pytest.approx(8 * 150 / 43800, rel=1e-12)


# Latency


GRID_TOKENS, GRID_S = (16.0, 512.0, 4096.0), (0.03, 0.15, 1.1)


@pytest.mark.parametrize(
    ("tokens", "seconds"),
    [(16, 0.03), (264, 0.09), (512, 0.15), (2304, 0.625), (4096, 1.1)],
)
def test_prefill_is_linear_between_measurements(tokens: float, seconds: float) -> None:
    """On the grid the measured value, half-way the mean of two."""
    assert float(latency.prefill_s(tokens, GRID_TOKENS, GRID_S)) == pytest.approx(seconds)


def test_prefill_of_many_prompts() -> None:
    """Lengths may come as an array."""
    found = latency.prefill_s([264.0, 16.0], GRID_TOKENS, GRID_S)
    assert found == pytest.approx([0.09, 0.03])


@pytest.mark.parametrize("tokens", [15.9, 4096.1, [16.0, 5000.0], [0.0, 512.0]])
def test_prefill_is_not_extrapolated(tokens: Any) -> None:
    """One prompt outside the measured grid and the whole request is refused, with the range."""
    with pytest.raises(ValueError, match=r"outside the measured 16 to 4096"):
        latency.prefill_s(tokens, GRID_TOKENS, GRID_S)


def sorted_quantile(values: list[int], weights: list[int], q: Fraction) -> int:
    """Smallest value v such that the weight of all values up to v reaches the share q."""
    total = sum(weights)
    return min(
        v
        for v in values
        if sum(w for u, w in zip(values, weights, strict=True) if u <= v) >= q * total
    )


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 30)), min_size=1, max_size=8).filter(
        lambda pairs: sum(w for _, w in pairs) > 0
    ),
    st.integers(1, 100),
)
@EXACT
def test_quantile_by_brute_force(pairs: list[tuple[int, int]], percent: int) -> None:
    """Ties, zero weights, any order: the quantile is the one of the definition, exactly."""
    values, weights = [v for v, _ in pairs], [w for _, w in pairs]
    found = latency.quantile(values, weights, percent / 100)
    assert found == sorted_quantile(values, weights, Fraction(percent, 100))


@pytest.mark.parametrize(
    ("q", "expected"), [(0.5, 64.0), (0.51, 512.0), (0.9, 512.0), (0.95, 1500.0), (1.0, 1500.0)]
)
def test_quantile_of_prompt_lengths(q: float, expected: float) -> None:
    """A share reached exactly, here 0.5 and 0.5 + 0.4, counts as reached."""
    assert latency.quantile([64.0, 512.0, 1500.0], [0.5, 0.4, 0.1], q) == expected


def test_quantile_flattens_grids() -> None:
    """Values and weights may be of any shape."""
    assert latency.quantile([[3.0, 1.0], [2.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]], 0.5) == 2.0


# KV memory


@pytest.mark.parametrize(
    ("layers", "bytes_per_token", "tokens"), [(80, 327_680, 3_276_800), (32, 131_072, 8_192_000)]
)
def test_kv_bytes_of_llama(layers: int, bytes_per_token: int, tokens: int) -> None:
    """Llama 3 70B and 8B: 8 KV heads of 128 in 2 bytes; and how many tokens fill 1000 GiB."""
    found = kv_cache.kv_bytes_per_token(layers, 8, 128)
    assert found == bytes_per_token
    assert kv_cache.kv_bytes_per_token(layers, 8, 128, bytes_per_value=1) == bytes_per_token / 2
    assert kv_cache.kv_capacity_bytes(1, 1000 * 2**30, 1.0, 0) / found == tokens


def test_kv_capacity_by_hand() -> None:
    """Four GPUs of 80 GB, 90 % usable, 140 GB of weights: 148 GB are left."""
    assert kv_cache.kv_capacity_bytes(4, 80e9, 0.9, 140e9) == pytest.approx(148e9, rel=1e-12)
    assert kv_cache.kv_capacity_bytes(1, 80e9, 0.9, 140e9) == pytest.approx(-68e9, rel=1e-12)


def test_littles_law() -> None:
    """Two requests a second that stay three seconds are six in service."""
    assert kv_cache.batch_by_littles_law(2.0, 3.0) == 6.0
    assert kv_cache.batch_by_littles_law(np.array([2.0, 0.0]), 3.0).tolist() == [6.0, 0.0]
