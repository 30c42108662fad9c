"""What may be wrong with this machine and these settings, found before it hurts."""

from hawker.apps.cli.doctor.examine import examine
from hawker.apps.cli.doctor.finding import Finding

__all__ = ["Finding", "examine"]
