"""Readers of public formats: grid signals, prices, weather, latencies, traces, measurements.

Nothing is downloaded: every reader takes the path of a file you have, plain or ``.gz``. What is
wrong in a file is an error that names file, row, column, value and expectation. What is unusual but
possible is stated in the ``notes`` of what is returned.
"""

from greenopt.datasets.clocks import read_frequency_measurements
from greenopt.datasets.energy import read_energy_measurements
from greenopt.datasets.latency import RttMatrix, read_rtt
from greenopt.datasets.means import YearlyMeans, read_yearly_carbon
from greenopt.datasets.measured import Measurements
from greenopt.datasets.power import read_power_measurements
from greenopt.datasets.rates import (
    ModelTable,
    RateTable,
    read_servegen_clients,
    read_servegen_lengths,
    read_servegen_rates,
)
from greenopt.datasets.series import (
    TimeSeries,
    read_carbon,
    read_prices,
    read_series,
    read_temperature,
    read_wet_bulb,
)
from greenopt.datasets.tokens import read_token_measurements
from greenopt.datasets.traces import Trace, read_azure_trace, read_mooncake_trace, read_trace

__all__ = [
    "Measurements",
    "ModelTable",
    "RateTable",
    "RttMatrix",
    "TimeSeries",
    "Trace",
    "YearlyMeans",
    "read_azure_trace",
    "read_carbon",
    "read_energy_measurements",
    "read_frequency_measurements",
    "read_mooncake_trace",
    "read_power_measurements",
    "read_prices",
    "read_rtt",
    "read_series",
    "read_servegen_clients",
    "read_servegen_lengths",
    "read_servegen_rates",
    "read_temperature",
    "read_token_measurements",
    "read_trace",
    "read_wet_bulb",
    "read_yearly_carbon",
]
