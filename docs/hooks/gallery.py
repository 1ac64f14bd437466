"""The gallery: every exhibit of the catalogue, with its picture from a real study (``render_images.py`` draws them)."""

from __future__ import annotations

from pathlib import Path

from sensitivity.figures.catalogue import EXHIBITS, of_section
from sensitivity.figures.sections import SECTIONS

PICTURES = Path(__file__).parents[1] / "gallery"
_INTRODUCTION = """
# Gallery

Every exhibit that the report, the dashboard, `sensitivity figure` and Python show, drawn from one run of the
quickstart (`sensitivity run quickstart`). This page is generated from the catalogue of exhibits.
"""


def gallery_page() -> str:
    """Return the page, as Markdown."""
    parts = [_INTRODUCTION.strip()]
    known = {section.name for section in SECTIONS}
    titles = [(section.name, section.title) for section in SECTIONS]
    titles += [(name, name.capitalize()) for name in dict.fromkeys(e.section for e in EXHIBITS) if name not in known]
    for name, title in titles:
        exhibits = of_section(name)
        if exhibits:
            parts.append(f"## {title}")
        for exhibit in exhibits:
            parts += [f"### {exhibit.title}", f"`sensitivity figure studies/quickstart {exhibit.name}`"]
            picture = PICTURES / f"{exhibit.name}.webp"
            if picture.exists():
                parts.append(f"![{exhibit.title}](gallery/{picture.name}){{ loading=lazy }}")
            elif exhibit.draw is None:
                parts.append("A table.")
    return "\n\n".join(parts) + "\n"
