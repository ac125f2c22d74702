"""Geo-distributed request placement over TTFT, carbon, water and cost."""
