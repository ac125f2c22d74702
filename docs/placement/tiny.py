"""Two sites, two periods, one model: a whole instance from Python, with invented numbers."""

import pandas as pd

import greenopt as go

sets = {
    "periods": {
        "start": ["2024-06-01T00:00Z", "2024-06-01T01:00Z"],
        "duration_s": [3600.0, 3600.0],
    },
    "origins": ["users"],
    "sites": ["north", "south"],
    "modes": ["standard"],
    "models": [{"name": "model-a", "weight_bytes": None, "kv_bytes_per_token": None}],
    "gpu_types": [
        {"name": "gpu", "memory_bytes": None, "embodied_kg": 150.0, "lifetime_s": 1.26e8}
    ],
}
profile = {
    "model": "model-a",
    "mode": "standard",
    "gpu_type": "gpu",
    "gpus_per_instance": 2.0,
    "power_boundary": "server",
    "prefill_tokens": [0.0, 4000.0],
    "levels": [  # from light load to full load
        {
            "requests_per_s": 2.0,
            "power_w": 900.0,
            "itl_s": {"mean": 0.02, "p95": 0.03},
            "prefill_s": [0.05, 0.40],
        },
        {
            "requests_per_s": 6.0,
            "power_w": 1300.0,
            "itl_s": {"mean": 0.05, "p95": 0.08},
            "prefill_s": [0.05, 0.60],
        },
    ],
}
chat = {
    "name": "chat",
    "model": "model-a",
    "prompt_tokens": {"values": [200.0, 2000.0], "probabilities": [0.9, 0.1]},
    "output_tokens": {"values": [300.0], "probabilities": [1.0]},
    "work_per_request": {"standard": 1.0},
    "egress_bytes_per_request": 1200.0,
    "ttft_limit_s": 0.5,
    "ttft_statistic": "p95",
}
meaning = {
    "carbon_signal": {
        "kind": "average",
        "scope": "life-cycle",
        "basis": "consumption",
        "provider": "invented",
        "year": 2024,
    },
    "wue_basis": {"kind": "given", "note": "invented"},
    "ewif_set": "invented",
    "price_basis": "tariff",
    "provenance": {
        "description": "Two sites, two periods: an example",
        "builder": "docs/placement/tiny.py",
        "data_licence": "CC0-1.0",
        "sources": [{"name": "invented", "licence": "CC0-1.0", "attribution": "none needed"}],
    },
}
series = {  # arrays over some of their axes; the others are filled with copies
    "demand_requests": {"axes": ["period"], "values": [20000.0, 30000.0]},
    "gpus": {"axes": ["site"], "values": [8.0, 8.0]},
    "pue": {"axes": ["site"], "values": [1.1, 1.3]},
    "wue_l_per_kwh": {"axes": ["site"], "values": [0.2, 1.1]},
    "cycles_of_concentration": {"axes": [], "values": 4.0},
    "ewif_l_per_kwh": {"axes": ["site"], "values": [2.0, 1.2]},
    "rtt_s": {"axes": ["site"], "values": [0.08, 0.02]},
    "last_mile_s": {"axes": [], "values": 0.01},
    "egress_usd_per_gb": {"axes": [], "values": 0.02},
}
objective = [
    {
        "terms": [
            {"metric": "carbon_kg", "weight": 1.0, "scale": 5.0},
            {"metric": "ttft_mean_s", "weight": 1.0, "scale": 0.2},
        ]
    }
]
document = {
    "problem": "placement",
    "schema_version": 1,
    "name": "tiny",
    "profiles": [profile],
    "classes": [chat],
    "objective": objective,
    **sets,
    **meaning,
    **series,
}

rows = [(start, site) for start in sets["periods"]["start"] for site in sets["sites"]]
carbon = pd.DataFrame(rows, columns=["period", "site"])
carbon["carbon_g_per_kwh"] = [120.0, 450.0, 90.0, 480.0]
price = pd.DataFrame({"site": ["south", "north"], "price_usd_per_mwh": [55.0, 80.0]})

inst = go.PlacementInstance.from_frames(document, carbon_g_per_kwh=carbon, price_usd_per_mwh=price)
sol = go.solve(inst)
assert sol.status == go.Status.OPTIMAL
assert go.check(inst, sol).ok
assert go.certify(inst, sol).optimal
