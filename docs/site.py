"""Hooks of mkdocs: the README as the first page, the changelog, and files of the repository that pages link to.

Pages are written to be read in the repository; their links are changed to those of the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent

OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the site that are not in docs/."""

LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")
"""The end of a link without a scheme: its path, and the place on that page."""

WHOLE_LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)\)")
"""Such a link with its text."""


def on_files(files: Files, *, config: Any) -> Files:
    """Add what lies outside of docs/: pages, and the files that pages link to."""
    pages = {ROOT / name: name for name in OUTSIDE} | dict.fromkeys((ROOT / "docs").glob("*.md"))
    for source, name in pages.items():
        if name is not None:
            files.append(File.generated(config, OUTSIDE[name], content=source.read_text(encoding="utf-8")))
        for match in LINK.finditer(source.read_text(encoding="utf-8")):
            target = (source.parent / match[1]).resolve()
            if target.is_file() and _outside(target) and files.get_file_from_path(_in_site(target)) is None:
                files.append(File.generated(config, _in_site(target), abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page with the links of the site."""
    names = {site: name for name, site in OUTSIDE.items()}
    source = ROOT / names.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def changed(match: re.Match[str]) -> str:
        target = (source.parent / match[1]).resolve()
        return f"]({_in_site(target)}{match[2] or ''})" if target.is_file() else match[0]

    def without_folders(match: re.Match[str]) -> str:
        return match[1] if (source.parent / match[2]).is_dir() else match[0]

    return LINK.sub(changed, WHOLE_LINK.sub(without_folders, markdown))


def _outside(target: Path) -> bool:
    return not target.is_relative_to(ROOT / "docs") and str(target.relative_to(ROOT)) not in OUTSIDE


def _in_site(target: Path) -> str:
    """Return the path in the site of a file of the repository."""
    name = target.relative_to(ROOT).as_posix()
    return OUTSIDE.get(name, name.removeprefix("docs/"))
