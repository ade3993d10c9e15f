"""What mkdocs takes from elsewhere: addresses, the pages of the repository's root, the pages of rules and causes.

``mkdocs.yml`` names this file under ``hooks``; the functions are called as mkdocs' events are.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]

FROM_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""File in the repository's root to its page on the site."""
_IN_ROOT = {page: file for file, page in FROM_ROOT.items()}

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the addresses, and list the pages of rules and causes below their catalogues."""
    config.site_url = URLS["Documentation"]
    config.repo_url = URLS["Source"]
    config.repo_name = URLS["Source"].removeprefix("https://github.com/")
    for folder in ("rules", "causes"):
        pages = sorted(page.name for page in ROOT.glob(f"docs/{folder}/*.md") if page.name != "README.md")
        catalogue = f"{folder}/README.md"
        config.nav = [
            _with_pages(entry, catalogue, [f"{folder}/{page}" for page in pages]) for entry in config.nav or ()
        ]
    return config


def _with_pages(entry: Any, index: str, pages: list[str]) -> Any:
    return {title: [index, *pages] if page == index else page for title, page in entry.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie in the repository's root."""
    for file, page in FROM_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links between files of the repository links between pages; what is no page is shown in the repository."""
    here = page.file.src_uri
    file = _IN_ROOT.get(here, f"docs/{here}")

    def redirect(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(file), match[1]))
        if target in FROM_ROOT or target.startswith("docs/"):
            return posixpath.relpath(
                FROM_ROOT.get(target, target.removeprefix("docs/")), posixpath.dirname(here) or "."
            )
        return f"{URLS['Source']}/{'tree' if (ROOT / target).is_dir() else 'blob'}/main/{target}"

    return _LINK.sub(redirect, markdown)
