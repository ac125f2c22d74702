"""Laws of energy, power and time fitted to measurements, with intervals and a range of validity.

Every fit says what it is: coefficients with units and confidence intervals, an R² by its name,
residuals, the range that was measured, and how the measurements were made. Outside of that range
nothing is predicted unless asked for. SciPy and statsmodels do the fitting (extra `fit`).
"""

from greenopt.fitting.fit import LAWS, Fit
from greenopt.fitting.laws import (
    energy_of_batch,
    itl_of_batch,
    power_of_batch,
    power_of_frequency,
    prefill_of_tokens,
    time_of_frequency,
    tokens,
    tokens_physical,
)
from greenopt.fitting.tables import (
    BatchLaws,
    ClockChoice,
    Fits,
    FrequencyLaws,
    Served,
    batch_laws,
    frequency_laws,
    prefill_laws,
    tokens_by_model,
)

__all__ = [
    "LAWS",
    "BatchLaws",
    "ClockChoice",
    "Fit",
    "Fits",
    "FrequencyLaws",
    "Served",
    "batch_laws",
    "energy_of_batch",
    "frequency_laws",
    "itl_of_batch",
    "power_of_batch",
    "power_of_frequency",
    "prefill_laws",
    "prefill_of_tokens",
    "time_of_frequency",
    "tokens",
    "tokens_by_model",
    "tokens_physical",
]
