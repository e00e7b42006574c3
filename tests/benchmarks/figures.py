"""What a measurement says, and whether that is good enough."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured number with the target that docs/explanation/performance.md gives it."""

    key: str
    value: float
    target: float
    at_least: bool = False
    remark: str = ""

    @property
    def holds(self) -> bool:
        return self.value >= self.target if self.at_least else self.value <= self.target

    def __str__(self) -> str:
        sign = "at least" if self.at_least else "at most"
        verdict = "" if self.holds else "MISSED"
        return f"{self.key:32} {self.value:10.3g}   {sign:8} {self.target:<6g} {verdict:6}  {self.remark}"
