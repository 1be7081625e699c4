"""Opens a page in headless Chromium, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

CONSOLE = re.compile(r':CONSOLE[^\]]*\] (".*?", source: \S*)', re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A page as a browser has shown it."""

    text: str
    """Its document, after its programs have run."""
    console: list[str]
    """What was written to the console: errors, but also warnings."""
    picture: Path

    @cached_property
    def words(self) -> list[str]:
        """The texts between its tags."""
        without_code = re.sub(r"<(script|style).*?</\1>", "", self.text, flags=re.DOTALL)
        return [text.strip() for text in re.split(r"<[^>]+>", without_code) if text.strip()]


def opened(address: str, folder: Path, *options: str, height: int = 1600, wanted: Collection[str] = ()) -> Page:
    """Return a page that the browser, with further options, has opened.

    If it lacks a `wanted` text it is opened again, up to twice: on a busy machine a page may take longer to draw itself
    than a browser without a screen waits.
    """
    assert CHROMIUM is not None
    for _ in range(3):
        page = _opened(CHROMIUM, address, folder, options, height)
        if set(wanted) <= set(page.words):
            break
    return page


def _opened(browser: str, address: str, folder: Path, options: Sequence[str], height: int) -> Page:
    picture = folder / "page.png"
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={folder / 'profile'}",
            f"--screenshot={picture}",
            f"--window-size=1200,{height}",
            "--dump-dom",
            *options,
            address,
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin", "TMPDIR": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    console = CONSOLE.findall(done.stderr)
    assert len(console) == done.stderr.count(":CONSOLE"), done.stderr
    return Page(done.stdout, console, picture)
