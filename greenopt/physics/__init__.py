"""Pure functions with units: energy, carbon, water, latency, KV memory.

No function here knows an instance, a model or a solver. Quantities are floats or arrays that
broadcast; the unit is in the argument's name.
"""
