"""A file of a model hub in place of a path: `owner/name:file`, with a revision `owner/name@revision:file`.

Fetches it once, into the hub's own cache. Refuses what the hub does not give, and what is neither a file here nor such a name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from data.refusal import Refusal

_SPARED: ContextVar[bool] = ContextVar("spared", default=False)
_NAMED = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?:(?P<file>[\w./-]+)")


@contextlib.contextmanager
def spared() -> Iterator[None]:
    """Within it no file is fetched: an estimate asks what a recipe says, not what a file of gigabytes holds."""
    before = _SPARED.set(True)
    try:
        yield
    finally:
        _SPARED.reset(before)


def awaited(path: str) -> bool:
    """Whether a path names a file of the hub that is left where it is for now."""
    return _SPARED.get() and _NAMED.fullmatch(path) is not None and not Path(path).exists()


def local(path: str) -> str:
    """The path itself, or where the hub's file of that name lies once it is fetched. Raises Refusal where it cannot be had."""
    named = _NAMED.fullmatch(path)
    if named is None or Path(path).exists():
        return path
    import huggingface_hub

    try:
        return str(huggingface_hub.hf_hub_download(named["repo"], named["file"], revision=named["revision"]))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Refusal(
            f"no file {named['file']} of {named['repo']}: not a file here, and not to be had from the hub ({reason})",
            f"fetch it where there is a network (hf download {named['repo']} {named['file']}), and give its path",
        ) from error
