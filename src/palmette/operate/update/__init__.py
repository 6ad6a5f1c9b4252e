"""What people corrected goes back into the model: trained on, calibrated, gated, left as a candidate."""

from palmette.operate.update.settings import UpdateSettings
from palmette.operate.update.update import update

__all__ = ["UpdateSettings", "update"]
