"""Parts of a paper from a study: figures at column width, tables, methods and references."""

import csv
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sensitivity.analysis.evaluations import read_tables
from sensitivity.analysis.study_results import StudyResults
from sensitivity.figures import catalogue
from sensitivity.figures.exhibits.maps import ROBUSTNESS
from sensitivity.figures.exhibits.prices import PRICES
from sensitivity.figures.tables import Table
from sensitivity.figures.theme import LIGHT
from sensitivity.report.latex import booktabs, cited, escaped
from sensitivity.report.methods import methods
from sensitivity.report.paper import write_paper
from sensitivity.report.paper_figures import WIDTHS, caption, resized


@pytest.fixture
def results(study_of):
    return StudyResults(read_tables(study_of("landscape")))


@pytest.mark.parametrize("name", [exhibit.name for exhibit in catalogue.EXHIBITS if exhibit.in_paper])
def test_figure_has_print_width_and_font_size_and_no_title(results, name):
    figure = catalogue.show(results, name).figure(LIGHT)
    for inches in WIDTHS:
        made = resized(figure, inches)
        assert made.layout.width == pytest.approx(96 * inches)
        assert made.layout.height <= 96 * 9.9
        assert made.layout.title.text is None
        assert made.layout.font.size == pytest.approx(8 * 96 / 72), "eight points"
        domains = [(x.domain, y.domain) for x, y in zip(made.select_xaxes(), made.select_yaxes(), strict=True)]
        assert len(set(domains)) == len(domains), "no two panels in the same place"
        if inches < 4:
            assert len({x for x, _ in domains}) <= 1, "one panel per row in a column"
    said = caption(figure)
    assert "n = " in said
    assert "<" not in said.replace("<=", "")


def test_figure_pages_have_the_stated_width_and_no_clipping(command, study_of, tmp_path, monkeypatch):
    pdfium = pytest.importorskip("pypdfium2")
    if not Path("/usr/bin/chromium").exists():
        pytest.skip("no Chromium")
    monkeypatch.setattr(catalogue, "EXHIBITS", (ROBUSTNESS, PRICES))
    code, out, err = command("paper", study_of("landscape").uri, "-o", tmp_path / "made")
    assert (code, err) == (0, "")
    figures = sorted((tmp_path / "made" / "figures").iterdir())
    assert len(figures) == 3 * 2 * 2, "maps of two optimizers, and prices: two widths as PDF and SVG"
    for file in figures:
        if file.suffix == ".pdf":
            (page,) = pdfium.PdfDocument(file)
            inches = float(file.stem.rpartition("-")[2].removesuffix("in"))
            assert page.get_width() == pytest.approx(72 * inches, abs=1)
            seen = np.asarray(page.render(scale=2).to_pil().convert("L"))
            assert seen.min() < 128
            for edge in (seen[:2], seen[-2:], seen[:, :2], seen[:, -2:]):
                assert edge.min() > 200, f"{file.name}: something is cut off"
    if shutil.which("pdflatex"):
        text, pages = printed(tmp_path / "made", ["figures"])
        assert "Figure 3: " in text
        assert np.asarray(pages[0].render().to_pil().convert("L")).std() > 5, "figures are on the page"
    tex = (tmp_path / "made" / "figures.tex").read_text()
    assert tex.count(r"\includegraphics[width=3.3in]{figures/") == 3
    rows = list(csv.DictReader((tmp_path / "made" / "tables" / "best.csv").read_text().splitlines()))
    assert {row["optimizer"] for row in rows} == {"kfac", "sgd"}
    assert r"\toprule" in (tmp_path / "made" / "tables" / "targets.tex").read_text()
    (digest,) = [line.removeprefix("study hash: ") for line in out.splitlines() if line.startswith("study hash: ")]
    assert digest in (tmp_path / "made" / "references.bib").read_text()
    assert digest in (tmp_path / "made" / "methods.tex").read_text()


DOCUMENT = r"""
\documentclass{article}
\usepackage{booktabs,graphicx}
\topmargin=-0.5in \textheight=9in
\begin{document}
%s
\nocite{*}
\bibliographystyle{plain}
\bibliography{references}
\end{document}
"""


def printed(folder, parts):
    """Compile a document of `parts` with only booktabs and graphicx; return its text and its pages."""
    if shutil.which("pdflatex") is None or shutil.which("bibtex") is None:
        pytest.skip("no pdfLaTeX (Debian: apt-get install texlive-latex-recommended)")
    pdfium = pytest.importorskip("pypdfium2")
    (folder / "all.tex").write_text(DOCUMENT % "\n".join(rf"\input{{{part}}}" for part in parts), encoding="utf-8")
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all"]
    for command in (latex, ["bibtex", "all"], latex, latex):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0, done.stdout[-2000:]
    log = (folder / "all.log").read_text(errors="replace")
    faults = [line for line in log.splitlines() if re.match("Overfull|LaTeX Warning|Missing character", line)]
    assert faults == [], "beyond the margin, too large for a page, or a missing character"
    pages = list(pdfium.PdfDocument(folder / "all.pdf"))
    text = " ".join(page.get_textpage().get_text_range() for page in pages)
    return " ".join(text.replace("\x02", "").split()), pages


def test_paper_parts_compile_and_fit_the_page(results, tmp_path, monkeypatch):
    """Any characters in names and messages of users are printed, or replaced by their code points."""
    monkeypatch.setattr(catalogue, "EXHIBITS", ())  # without figures it needs no browser
    files = [file.path for file in write_paper(results, tmp_path)]
    odd = [
        "my_model:net & 50% {x} #1 $y ^ ~ \\z",
        "[0.1, 0.9]",
        "é α µ β² → 数",
        "a message: <b>'x'</b> `y` \"z\" | " * 9,
    ]
    table = Table(
        caption="50% of_it & more.", header=("a head of many words", "b_c", "n", "d"), rows=[odd, odd], text_columns=4
    )
    (tmp_path / "tables" / "odd.tex").write_text(booktabs(table, "odd"), encoding="utf-8")
    (tmp_path / "message.tex").write_text(
        rf"\begin{{sloppypar}}{escaped(' '.join(odd))}\end{{sloppypar}}", encoding="utf-8"
    )
    tables = sorted(file.stem for file in (tmp_path / "tables").glob("*.tex"))
    assert tables == ["best", "odd", "targets", "verdicts"]
    assert tmp_path / "methods.tex" in files
    text, pages = printed(tmp_path, ["methods", "figures", *(f"tables/{name}" for name in tables), "message"])
    for said in ("model:net", "& 50%", "#1 $y", "[0.1, 0.9]", "[U+6570]", "K-FAC", results.manifest.spec_hash):
        assert said in text, said
    assert "Shallue" in text
    for page in pages:
        seen = np.asarray(page.render(scale=1).to_pil().convert("L"))
        assert seen[:, -40:].min() > 200


def test_methods_have_every_fact_of_the_protocol(results):
    text = " ".join(methods(results))
    for fact in (
        "batch sizes 32 and 128", "4 seeds", "20 epochs", "learning rate 0.01 to 3 (log)", "damping 0.0001 to 1 (log)",
        "momentum one of 3 values", "weight decay 0", "decay step", "test fraction 0.2", "training loss ≤ 0.2",
        "a factor of 1.25", "Error rate", "runs with the same seed are paired",
    ):  # fmt: skip
        assert fact in text, fact


def test_latex_is_escaped_and_references_are_found():
    assert escaped("50% of a_b ≥ {1} & <x>") == r"50\% of a\_b $\geq$ \{1\} \& \textless{}x\textgreater{}"
    table = Table(caption="A.", header=("name", "n"), rows=[["a_b", 1]], text_columns=1)
    assert r"\begin{tabular}{lr}" in booktabs(table, "t")
    assert r"a\_b & 1 \tabularnewline" in booktabs(table, "t")
    (first, second) = cited(["Gupta, Koren and Singer 2018, arXiv 1802.09568; Anil et al. 2020; torch.optim.SGD"])
    assert "author = {Gupta and Koren and Singer}" in first
    assert "eprint = {1802.09568}" in first
    assert "author = {Anil and others}" in second
