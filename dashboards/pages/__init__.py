"""The pages of a study, in the order of the navigation."""

from __future__ import annotations

from dashboards.blocks import Page
from dashboards.pages.robustness import ROBUSTNESS

PAGES: dict[str, Page] = {page.name: page for page in (ROBUSTNESS,)}
