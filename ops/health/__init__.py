"""The doctor: is this environment well, and is it closed? Looks and judges; repairs nothing."""

from ops.health.doctor import examine
from ops.health.model import Report, Result, Status, Verdict
from ops.health.show import show

__all__ = ["Report", "Result", "Status", "Verdict", "examine", "show"]
