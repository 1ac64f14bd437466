"""One dashboard: its studies, its results, and what it may do. Callbacks and pages are given it; nothing is global."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field

from dashboards.blocks import Scene
from dashboards.catalog import Catalog
from dashboards.cluster import Cluster
from dashboards.jobs import Started
from dashboards.results import Results
from dashboards.turns import Turns
from dashboards.view import View, fit, path_of, search_of
from sensitivity.figures.theme import DARK, LIGHT
from sensitivity.study.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Site:
    """A dashboard over a root."""

    catalog: Catalog
    prefix: str
    """Of every address, beginning and ending with a slash."""
    may_run: bool
    """Whether studies can be started and stopped from the browser."""
    cluster: Cluster | None = None
    """Where studies can be submitted to."""
    started: Started = field(default_factory=Started)
    turns: Turns = field(default_factory=Turns)

    def href(self, view: View) -> str:
        """Return the address of a view."""
        return self.prefix + path_of(view).removeprefix("/") + search_of(view)

    def inner(self, pathname: str | None) -> str:
        """Return a path without the prefix."""
        path = pathname or "/"
        return "/" + path.removeprefix(self.prefix) if path.startswith(self.prefix) else path

    def expect(self, view: View) -> None:
        """Begin to read the study of a page that is being opened, while the browser still starts the page."""

        def read() -> None:
            with contextlib.suppress(UserError):  # the page itself will say so
                scene, _ = self.scene(view, None)
                if view.page == "robustness":
                    _ = scene.results.maps

        threading.Thread(target=read, name="expected", daemon=True).start()

    def scene(self, view: View, theme: str | None) -> tuple[Scene, tuple[str, ...]]:
        """Return what a page of a study shows, and what of the view the study doesn't have.

        Raises:
            UserError: there is no such study, or it can't be read.
        """
        loaded = self.catalog.load(view.study or "")
        fitted, missing = fit(view, loaded.spec)
        results = Results(loaded, fitted)
        scene = Scene(
            view=fitted,
            results=results,
            theme=DARK if theme == "dark" else LIGHT,
            href=self.href,
            version=loaded.version,
        )
        return scene, missing
