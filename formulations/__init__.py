"""Readable Pyomo statements of every problem: specification, oracle, and a door for extensions."""
