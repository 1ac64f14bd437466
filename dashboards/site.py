"""State of one dashboard: its studies, results and permissions, passed to callbacks and pages; nothing is global."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from dashboards.address import Address, fit, fit_listing, fit_options, path_of, search_of
from dashboards.blocks import FigureBlock, Scene, TextBlock
from dashboards.catalog import Catalog
from dashboards.cluster import Cluster
from dashboards.compute_queue import ComputeQueue
from dashboards.jobs import Started, absent_modules
from sensitivity.analysis.memo import Memo
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.theme import DARK, LIGHT
from sensitivity.study.errors import StorageError, UserError
from sensitivity.study.spec import StudySpec

_MAX_FIGURES = 48


@dataclass(frozen=True, kw_only=True)
class Site:
    """The dashboard of one root."""

    catalog: Catalog
    prefix: str
    """Path prefix of every address, beginning and ending with a slash."""
    may_run: bool
    """Whether studies can be started and stopped from the browser."""
    may_note: bool = True
    """Whether notes and tags of runs can be written from the browser."""
    cluster: Cluster | None = None
    """Cluster to which studies can be submitted."""
    started: Started = field(default_factory=Started)
    figure_cache: Memo = field(default_factory=lambda: Memo(_MAX_FIGURES))
    """Cache of drawn figures, by their content, so that returning to a page draws nothing again."""
    compute_queue: ComputeQueue = field(default_factory=ComputeQueue)

    def href(self, address: Address) -> str:
        """Return the URL of an address."""
        return self.prefix + path_of(address).removeprefix("/") + search_of(address)

    def inner(self, pathname: str | None) -> str:
        """Return a path without the prefix."""
        path = pathname or "/"
        return "/" + path.removeprefix(self.prefix) if path.startswith(self.prefix) else path

    def preload(self, address: Address) -> None:
        """Start reading a study while the browser is still loading its page."""

        def read() -> None:
            with contextlib.suppress(UserError):  # the page itself reports it
                scene, _ = self.scene(address, None)
                if address.page == "robustness":
                    _ = scene.results.maps

        threading.Thread(target=read, name="expected", daemon=True).start()

    @contextlib.contextmanager
    def in_turn(self, scene: Scene, block: FigureBlock | TextBlock) -> Iterator[None]:
        """Hold the compute queue for a block; its slow steps are computed first, each with its own turn."""
        if block.steps:
            self.compute_queue.wait_for_others()
            with contextlib.suppress(StorageError):  # the block reports it
                if scene.results.target is not None and "target" in (block.depends or ()):
                    scene.results.tables.meeting(*scene.results.target)  # outside a turn: reading blocks nobody
                for step in block.steps:
                    with self.compute_queue.take(late=True):
                        step(scene.results)
                if block.show is not None:
                    with contextlib.suppress(NothingToShowError):
                        block.show(scene)
        with self.compute_queue.take(late=bool(block.steps)):
            yield

    def can_run(self, spec: StudySpec) -> bool:
        """Whether this server may run a study and has the modules that it names."""
        return self.may_run and spec.observed is None and not absent_modules(self.catalog.root, spec)

    def scene(self, address: Address, theme: str | None) -> tuple[Scene, tuple[str, ...]]:
        """Return what a page of a study shows, with messages on parts of the address that the study doesn't have.

        Raises:
            UserError: there is no such study, or it can't be read.
        """
        loaded = self.catalog.load(address.study or "")
        fitted, missing = fit(address, loaded.spec)
        results = replace(loaded.results, view=fitted.view)
        fitted, unknown = fit_options(fitted, results)
        fitted, unlisted = fit_listing(fitted, loaded.runs)
        scene = Scene(
            address=fitted,
            loaded=loaded,
            results=results,
            theme=DARK if theme == "dark" else LIGHT,
            href=self.href,
            version=loaded.version,
            may_run=self.can_run(loaded.spec),
        )
        return scene, (*missing, *unknown, *unlisted)
