"""The pages of a study, in the order of the navigation."""

from __future__ import annotations

from dashboards.blocks import Page
from dashboards.pages.overview import OVERVIEW
from dashboards.pages.robustness import ROBUSTNESS
from dashboards.pages.runs import RUNS
from dashboards.pages.scaling import SCALING
from dashboards.pages.sensitivity import SENSITIVITY
from dashboards.pages.success import SUCCESS

PAGES: dict[str, Page] = {page.name: page for page in (OVERVIEW, ROBUSTNESS, SENSITIVITY, SUCCESS, SCALING, RUNS)}
