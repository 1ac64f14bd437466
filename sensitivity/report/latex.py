"""LaTeX and BibTeX as text: tables with booktabs, figures with their captions, and references."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from sensitivity.figures.tables import Table

_CHARACTERS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "—": "---", "≥": r"$\geq$", "≤": r"$\leq$",
    "×": r"$\times$", "−": r"$-$", "±": r"$\pm$", "·": r"$\cdot$", "∞": r"$\infty$", "→": r"$\to$", "≈": r"$\approx$",
    "★": r"$\star$", "○": r"$\circ$", "λ": r"$\lambda$", "ε": r"$\varepsilon$", "η": r"$\eta$",
    "<": r"\textless{}", ">": r"\textgreater{}", '"': "''", "`": "'",
}  # fmt: skip
_LONG = 40
"""Characters of a cell that is set in several lines."""
_REFERENCE = re.compile(r"(?P<authors>[^;]*?) (?P<year>(?:19|20)\d\d)(?:, arXiv (?P<arxiv>\d{4}\.\d{4,5}))?")


def escaped(text: object) -> str:
    """Return text as LaTeX prints it."""
    return "".join(_CHARACTERS.get(letter, letter) for letter in str(text))


def booktabs(table: Table, label: str) -> str:
    """Return a table with the rules of the package booktabs, in a float of its own."""
    columns = "".join(_columns(table))
    rows = [table.header, *table.rows]
    header, *body = [" & ".join(map(escaped, row)) + r" \\" for row in rows]
    lines = [
        r"\begin{table}", r"  \centering\small",
        rf"  \caption{{{escaped(table.caption)}}}", rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{columns}}}", r"    \toprule", f"    {header}", r"    \midrule",
        *(f"    {line}" for line in body), r"    \bottomrule", r"  \end{tabular}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _columns(table: Table) -> Sequence[str]:
    """Return how each column is set: numbers to the right, long texts in lines of equal shares of the page."""
    cells = [[str(row[at]) for row in table.rows] for at in range(len(table.header))]
    long = [at for at, column in enumerate(cells) if max(map(len, column), default=0) > _LONG]
    share = rf"p{{{0.8 / len(long):.2f}\linewidth}}" if long else ""
    return [share if at in long else "l" if at < table.text_columns else "r" for at in range(len(table.header))]


def float_of(name: str, file: str, inches: float, caption: str) -> str:
    """Return a figure's float."""
    lines = [
        r"\begin{figure}", r"  \centering", rf"  \includegraphics[width={inches:g}in]{{{file}}}",
        rf"  \caption{{{escaped(caption)}}}", rf"  \label{{fig:{name}}}", r"\end{figure}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def bibtex(kind: str, key: str, fields: Mapping[str, str]) -> str:
    """Return an entry of a bibliography; fields without a value are left out."""
    lines = [f"  {name} = {{{escaped(value)}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"]) + "\n"


def cited(references: Iterable[str]) -> Sequence[str]:
    """Return an entry for each work that a reference such as "Martens and Grosse 2015, arXiv 1503.05671" names."""
    entries = {}
    for reference in references:
        for found in _REFERENCE.finditer(reference):
            authors = found["authors"].strip("; ")
            first = re.match(r"\w+", authors)
            key = f"{first[0].lower() if first else 'work'}{found['year']}"
            others = authors.replace(" et al.", " and others").replace(", ", " and ")
            arxiv = {"eprint": found["arxiv"], "archiveprefix": "arXiv"} if found["arxiv"] else {}
            entries[key] = bibtex("misc", key, {"author": others, "year": found["year"], **arxiv})
    return tuple(entries.values())
