"""The ground floor: what is on disk. Imports neither the factory nor the trainer.

>>> from data import Lake
>>> lake = Lake.open("data/lake")
"""

from data.lake import Key, Lake, Publisher, Shard, Slice
from data.refusal import Refusal

__all__ = ["Key", "Lake", "Publisher", "Refusal", "Shard", "Slice"]
