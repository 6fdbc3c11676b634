"""Headless Chromium through its DevTools pipe: enough to load a page, move the mouse and read what it shows."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
PATIENCE = 120  # seconds for an answer, on a busy machine


class Page:
    """One page of a fresh browser; a context manager.

    Args:
        file: the HTML file to open, or an address.
        width: of the window in CSS pixels.
        height: of the window.
        dark: prefer dark colours.
        phone: touch screen and mobile viewport.
    """

    def __init__(
        self, file: Path | str, width: int = 1180, height: int = 900, dark: bool = False, phone: bool = False
    ) -> None:
        self.file, self.size, self.dark, self.phone = file, (width, height), dark, phone
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.blocked: dict[str, str] = {}  # requests that a page's policy stopped: address to reason
        self._asked: dict[str, str] = {}
        self._number, self._buffer = 0, b""

    def __enter__(self) -> Self:
        assert CHROMIUM is not None
        self._profile = tempfile.mkdtemp()
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        quiet = "--disable-background-networking --no-first-run --hide-scrollbars"
        options = f"--headless --no-sandbox --disable-gpu {quiet}"
        command = f'exec "{CHROMIUM}" {options} --user-data-dir="{self._profile}" --remote-debugging-pipe about:blank'
        shell = ["bash", "-c", f"{command} 3<&{to_read} 4>&{to_write}"]
        silent = subprocess.DEVNULL
        self._process = subprocess.Popen(shell, pass_fds=(to_read, to_write), stdout=silent, stderr=silent)
        os.close(to_read)
        os.close(to_write)
        target = self._ask("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        self._session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True}, None)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        width, height = self.size
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": self.phone}
        self.ask("Emulation.setDeviceMetricsOverride", **shape)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=self.file if isinstance(self.file, str) else self.file.absolute().as_uri())
        self.wait("document.readyState === 'complete'")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception):
            self._ask("Browser.close", {}, None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        shutil.rmtree(self._profile, ignore_errors=True)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A DevTools command to the page."""
        return self._ask(method, parameters, self._session)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Returns when the expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.run(expression):
            assert time.monotonic() < end, f"still not: {expression}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """What a reader sees of the first element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText")).strip()

    def mouse(self, x: float, y: float, kind: str = "mouseMoved", **more: Any) -> None:
        """A mouse event at a place of the window."""
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def key(self, key: str, code: int) -> None:
        """Presses and lets go of a key."""
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, out: Path, whole: bool = True) -> None:
        """A screenshot as PNG."""
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        out.write_bytes(base64.b64decode(data))

    def _ask(self, method: str, parameters: dict[str, Any], session: str | None) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready = select.select([self._read], [], [], PATIENCE)[0]
            part = os.read(self._read, 1 << 16) if ready else b""
            assert part, "the browser went away or fell silent"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        method, about = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(about["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(str(about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(str(about["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
            self._asked[about["requestId"]] = about["request"]["url"]
        elif method == "Network.loadingFailed" and "blockedReason" in about:
            self.blocked[self._asked[about["requestId"]]] = about["blockedReason"]
        return message
