"""A page of the report, opened in a headless browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Opened:
    """A page, with everything it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.page = browser.new_page(reduced_motion="reduce", **{"viewport": {"width": 1280, "height": 900}} | context)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda line: self.errors.append(line.text) if line.type in ("error", "warning") else None
        )
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_timeout(150)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def overflow(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
