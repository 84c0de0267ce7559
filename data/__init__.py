"""The ground floor: what is on disk. Imports neither the factory nor the trainer.

>>> from data import Lake
>>> lake = Lake.open("data/lake")

The names below are imported when they are asked for, so that `--help` of the commands loads no table library.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.argv[:1] == ["-m"]:  # `python -m` looks for this package: what is not installed is said before an import fails
    from data.installed import require

    require()

if TYPE_CHECKING:
    from data.lake import Key, Lake, Publisher, Shard, Slice
    from data.refusal import Refusal

__all__ = ["Key", "Lake", "Publisher", "Refusal", "Shard", "Slice"]


if not TYPE_CHECKING:  # a checker would take every name for known

    def __getattr__(name: str) -> Any:
        """A public name, from the module that has it."""
        if name not in __all__:
            raise AttributeError(f"module 'data' has no attribute {name!r}")
        return getattr(importlib.import_module("data.refusal" if name == "Refusal" else "data.lake"), name)
