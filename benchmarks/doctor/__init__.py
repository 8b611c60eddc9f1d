"""Frozen faults of data sets, the healthy sets that they are seeded into, and the harness that runs `fullconv check` on them."""
