"""A second set of faults, in the formats of annotation tools and public sets.

Written from interface.md, the issue and the names of the codes by someone who had not read the doctor's rules. 251 were tried
first; benchmarks/doctor.md says what came of them, and which two of them were none.
"""

from __future__ import annotations

import export_faults_cvat
import export_faults_files
import export_faults_json
import export_faults_masks
import export_faults_pairs
from export_sets import EXPORTS
from export_tools import FAULTS

__all__ = ["EXPORTS", "FAULTS", "export_faults_cvat", "export_faults_files", "export_faults_json", "export_faults_masks",
           "export_faults_pairs"]  # fmt: skip
