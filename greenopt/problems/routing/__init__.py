"""Routing: which model on which hardware answers each query of a known workload."""
