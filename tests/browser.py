"""Headless Chromium, for tests of pages. The fixture `browser` (conftest.py) starts one, or skips the test."""

from __future__ import annotations

import shutil
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


class Browser:
    """Headless Chromium at some width."""

    def __init__(self) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))

    def open(self, url: str, width: int) -> list[str]:
        """Show a page; what the console said."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.driver.get(url)
        return self.console()

    def console(self) -> list[str]:
        """What the console has said since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def ask(self, script: str, *arguments: Any) -> Any:
        """The value of an expression, in which `arguments` are the arguments; of a promise, what it comes to."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def command(self, name: str, **arguments: Any) -> Any:
        """What the DevTools protocol answers."""
        return self.driver.execute_cdp_cmd(name, arguments)
