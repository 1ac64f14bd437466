"""LaTeX and BibTeX as text: tables with booktabs, figures with their captions, and references.

Everything compiles with pdfLaTeX and the packages booktabs and graphicx, for any characters in names and messages.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from sensitivity.figures.tables import Table

_CHARACTERS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "—": "---", "≥": r"$\geq$", "≤": r"$\leq$",
    "×": r"$\times$", "−": r"$-$", "±": r"$\pm$", "·": r"$\cdot$", "∞": r"$\infty$", "→": r"$\to$", "≈": r"$\approx$",
    "★": r"$\star$", "○": r"$\circ$", "µ": r"$\mu$", "[": "{[}", "]": "{]}", "|": r"\textbar{}",
    "°": r"$^\circ$", "²": r"$^2$", "³": r"$^3$", "…": r"\ldots{}",
    "“": "``", "”": "''", "‘": "`", "’": "'", "\u00a0": "~", "\u2011": "-",
    "<": r"\textless{}", ">": r"\textgreater{}", '"': "''", "`": "'",
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "υ": "upsilon", "φ": "varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta",
    "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Υ": "Upsilon", "Φ": "Phi", "Ψ": "Psi", "Ω":
    "Omega",
}  # fmt: skip
_ACCENTED = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿŁłŒœŠšŽžČčĆćĚěŇňŘřŮůŐőŰűĞğİıŞşŚśŹźŻż")
"""Letters that pdfLaTeX accepts directly in every font encoding."""
_LONG = 28
"""Length in characters from which a cell is set in several lines."""
_HEAD = 10
"""Characters per line of a column header."""
_LETTER, _GAP = 0.014, 0.035
"""Average width of a lower-case letter, and of the space around a column, as shares of the line width."""
_LEAST = 0.5
"""Smallest share of the line for all columns of long texts together; a table that is then too wide is scaled down."""
_MANY = 8
"""Number of columns from which they are set closer together."""
_REFERENCE = re.compile(r"(?P<authors>[^;]*?) (?P<year>(?:19|20)\d\d)(?:, arXiv (?P<arxiv>\d{4}\.\d{4,5}))?")


def escaped(text: object) -> str:
    """Return text escaped for LaTeX; letters that its fonts lack are printed as their code points."""
    return "".join(map(_escaped, unicodedata.normalize("NFC", str(text))))


def _escaped(letter: str) -> str:
    if letter in _CHARACTERS:
        return _CHARACTERS[letter]
    if " " <= letter <= "~":
        return letter
    if letter in _GREEK:
        return rf"$\{_GREEK[letter]}$"
    if letter in _ACCENTED:
        return letter
    return " " if letter.isspace() or not letter.isprintable() else f"{{[}}U+{ord(letter):04X}{{]}}"


def booktabs(table: Table, label: str) -> str:
    """Return a table with booktabs rules in a float of its own, at most as wide as the text."""
    columns = _columns(table)
    header = " & ".join(map(_header_cell, table.header, columns)) + r" \\"
    body = [" & ".join(map(_cell, row, columns)) + r" \tabularnewline" for row in table.rows]
    lines = [
        r"\begin{table}", r"  \centering\small" + (r"\tabcolsep=3pt" if len(columns) > _MANY else ""),
        rf"  \caption{{{escaped(table.caption)}}}", rf"  \label{{tab:{label}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{''.join(columns)}}}", r"    \toprule", f"    {header}", r"    \midrule",
        *(f"    {line}" for line in body), r"    \bottomrule", r"  \end{tabular}}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _columns(table: Table) -> Sequence[str]:
    """Return column specifications: numbers right-aligned, long texts wrapped into about equally many lines."""
    cells = [[str(row[at]) for row in table.rows] for at in range(len(table.header))]
    lengths = [max(map(len, column), default=0) for column in cells]
    long = [at for at, length in enumerate(lengths) if length > _LONG]
    short = sum(max(_width(table.header[at]), lengths[at]) for at in range(len(cells)) if at not in long)
    left = max(1 - _LETTER * short - _GAP * len(cells), _LEAST)
    kinds = ["l" if at < table.text_columns else "r" for at in range(len(table.header))]
    for at in long:
        words = (word for cell in (table.header[at], *cells[at]) for word in cell.split())
        share = max(left * lengths[at] / sum(lengths[k] for k in long), _LETTER * max(map(len, words)))
        kinds[at] = rf"p{{{share:.2f}\linewidth}}"
    return kinds


def _cell(value: object, column: str) -> str:
    return (r"\raggedright " if column.startswith("p") else "") + escaped(value)


def _header_cell(text: str, column: str) -> str:
    """Return a column header, broken into lines if it is much longer than the column's text."""
    lines = _lines(text)
    if len(lines) == 1 or column.startswith("p"):
        return escaped(text)
    text = r" \\ ".join(map(escaped, lines))
    return rf"\begin{{tabular}}[b]{{@{{}}{column}@{{}}}}{text}\end{{tabular}}"


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, _HEAD, break_long_words=False, break_on_hyphens=False) or [""]


def _width(head: str) -> int:
    return max(map(len, _lines(head)))


def float_of(name: str, file: str, inches: float, caption: str) -> str:
    """Return the float of a figure."""
    lines = [
        r"\begin{figure}", r"  \centering", rf"  \includegraphics[width={inches:g}in]{{{file}}}",
        rf"  \caption{{{escaped(caption)}}}", rf"  \label{{fig:{name}}}", r"\end{figure}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def bibtex(kind: str, key: str, fields: Mapping[str, str]) -> str:
    """Return a BibTeX entry; fields without a value are left out."""
    lines = [f"  {name} = {{{escaped(value)}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"]) + "\n"


def cited(references: Iterable[str]) -> Sequence[str]:
    """Return an entry for each work in references such as "Martens and Grosse 2015, arXiv 1503.05671"."""
    entries = {}
    for reference in references:
        for found in _REFERENCE.finditer(reference):
            authors = found["authors"].strip("; ")
            first = re.match(r"\w+", authors)
            key = f"{first[0].lower() if first else 'work'}{found['year']}"
            others = authors.replace(" et al.", " and others").replace(", ", " and ")
            arxiv = {}
            if found["arxiv"]:
                arxiv = {
                    "howpublished": f"arXiv:{found['arxiv']}", "eprint": found["arxiv"], "archiveprefix": "arXiv",
                }  # fmt: skip
            entries[key] = bibtex("misc", key, {"author": others, "year": found["year"], **arxiv})
    return tuple(entries.values())
