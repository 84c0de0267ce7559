"""What three policies said to the same prompts: text that tries to be more than text, and how it stands in `evaluations`."""

from __future__ import annotations

from typing import Any

from data.keys import hex_id, prompt_id

HOSTILE = [
    "<script>alert(1)</script>",
    "</div></article></script><script>fetch('http://example.org')</script>",
    '"onload="alert(2)" x="',
    "<img src=http://example.org/a.png onerror=alert(3)>",
    "\u202eeftir\u202c \u200fשלום\u200e \u2067ø",
    "nul \x00 og tvey\r\nreglubrot\x1b[2J",
    "&lt;b&gt; {{ 7 * 7 }} {% raw %}",
    "   ",
]
ALPHA, BETA, GAMMA = "canary-alpha", "canary-beta", "canary-gamma"


def messages(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Hvat er nummar {i}? <b>{HOSTILE[i % len(HOSTILE)]}</b>"}]


ITEMS = [hex_id(prompt_id(messages(i))) for i in range(24)]


def answer(policy: str, i: int) -> str | None:
    """Item 22 is answered alike but for spaces, item 23 by alpha alone."""
    if i == 22:
        return "  javnt " if policy == ALPHA else "javnt"
    if i == 23 and policy != ALPHA:
        return None
    return HOSTILE[i] if policy == BETA and i < len(HOSTILE) else f"svar {i} frá tí {ord(policy[7])}. ð"


def evaluated(policy: str, benchmark: str, texts: list[str | None]) -> dict[str, list[Any]]:
    """Rows of `evaluations` of one policy."""
    n = len(texts)
    return {
        "policy": [policy] * n, "model_id": [f"model-{policy}"] * n, "benchmark": [benchmark] * n, "item": ITEMS[:n],
        "prediction": texts, "metrics": [[]] * n,
    }  # fmt: skip
