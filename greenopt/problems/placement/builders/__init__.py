"""Placement instances from published problems of other authors."""

from greenopt.problems.placement.builders._casper import (
    CASPER_CARBON_SIGNAL,
    CASPER_SOURCE,
    casper,
    casper_folder,
)
from greenopt.problems.placement.builders._eglb import (
    EGLB_CARBON_SIGNAL,
    EGLB_SERIES,
    EGLB_SOURCE,
    EGLB_START,
    eglb,
    eglb_csv,
)
from greenopt.problems.placement.builders._freesh import (
    FREESH_CARBON_SIGNAL,
    FREESH_SOURCE,
    FREESH_START,
    freesh,
    freesh_folder,
)
from greenopt.problems.placement.builders._waterwise import (
    WATERWISE_APPS,
    WATERWISE_CARBON_SIGNAL,
    WATERWISE_EMBODIED_G_PER_S,
    WATERWISE_EMBODIED_L_PER_S,
    WATERWISE_REGIONS,
    WATERWISE_SOURCE,
    WATERWISE_START,
    WATERWISE_WSF,
    waterwise,
    waterwise_folder,
    waterwise_history,
    waterwise_urgency,
    waterwise_water_intensity,
)

__all__ = [
    "CASPER_CARBON_SIGNAL",
    "CASPER_SOURCE",
    "EGLB_CARBON_SIGNAL",
    "EGLB_SERIES",
    "EGLB_SOURCE",
    "EGLB_START",
    "FREESH_CARBON_SIGNAL",
    "FREESH_SOURCE",
    "FREESH_START",
    "WATERWISE_APPS",
    "WATERWISE_CARBON_SIGNAL",
    "WATERWISE_EMBODIED_G_PER_S",
    "WATERWISE_EMBODIED_L_PER_S",
    "WATERWISE_REGIONS",
    "WATERWISE_SOURCE",
    "WATERWISE_START",
    "WATERWISE_WSF",
    "casper",
    "casper_folder",
    "eglb",
    "eglb_csv",
    "freesh",
    "freesh_folder",
    "waterwise",
    "waterwise_folder",
    "waterwise_history",
    "waterwise_urgency",
    "waterwise_water_intensity",
]
