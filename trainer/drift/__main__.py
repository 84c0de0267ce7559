"""`python -m trainer.drift run=NAME`: how far a run has left its pool, what the pool still says about it, what to do."""

from __future__ import annotations

import sys

from trainer.drift.config import DriftSettings
from trainer.keyed import Keyed


def body(settings: DriftSettings) -> None:
    """Measure and print; torch is imported here, so that --help answers at once."""
    from trainer.drift.measure import measure
    from trainer.drift.show import shown

    print(shown(settings, measure(settings)))


COMMAND = Keyed(
    "trainer.drift",
    DriftSettings,
    body,
    "How far a run's weights are from the pool that it read: ESS, KL, tail of the weights, the off-policy value, and a verdict.",
    ("python -m trainer.drift run=demo-hybrid", "python -m trainer.drift run=demo-hybrid groups=128"),
)

if __name__ == "__main__":
    sys.exit(COMMAND.main(sys.argv[1:]))
