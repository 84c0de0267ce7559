"""`python -m data.demo [--seed 0] [--out data/demo/files]`: writes the demo's text. Makes no model and no table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data.demo.write import write
from data.refusal import Refusal


def main(arguments: list[str] | None = None) -> int:
    """Writes the files and says what changed. Returns the exit code: 0, or 2 after a refusal."""
    parser = argparse.ArgumentParser(prog="python -m data.demo", description="Write the demo's world as text.")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another world of facts (default 0)")
    parser.add_argument("--out", type=Path, default=Path("data/demo/files"), help="folder (default data/demo/files)")
    options = parser.parse_args(arguments)
    try:
        changed = write(options.out, options.seed)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 2
    print(
        f"{options.out}: world of seed {options.seed}, {len(changed)} files written"
        if changed
        else f"{options.out}: unchanged"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
