"""Says in one line that another Python than the environment's was called, where an import would end in a traceback.

Asked by the packages while `python -m` looks for them. Reads what is installed, imports nothing of it; exits with 2 where something
is missing that every command needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from data.refusal import Refusal

NEEDED = ("duckdb", "hydra", "omegaconf", "pyarrow", "typer")
ENVIRONMENT = ".venv/bin/python"


def require(names: Sequence[str] = NEEDED) -> None:
    """Exit with a sentence and the next command where a module of these is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        refusal = Refusal(
            f"{sys.executable} has no {', '.join(missing)}: it is not the Python of the project's environment",
            f"{ENVIRONMENT} -m … (make .venv/.installed makes it), or source .venv/bin/activate",
        )
        print(refusal, file=sys.stderr)
        raise SystemExit(2)
