"""Debian's chromium without a window, driven over its DevTools protocol: real clicks, real keys, and every request it makes."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-port=0", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-gpu", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--no-proxy-server", "--lang=en",
)  # fmt: skip
SPECIAL = {"Backspace": 8, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}
PATIENCE = 60.0  # seconds


class Browser:
    """One page. `events`: what it told us of, `(method, params)` in turn."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        profile = folder / "profile"
        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )  # fmt: skip
        port_file = profile / "DevToolsActivePort"
        until(lambda: port_file.is_file() and len(port_file.read_text().splitlines()) == 2)
        port = port_file.read_text().splitlines()[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        targets = json.load(opener.open(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE))
        address = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
        self.stack = contextlib.ExitStack()
        self.socket = self.stack.enter_context(connect(address, max_size=None, proxy=None))
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.sent = 0
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result; what comes before it is kept in `events`."""
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv(timeout=PATIENCE))).get("id") != self.sent:
            self.events.append((message["method"], message["params"]))
        assert "error" not in message, message
        return dict(message["result"])

    def said(self, *methods: str) -> list[dict[str, Any]]:
        """Events of these kinds."""
        return [params for method, params in self.events if method in methods]

    def open(self, path: Path) -> None:
        """Open a file, wait until it is loaded."""
        self.send("Page.navigate", url=path.as_uri())
        until(lambda: self.ask("document.readyState") == "complete" and self.ask("location.href") == path.as_uri())

    def reload(self) -> None:
        """Load the page again."""
        self.ask("window.old = true")
        self.send("Page.reload")
        until(lambda: self.ask("document.readyState === 'complete' && !window.old"))

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def click(self, selector: str) -> None:
        """A mouse click in the middle of what is seen of an element."""
        where = f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
        x, y = self.ask(f"{where} return [r.x + r.width / 2, r.y + r.height / 2]; }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, key: str, *, repeat: bool = False) -> None:
        """A key pressed and released; a key that is held says so."""
        code = SPECIAL.get(key, ord(key[0].upper()))
        text = {} if key in SPECIAL and key != "Enter" else {"text": "\r" if key == "Enter" else key}
        self.send(
            "Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, autoRepeat=repeat, **text
        )
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def write(self, text: str) -> None:
        """Text into what has the focus."""
        self.send("Input.insertText", text=text)

    def look(self, width: int, height: int, scheme: str) -> None:
        """A window of this size, light or dark."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> None:
        """What is seen, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End this browser."""
        self.stack.close()
        self.process.terminate()
        self.process.wait(PATIENCE)


def until(done: Callable[[], Any]) -> None:
    """Wait for something that comes soon."""
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
