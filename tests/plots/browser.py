"""A headless Chromium that shows pages: what it lays out can be asked for, and a picture of it taken.

Driven over the DevTools protocol through a pair of pipes, so that no port is opened and nothing needs installing.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Literal, Self

BROUGHT = Path(__file__).parents[2] / ".venv-browser" / "chromium"
"""What `make browser` brings where none is on the PATH."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
SECONDS = 60.0

_FLAGS = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-extensions", "--no-zygote",
)  # fmt: skip


def find_browser() -> str | None:
    """The program, None without one."""
    found = (shutil.which(name) for name in NAMES)
    return next(filter(None, found), str(BROUGHT) if os.access(BROUGHT, os.X_OK) else None)


class Browser:
    """One tab. Use as a context manager."""

    def __init__(self, program: str, profile: Path) -> None:
        """`profile`: a folder for what the browser keeps."""
        asks, self._to = os.pipe()
        self._from, answers = os.pipe()
        # The program reads descriptor 3 and writes 4, whatever numbers the pipes have here.
        call = ["bash", "-c", f'exec "$0" "$@" 3<&{asks} 4>&{answers}', program, *_FLAGS, f"--user-data-dir={profile}"]
        self._log = (profile.parent / f"{profile.name}.log").open("wb")
        self._process = subprocess.Popen([*call, "about:blank"], pass_fds=(asks, answers), stderr=self._log)
        os.close(asks)
        os.close(answers)
        self._received = bytearray()
        self._number = 0
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._ask("Page.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._session = None
        try:
            self._ask("Browser.close")
            self._process.wait(SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._to)
            os.close(self._from)
            self._log.close()

    def show(self, page: Path, width: int, scheme: Literal["light", "dark"] = "light", height: int = 800) -> None:
        """Lay a page out in a window of `width` pixels, for those who like `scheme`."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._ask("Page.navigate", url=page.absolute().as_uri())
        self._until(lambda told: told.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives on the page."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, file: Path) -> None:
        """Write a picture of the whole page, at most 20 windows of it."""
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}
        shot = self._ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda told: told.get("id") == self._number)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def _until(self, wanted: Any) -> dict[str, Any]:
        """The next message that is wanted; others are of no interest."""
        deadline = time.monotonic() + SECONDS
        while True:
            while (end := self._received.find(b"\0")) >= 0:
                told: dict[str, Any] = json.loads(self._received[:end])
                del self._received[: end + 1]
                if wanted(told):
                    return told
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._from, 1 << 20) if ready else b""
            assert data, f"the browser does not answer; its log is {self._log.name}"
            self._received += data
