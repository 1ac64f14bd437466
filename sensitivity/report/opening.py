"""The opening of a study's report: the verdict with its evidence, what was run, and what to beware of."""

from __future__ import annotations

from functools import partial

from sensitivity.analysis.claims import Claim
from sensitivity.analysis.names import merged, optimizer_name
from sensitivity.figures.exhibits.comparison import draw_verdict
from sensitivity.figures.labels import safe
from sensitivity.figures.verdict_words import answer_in_words
from sensitivity.report import story
from sensitivity.report.blocks import drawn, notes, nothing, tabs, themed
from sensitivity.report.embed import Figures
from sensitivity.report.figure_data import verdict_data
from sensitivity.report.results import Results, Verdicts
from sensitivity.report.words import target_in_words
from sensitivity.study.primary import Pair


def opening(results: Results, figures: Figures, prefix: str) -> str:
    """Return the first section: it answers the questions before anything else."""
    spec, summary, study = results.spec, results.summary, results.study
    said = [story.what_was_run(spec), story.where_it_stands(summary)]
    if study.unplanned:
        said.append(
            f"{study.unplanned:,} further runs are kept in the directory but belong to no cell of the present"
            " plan; they are not counted here."
        )
    paragraphs = "".join(f"<p>{safe(text)}</p>" for text in said)
    description = f'<p class="lead">{safe(spec.description)}</p>' if spec.description else ""
    found = ""
    if results.metric is not None:
        items = "".join(f"<li>{safe(text)}</li>" for text in story.findings(results.maps[results.metric.name]))
        found = f"<ul class='findings'>{items}</ul>"
    warned = "".join(f"<li>{safe(text)}</li>" for text in merged(item.text for item in results.cautions))
    beware = f"<aside class='cautions'><h2>Before you conclude</h2><ul>{warned}</ul></aside>" if warned else ""
    total = summary.total
    tiles = (
        ("planned", total.planned), ("completed", total.completed), ("diverged", total.diverged),
        *((("stopped early", total.stopped),) if total.stopped else ()),
        ("failed", total.failed), ("waiting", total.waiting),
    )  # fmt: skip
    counts = "".join(f"<div><dt>{name}</dt><dd>{n:,}</dd></div>" for name, n in tiles)
    answers = answers_block(results.verdicts, figures, prefix) if total.planned else ""
    return (
        f"<section id='{prefix}summary'>{description}{answers}{paragraphs}<dl class='tiles'>{counts}</dl>{found}"
        f"{beware}</section>\n"
    )


def answers_block(verdicts: Verdicts, figures: Figures, prefix: str) -> str:
    """Return every answer with its reasons, what would settle it and its evidence; one pair at a time."""
    target = target_in_words(verdicts)
    on = f"<p class='introduction'>For the target {safe(target)}.</p>" if target and verdicts.claims else ""
    pairs = {
        "-".join(pair): (" against ".join(map(optimizer_name, pair)), _of_pair(verdicts, pair, figures, prefix))
        for pair in verdicts.pairs
    }
    refused = nothing(*(why.text for why in verdicts.why_not))
    looks = notes([caution.text for caution in verdicts.looks])
    return f"{refused}{on}{looks}{tabs(f'{prefix}pair', 'Compared', pairs)}"


def _of_pair(verdicts: Verdicts, pair: Pair, figures: Figures, prefix: str) -> str:
    claims = [claim for claim in verdicts.claims if (claim.verdict.candidate, claim.verdict.reference) == pair]
    suffix = "" if pair == verdicts.pair else "-" + "-".join(pair)
    evidence = "".join(
        drawn(
            figures,
            f"{prefix}verdict-{claim.verdict.question}{suffix}",
            themed(draw_verdict, claim.verdict),
            partial(verdict_data, claim.verdict),
        )
        for claim in claims
    )
    return f"<div class='answers'>{''.join(map(_card, claims))}</div>{evidence}" if claims else ""


def _card(claim: Claim) -> str:
    answer = answer_in_words(claim)
    reasons = "".join(f"<li>{safe(text)}</li>" for text in answer.reasons)
    settle = "".join(f"<li>{safe(text)}</li>" for text in answer.settle)
    fix = f"<h4>What would settle it</h4><ul>{settle}</ul>" if settle else ""
    effect = f"<p class='effect'>{safe(answer.effect)}</p>" if answer.effect else ""
    return (
        f"<article class='answer {answer.answer}'><p class='question'>{safe(answer.question)}</p>"
        f"<h3><span class='badge'>{safe(answer.answer)}</span> {safe(answer.headline)}</h3>{effect}"
        f"<p class='role'>{safe(answer.role)}</p><h4>Why</h4><ul>{reasons}</ul>{fix}</article>"
    )
