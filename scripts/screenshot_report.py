"""Take a picture of a report: `python scripts/screenshot_report.py runs/taxi/report.html docs/report.png --replace`.

Needs playwright and a Chromium: the system's, or the one that `playwright install chromium` fetches.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from reflect_rl.errors import ReflectRLError
from reflect_rl.runs.outputs import output_file

if TYPE_CHECKING:
    from playwright.sync_api import Browser

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-quic"),
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium that talks to nobody. Raises playwright's Error when there is none."""
    from playwright.sync_api import sync_playwright

    system = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


def screenshot(
    report_html: Path,
    png: Path,
    *,
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
    full_page: bool = False,
    part: str | None = None,
    replace: bool = False,
) -> None:
    """Picture of a report at `width` x `height` CSS pixels, in twice the resolution; its top, all of it, or a part.

    part: a CSS selector, of which the first match is taken. replace: a file that is there. Raises OutputError.
    """
    target = output_file(png, "png", [report_html], ours=lambda path: replace)
    with chromium() as browser:
        page = browser.new_page(
            viewport={"width": width, "height": height},
            device_scale_factor=2,
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        page.goto(report_html.resolve().as_uri())
        page.wait_for_timeout(300)
        taken = page.locator(part).first.screenshot() if part else page.screenshot(full_page=full_page)
    target.write_bytes(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report_html", metavar="report", type=Path, help="report.html")
    parser.add_argument("png", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--full-page", action="store_true")
    parser.add_argument("--part", help="a CSS selector: a picture of that alone")
    parser.add_argument("--replace", action="store_true", help="a picture that is there already")
    try:
        screenshot(**vars(parser.parse_args()))
    except ReflectRLError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
