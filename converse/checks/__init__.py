"""System checks: one for each setting (E0…), for what must be there (E1…), and for what works, but not well (W…)."""

from converse.checks.settings import DEFAULTS, SETTINGS, check_settings
from converse.checks.surroundings import check_deployment, check_installation

__all__ = ["DEFAULTS", "SETTINGS", "check_deployment", "check_installation", "check_settings"]
