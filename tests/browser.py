"""Headless Chromium, for tests of pages. The fixture `browser` (conftest.py) starts one, or skips the test."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

T = TypeVar("T")


class Browser:
    """A tab of headless Chromium, driven by Playwright.

    Playwright runs an event loop in the thread that uses it, which tests of asynchronous code would run into: it has a
    thread of its own.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="browser")
        self._said: list[str] = []
        self._do(self._start)

    def _do(self, function: Callable[[], T]) -> T:
        return self._thread.submit(function).result()

    def _start(self) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
        )
        self._tab = self._chromium.new_page(no_viewport=True)  # its size is `open`'s to say
        self._tab.on("console", lambda message: self._said.append(f"{message.type}: {message.text}"))
        self._tab.on("pageerror", lambda error: self._said.append(f"uncaught: {error}"))
        self._protocol = self._tab.context.new_cdp_session(self._tab)

    def close(self) -> None:
        """End the browser."""

        def stop() -> None:
            self._chromium.close()
            self._playwright.stop()

        self._do(stop)
        self._thread.shutdown()

    def open(self, url: str, width: int) -> list[str]:
        """Show a page; what the console said."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self._do(lambda: self._tab.goto(url))
        return self.console()

    def console(self) -> list[str]:
        """What the console has said since it was last asked."""
        self.ask("0")  # what was said before this is heard by now
        said, self._said = self._said, []
        return said

    def ask(self, script: str, *arguments: Any) -> Any:
        """The value of an expression, in which `arguments` are the arguments; of a promise, what it comes to."""
        return self.run(f"return {script}", *arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        """The same of statements, and what they return."""
        # By the protocol, for Playwright's own `evaluate` would be stopped by the pages' content security policy.
        expression = f"(function () {{ {script} }}).apply(null, {json.dumps(arguments)})"
        answer = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> None:
        """Until an expression is true."""
        stop = time.monotonic() + seconds
        while not self.ask(f"Boolean({script})"):
            text = str(self.ask("document.body.innerText"))[:2000]
            assert time.monotonic() < stop, f"in vain: {script}; {self.console()}; {text}"
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        """Press keys one after another, by Playwright's names: `Enter`, `a`, `Control+z`."""

        def press() -> None:
            for key in keys:
                self._tab.keyboard.press(key)

        self._do(press)

    def type(self, text: str) -> None:
        """Press the keys of a text."""
        self._do(lambda: self._tab.keyboard.type(text))

    def allow(self, *permissions: str) -> None:
        """Grant what a user would be asked for, by Playwright's names."""
        self._do(lambda: self._tab.context.grant_permissions(permissions))

    def command(self, name: str, **arguments: Any) -> Any:
        """What the DevTools protocol answers."""
        return self._do(lambda: self._protocol.send(name, arguments))
