"""Behavioural checks: what a model must do whatever its accuracy (Ribeiro et al. 2020, "Beyond Accuracy", ACL).

Other packages add theirs by an entry point of group `palmette.checks`; a user by a YAML file.
"""

from palmette.operate.behaviour.base import Case, Check, Material, Moved
from palmette.operate.behaviour.built_in import CHECKS
from palmette.operate.behaviour.find import find_checks

__all__ = ["CHECKS", "Case", "Check", "Material", "Moved", "find_checks"]
