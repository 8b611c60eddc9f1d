"""A second set of faults, in the formats of annotation tools and public sets.

Written from interface.md, the issue and the names of the codes by someone who had not read the doctor's rules.
"""

from __future__ import annotations

import importlib

from doctor.export_sets import EXPORTS
from doctor.export_tools import FAULTS

for _part in ("cvat", "files", "json", "masks", "pairs"):  # each adds its own to FAULTS
    importlib.import_module(f"doctor.export_faults_{_part}")

__all__ = ["EXPORTS", "FAULTS"]
