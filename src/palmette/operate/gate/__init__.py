"""May the new model take the old one's place? Per task, with intervals; no mean hides a task that fell."""

from palmette.operate.gate.gate import gate
from palmette.operate.gate.settings import GateSettings

__all__ = ["GateSettings", "gate"]
