"""KV-cache memory and the batch that a load implies."""

from __future__ import annotations

from typing import Any


def kv_bytes_per_token(
    layers: int, kv_heads: int, head_dimension: int, bytes_per_value: float = 2
) -> float:
    """KV-cache bytes of one token with (grouped-query) attention: keys and values, every layer."""
    return 2 * layers * kv_heads * head_dimension * bytes_per_value


def batch_by_littles_law(requests_per_s: Any, residence_s: Any) -> Any:
    """Mean number of requests in service: arrival rate times time in service (Little's law)."""
    return requests_per_s * residence_s


def kv_capacity_bytes(
    gpus: Any, memory_bytes_per_gpu: Any, usable_fraction: Any, weight_bytes: Any
) -> Any:
    """Memory left for KV cache on one instance after its weights, bytes."""
    return gpus * memory_bytes_per_gpu * usable_fraction - weight_bytes
