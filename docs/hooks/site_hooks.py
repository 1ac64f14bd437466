"""Hooks of mkdocs: pages that are generated when the site is built, and links that leave the documentation.

Pages link to files of the repository as they are read on its host: ``../CONTRIBUTING.md``, ``../examples/...``. Of
these, pages of the site are linked as such; other files are copied into the site, below ``source/``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gallery import gallery_page
from study_file_reference import study_file_reference

from sensitivity.cli.main import app

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
COPIED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
}
"""Files of the repository outside of docs/ that are pages of the site."""
_LINK = re.compile(r"(?<!`)(\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(\))")

_REQUEST = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)")


def commands_page() -> str:
    """Return the reference of the commands, from the options that they declare."""
    from typer.main import get_command

    parts = [
        "# Commands",
        "Generated from the commands themselves; `sensitivity COMMAND --help` prints the same.",
    ]
    for name, command in getattr(get_command(app), "commands", {}).items():
        arguments = " ".join(p.metavar or p.name.upper() for p in command.params if p.param_type_name == "argument")
        parts += [
            f"## `sensitivity {name}`",
            f"```text\nsensitivity {name} [OPTIONS] {arguments}\n```".replace(" \n", "\n"),
        ]
        parts.append((command.help or "").strip())
        rows = [
            f"| `{', '.join(getattr(p, 'opts', None) or [p.name])}` | {_escaped(getattr(p, 'help', '') or '')} |"
            for p in command.params
            if p.name != "help"
        ]
        if rows:
            parts.append("\n".join(["| | |", "| --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


GENERATED: dict[str, Callable[[], str]] = {
    "reference/study-file.md": study_file_reference,
    "reference/commands.md": commands_page,
    "gallery.md": gallery_page,
    **{page: (ROOT / source).read_text for source, page in COPIED.items()},
}
"""Pages that are made when the site is built."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files of the repository that pages link to."""
    from mkdocs.structure.files import File

    for page, text in GENERATED.items():
        files.append(File.generated(config, page, content=text()))
    for page in [file for file in files if file.is_documentation_page()]:
        for target in _outside(page.src_uri, page.content_string):
            uri = f"source/{target}"
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Return a page whose links lead to places of the site."""
    here = page.file.src_uri

    def linked(match: re.Match[str]) -> str:
        return f"{match[1]}{_in_site(here, match[2])}{match[3] or ''}{match[4]}"

    return _LINK.sub(linked, markdown)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Return the page; refuse one that would ask another host for anything when it is opened.

    Raises:
        PluginError: it would.
    """
    from mkdocs.exceptions import PluginError

    if asked := _REQUEST.search(output):
        raise PluginError(f"{page.file.src_uri}: the page would load {asked[1]}; the site has to work offline")
    return output


def _in_site(page: str, link: str) -> str:
    """Return a page's link to a file of the repository as one to a file of the site."""
    target = _in_repository(page, link)
    if target in COPIED:
        wanted = COPIED[target]
    elif target.startswith("docs/"):
        wanted = target.removeprefix("docs/")
    else:
        wanted = f"source/{target}"
    return posixpath.relpath(wanted, posixpath.dirname(page) or ".")


def _outside(page: str, markdown: str) -> Iterator[str]:
    """Yield the files of the repository, not of the site, that a page links to."""
    for match in _LINK.finditer(markdown):
        target = _in_repository(page, match[2])
        if target not in COPIED and not target.startswith("docs/") and (ROOT / target).is_file():
            yield target


def _in_repository(page: str, link: str) -> str:
    """Return the path in the repository that a page of the site links to, from where its source lies."""
    sources = {page: source for source, page in COPIED.items()}
    folder = posixpath.dirname(sources.get(page, f"docs/{page}"))
    return posixpath.normpath(posixpath.join(folder, link))


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
