"""Settling a study: what is declared and frozen before what, resumption, budgets, and what no choice may see.

Runs come to what a formula says, in this process; `test_launch.py` settles a study through Ray.
"""

import contextlib
import html
import json
import math
import random
import shutil
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

import sensitivity
from sensitivity.cli.json_output.verdict import verdict_output
from sensitivity.cli.listing import show_studies
from sensitivity.execution import replay, settler
from sensitivity.execution.launch import launch
from sensitivity.execution.prepare import prepare
from sensitivity.execution.settler import Budget
from sensitivity.execution.settling import next_step, settle_study
from sensitivity.execution.study_run import Machines, StudyRun
from sensitivity.figures.exhibits.settling import SETTLING
from sensitivity.figures.exhibits.timeline import compute_timeline
from sensitivity.figures.nothing import NothingToShowError
from sensitivity.figures.verdict_words import answers
from sensitivity.report import write_report
from sensitivity.report.methods import methods
from sensitivity.store.directory import place
from sensitivity.store.ledger import DECLARATION, FREEZE, LEDGER, read_ledger, settling_place, write_freeze
from sensitivity.store.reader import read_runs
from sensitivity.store.writer import append
from sensitivity.study.amendments import PHASE_OF
from sensitivity.study.errors import StorageError, UserError
from sensitivity.study.results import Measurement, PackResult, RunResult, Status
from sensitivity.study.seed_ranges import purpose

STUDY = """
name = "alike"
batch_sizes = [16, 64, 256]
seeds = 2
[problem]
dataset = "digits"
model = "perceptron"
[budget]
steps = 300
[targets]
test_accuracy = [0.9]
[optimizers.one]
kind = "sgd"
lr = { log = [0.01, 1.0], points = 4 }
[optimizers.other]
kind = "sgd"
lr = { log = [0.01, 1.0], points = 4 }
"""
CAP = 300
EVALUATED = sorted({0, *(min(CAP, round(1.08**k)) for k in range(80))})


class Killed(BaseException):
    """The process ends here."""


def trained(trial):
    """What training comes to here: log T is a bowl over log lr, with noise by seed and a cliff, alike for both."""
    distance = math.log10(dict(trial.hyperparameters)["lr"]) + 1.0
    noise = 0.05 * np.random.default_rng([trial.seed, trial.batch_size]).standard_normal()
    reached = 30 * (1 + 64 / trial.batch_size) * math.exp(2.0 * distance**2 + noise)
    diverged = distance > 0.8
    measured = [
        Measurement(
            step=step,
            epoch=step / 10,
            lr=0.1,
            train_seconds=0.001 * step,
            flops=1e6 * step,
            train_loss=2.3,
            train_accuracy=0.1,
            test_loss=2.3,
            test_accuracy=min(0.99, 0.1 + 0.8 * math.sqrt(step / reached)),
        )
        for step in EVALUATED
        if not diverged or step < 20
    ]
    steps = 20 if diverged else CAP
    return RunResult(
        trial=trial,
        status=Status.DIVERGED if diverged else Status.COMPLETED,
        measurements=tuple(measured),
        steps=steps,
        epochs=steps / 10,
        train_seconds=0.001 * steps,
        eval_seconds=0.01,
        flops=1e6 * steps,
    )


@pytest.fixture(scope="module")
def in_process():
    """Train in this process, as above; where `after` is set, the process ends once so many packs have been recorded.

    Where `phase` is set, packs of that phase alone count.
    """
    limit = {"after": None, "phase": ""}

    def train(work, machines, *, show, stop):
        sizes = {trial.group: 64 for trial in work.plan.trials}
        packs, done = list(work._packs(sizes, 1)), 0
        while packs or work.source.open:
            if not packs:
                for trials in work.source.new_trials(wait=True):
                    packs += work._cut({}, 1, SimpleNamespace(begin=lambda stage, trials: None), trials)
                continue
            if done == limit["after"]:
                raise Killed
            counts = limit["phase"] in work.source.stage
            pack, now = packs.pop(0), time.time()
            runs = tuple(trained(trial) for trial in pack.trials)
            result = PackResult(
                runs=runs, pack_id=pack.id, host="here", device="cpu", started_at=now, wall_seconds=time.time() - now
            )
            append(work.directory, result, spec_hash=work._manifest.spec_hash, code_version="test")
            work.source.tell(result)
            done += counts
        assert not list(work.source.new_trials(wait=False))  # as Tune asks once more before it ends

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudyRun, "train", train)
        yield limit


@pytest.fixture(scope="module")
def undisturbed(in_process, tmp_path_factory):
    """The study settled to its end: its folder and its ledger."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "alike.toml").write_text(STUDY)
    entries = []
    _, settled = settle(folder / "alike.toml", entries=entries)
    assert list(settled.ledger.entries) == entries
    return folder, settled


@pytest.fixture
def copied(undisturbed, tmp_path):
    """A copy of it: the study file and the study directory."""
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "alike.toml", place(str(tmp_path / "studies" / "alike"))


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "alike.toml"
    path.write_text(STUDY)
    return path


def settle(path, *, budget=None, entries=None, **options):
    directory = place(str(path.parent / "studies" / "alike"))
    return directory, settle_study(
        prepare(str(path)),
        directory,
        Machines(),
        budget=budget or Budget(),
        show=lambda progress: contextlib.nullcontext(lambda: None),
        on_entry=(entries.append if entries is not None else lambda _: None),
        **options,
    )


def kill(path, in_process, *, after):
    """Settle a study in a process that ends once `after` packs have been recorded."""
    in_process["after"] = after
    try:
        with pytest.raises(Killed):
            settle(path)
    finally:
        in_process["after"] = None


def told(ledger):
    """What a ledger says, but for what its runs took on the clock."""
    content = ledger.model_dump(mode="json")
    for entry in content["entries"]:
        del entry["cost"]["device_seconds"]
    return content


def test_a_settlement_is_kept_with_its_ledger(undisturbed):
    folder, settled = undisturbed
    directory, ledger = place(str(folder / "studies" / "alike")), settled.ledger
    assert read_ledger(directory) == ledger
    answers = {answer.claim.question: answer.answer for answer in ledger.settlement.answers}
    assert answers == {"scaling": "equivalent", "sensitivity": "equivalent"}  # one optimizer under two names
    runs = read_runs(settling_place(directory)).runs
    asked = [point for entry in ledger.entries for point in entry.step.points]
    assert len(runs) == len(asked) == ledger.cost.runs == settled.outcome.planned
    assert set(runs["status"]) <= {"completed", "diverged"}
    assert ledger.cost.flops == pytest.approx(runs["flops"].sum())
    assert ledger.cost.device_seconds == pytest.approx((runs["train_seconds"] + runs["eval_seconds"]).sum())
    own = read_runs(directory).runs
    assert set(own["status"]) == {"pending"}  # the study file's own design is as it was


def test_no_judging_run_was_visible_to_a_choice(undisturbed):
    folder, settled = undisturbed
    judging = ("judge_scaling", "judge_sensitivity")
    steps = [entry.step for entry in settled.ledger.entries]
    frozen = next(place for place, step in enumerate(steps) if step.freeze is not None)
    for place_, step in enumerate(steps):
        for point in step.points:
            assert (purpose(point.seed) in judging) == (place_ > frozen)
    settling = settling_place(place(str(folder / "studies" / "alike")))
    runs = read_runs(settling).runs
    judged = runs["seed"].map(purpose).isin(judging)
    written = settling.modified_at(FREEZE)
    assert judged.any()
    assert runs.loc[~judged, "finished_at"].max().timestamp() <= written + 0.01
    assert runs.loc[judged, "started_at"].min().timestamp() >= written - 0.01


def test_a_settlement_that_was_killed_in_every_phase_ends_as_an_undisturbed_one(
    study, in_process, undisturbed, monkeypatch
):
    """Killed after a random number of packs of each phase, and right before and after the freeze is written."""
    draw = random.Random(0)

    def killed_while_freezing(directory, freeze, *, written):
        if written:
            write_freeze(directory, freeze)
        raise Killed

    for phase in PHASE_OF:
        if phase == "judge_scaling":
            for written in (False, True):
                with monkeypatch.context() as freezing:
                    freezing.setattr(settler, "write_freeze", partial(killed_while_freezing, written=written))
                    with pytest.raises(Killed):
                        settle(study)
        in_process |= {"phase": phase.replace("_", " "), "after": draw.randrange(1, 6)}
        try:
            with pytest.raises(Killed):
                settle(study)
        finally:
            in_process |= {"phase": "", "after": None}
    directory, settled = settle(study)
    assert told(settled.ledger) == told(undisturbed[1].ledger)
    assert told(read_ledger(directory)) == told(undisturbed[1].ledger)


def test_a_kill_leaves_no_answer_of_an_earlier_budget(study, in_process):
    directory, stopped = settle(study, budget=Budget(runs=150))
    assert "150 runs" in sensitivity.open(directory.uri).verdict().text
    kill(study, in_process, after=2)
    killed = read_ledger(directory)
    assert killed.standing == "under_way"
    assert killed.entries == stopped.ledger.entries
    text = " ".join(sensitivity.open(directory.uri).verdict().text.split())
    assert "150 runs" not in text
    assert f"A settlement is under way; the same command continues it. So far: {len(killed.entries)} steps" in text


def test_a_budget_ends_it_and_a_larger_one_goes_on(study, in_process, undisturbed):
    _, stopped = settle(study, budget=Budget(runs=150))
    assert stopped.ledger.cost.runs <= 150
    assert "150 runs" in stopped.ledger.settlement.stopped
    assert {answer.answer for answer in stopped.ledger.settlement.answers} == {"undetermined"}
    directory, went_on = settle(study)
    assert told(went_on.ledger) == told(undisturbed[1].ledger)
    assert read_ledger(directory) == went_on.ledger


def test_what_is_settled_is_left_as_it_is(copied, in_process, undisturbed):
    path, directory = copied
    in_process["after"] = 0
    try:
        _, again = settle(path)
    finally:
        in_process["after"] = None
    assert again.ledger == undisturbed[1].ledger == read_ledger(directory)


@pytest.mark.parametrize("budget", [Budget(flops=1e6), Budget(seconds=1e-9)])
def test_a_budget_of_any_kind_ends_it(study, in_process, budget):
    _, settled = settle(study, budget=budget)
    assert "ends here" in settled.ledger.settlement.stopped


def test_the_next_step_is_priced_and_nothing_is_written(study, in_process):
    directory = place(str(study.parent / "studies" / "alike"))
    found = next_step(prepare(str(study)), directory, workers=1)
    assert found.step.number == 1
    assert sum(line.missing for line in found.price.lines) == len(found.step.points) > 0
    assert not directory.exists("study.json")
    entries = []
    settle(study, budget=Budget(runs=len(found.step.points)), entries=entries)
    assert entries[0].step == found.step
    then = next_step(prepare(str(study)), directory, workers=1)
    assert then.step.number == 2
    assert then.ledger.cost.runs == len(found.step.points)


def test_a_run_that_two_steps_ask_for_counts_once(study, undisturbed):
    _, settled = undisturbed
    plan, entry = prepare(str(study)), settled.ledger.entries[0]
    steps = [entry.step, entry.step.model_copy(update={"number": 2})]

    class Twice:
        @property
        def next_step(self):
            return steps[0] if steps else None

        def answer(self, observations):
            steps.pop(0)
            return entry.shown

    twice = replay.Replay(plan.spec, plan.source, settled.ledger.declared)
    twice._settling = Twice()
    twice._found = {trial.id: replay._Found(None, 2.0, 3.0) for trial in twice.trials(entry.step)}
    costs = [each.cost for each in twice.advance()]
    runs = len(entry.step.points)
    assert [(cost.runs, cost.device_seconds, cost.flops) for cost in costs] == [
        (runs, 2.0 * runs, 3.0 * runs),
        (0, 0, 0),
    ]


def test_a_run_that_a_step_asks_for_twice_is_trained_once(study, undisturbed):
    _, settled = undisturbed
    plan, step = prepare(str(study)), settled.ledger.entries[0].step
    twice = step.model_copy(update={"points": (*step.points, *step.points[:3])})
    found = replay.Replay(plan.spec, plan.source, settled.ledger.declared)
    found._settling = SimpleNamespace(next_step=twice)
    assert [trial.id for trial in found.missing] == [trial.id for trial in found.trials(step)][: len(step.points)]
    assert len({trial.id for trial in found.missing}) == len(step.points)


def test_the_design_that_a_settlement_is_compared_with_has_its_confirmations(study, in_process):
    study.write_text(
        study.read_text().replace(
            "[optimizers.one]", '[search]\nobjective = "test_accuracy"\nconfirm = 5\n[optimizers.one]'
        )
    )
    found = next_step(prepare(str(study)), place(str(study.parent / "studies" / "alike")), workers=1)
    grid, confirmed = 2 * 4 * 3 * 2, 2 * 3 * 5
    assert found.ledger.declared.declaration.grid_runs == grid + confirmed


def test_runs_of_the_own_design_serve_the_scout(study, in_process):
    directory = place(str(study.parent / "studies" / "alike"))
    launch(prepare(str(study)), directory, Machines(), show=lambda progress: contextlib.nullcontext(lambda: None))
    _, settled = settle(study)
    known = settled.ledger.declared.known
    assert len(known) == 2 * 4 * 3 * 2
    assert {purpose(point.seed) for point, _ in known} == {"design"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "test_accuracy = [0.9]",
            "test_accuracy = [0.8]",
            "target: test_accuracy = 0.9 there, test_accuracy = 0.8 now",
        ),
        (
            "batch_sizes = [16, 64, 256]",
            "batch_sizes = [16, 64]",
            r"batch_sizes: \(16, 64, 256\) there, \(16, 64\) now",
        ),
        ("seeds = 2", "seeds = 2\nmargins = { tuning_ratio = 3.0 }", "margins"),
        ("lr = { log = [0.01, 1.0], points = 4 }\n[optimizers.other]", "lr = 0.1\n[optimizers.other]", "optimizers: "),
    ],
)
def test_what_was_declared_stays(copied, in_process, old, new, said):
    path, _ = copied
    assert old in STUDY
    path.write_text(STUDY.replace(old, new))
    with pytest.raises(UserError, match=f"another declaration\n  - .*{said}"):
        settle(path)


def test_a_larger_design_of_the_file_is_the_same_settlement(copied, in_process, undisturbed):
    path, _ = copied
    path.write_text(STUDY.replace("seeds = 2", "seeds = 3"))
    assert settle(path)[1].ledger.entries == undisturbed[1].ledger.entries


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[targets]\ntest_accuracy = [0.9]\n", "", "alike: nothing to settle without a target"),
        ("batch_sizes = [16, 64, 256]", "batch_sizes = [16]", "alike: the scaling question needs two"),
    ],
)
def test_what_cannot_be_settled_leaves_no_directory(study, in_process, old, new, said):
    study.write_text(STUDY.replace(old, new))
    with pytest.raises(UserError, match=said):
        settle(study)
    assert not (study.parent / "studies" / "alike").exists()


def test_another_question_is_another_declaration(study, in_process):
    settle(study, questions=("scaling",), budget=Budget(runs=100))
    with pytest.raises(UserError, match="claims"):
        settle(study, questions=("scaling", "sensitivity"))
    _, settled = settle(study)  # goes on with what was asked
    assert [answer.claim.question for answer in settled.ledger.settlement.answers] == ["scaling"]


@pytest.mark.parametrize("name", [DECLARATION, FREEZE, LEDGER])
def test_a_file_that_was_changed_is_refused(copied, name):
    _, directory = copied
    folder = settling_place(directory)
    content = json.loads(folder.read(name))
    if name == DECLARATION:
        content["declaration"]["looks"][0] += 1
    elif name == FREEZE:
        content["freeze"]["looks"][0] += 1
    else:
        content["declaration"] = "0" * 16
    folder.write(name, json.dumps(content).encode())
    with pytest.raises(StorageError, match="hash"):
        read_ledger(directory)
    folder.write(name, b"{")
    with pytest.raises(StorageError, match="damaged"):
        read_ledger(directory)


def test_an_answer_that_was_edited_is_refused_and_comes_again_from_the_runs(copied, in_process, undisturbed):
    path, directory = copied
    folder = settling_place(directory)
    content = json.loads(folder.read(LEDGER))
    content["settlement"]["answers"][0] |= {"answer": "better", "says": "Other wins."}
    folder.write(LEDGER, json.dumps(content).encode())
    for read in (lambda: read_ledger(directory), lambda: settle(path)):
        with pytest.raises(
            StorageError, match=r"ledger.json: its content does not match its hash.*\n  .*or delete it and settle"
        ):
            read()
    folder.delete(LEDGER)
    assert settle(path)[1].ledger == undisturbed[1].ledger == read_ledger(directory)


def test_a_budget_below_the_first_step_is_no_fault_and_starts_nothing(study, monkeypatch):
    monkeypatch.delattr(StudyRun, "train")
    directory, settled = settle(study, budget=Budget(runs=1))
    assert settled.outcome.trained
    assert not settled.ledger.entries
    with pytest.raises(NothingToShowError, match="The budget of 1 run ends here"):
        SETTLING.compute(sensitivity.open(directory.uri).results)


def test_a_smaller_budget_does_not_finish_the_step_of_a_killed_command(study, in_process, undisturbed, monkeypatch):
    kill(study, in_process, after=1)
    with monkeypatch.context() as patch:
        patch.delattr(StudyRun, "train")
        _, settled = settle(study, budget=Budget(runs=10))
    assert not settled.ledger.entries
    assert "the budget of 10 runs ends here" in settled.ledger.settlement.stopped
    assert settled.outcome.statuses["completed"] > 0, "what the killed command had trained is kept"
    assert told(settle(study)[1].ledger) == told(undisturbed[1].ledger)


def test_the_folder_of_a_settlement_is_no_study(copied):
    _, directory = copied
    with pytest.raises(StorageError, match="Use the study directory above it"):
        sensitivity.open(settling_place(directory).uri).verdict()


def test_a_question_that_is_none_is_refused(study, in_process):
    with pytest.raises(UserError, match="questions: allowed are scaling, sensitivity; got speed"):
        settle(study, questions=("speed",))


def test_a_freeze_that_is_missing_is_said_to_be(copied):
    _, directory = copied
    settling_place(directory).delete(FREEZE)
    with pytest.raises(StorageError, match=r"freeze.json: missing\n  Restore"):
        read_ledger(directory)


def test_every_face_shows_the_same_answers(undisturbed, capsys):
    folder, settled = undisturbed
    directory, ledger = place(str(folder / "studies" / "alike")), settled.ledger
    opened = sensitivity.open(directory.uri)
    verdict = opened.verdict()
    assert tuple(one.settled for one in verdict.conclusions) == ledger.settlement.answers
    text = " ".join(verdict.text.split())
    page = html.unescape(write_report([directory]).html)
    output = verdict_output(opened.results)
    assert output.settlement.ended
    assert (output.settlement.runs, output.settlement.grid_runs) == (ledger.cost.runs, 2 * 4 * 3 * 2)
    for answer, printed in zip(ledger.settlement.answers, output.settlement.answers, strict=True):
        assert answer.says in text
        assert answer.says in page
        assert (printed.says, printed.estimate, printed.answer) == (answer.says, answer.estimate, answer.answer)
    for answer, printed in zip(ledger.settlement.answers, output.answers, strict=True):
        assert (printed.answer, printed.source, printed.settle) == (answer.answer, "settlement", ())
        assert (printed.effect.value, printed.margin) == (answer.estimate, answer.claim.margin)
        assert (printed.effect.n, printed.error_rate) == (answer.observations, answer.claim.alpha)
    assert text.count(f"Settled in {ledger.cost.runs:,} runs") == 1
    assert f"Settled in {ledger.cost.runs:,} runs" in page
    assert "No run has a result" not in page, "sections of the design, which has no runs, are left out"
    assert "are pending" not in page
    show_studies(str(folder / "studies"), as_json=False)
    _, listed = capsys.readouterr().out.splitlines()
    by_status = read_runs(settling_place(place(opened.directory))).runs["status"].value_counts()
    counts = f"{by_status['completed']:,} completed, {by_status['diverged']:,} diverged"
    assert f"settled, {ledger.cost.runs:,} runs: {counts}" in listed
    for entry in ledger.entries:
        assert entry.step.why in page
    table = opened.table("settling")
    assert len(table[table["optimizer"].notna()]) == ledger.cost.runs
    assert set(table["step"]) == {entry.step.number for entry in ledger.entries}


def test_its_runs_are_those_that_a_timeline_and_the_methods_speak_of(undisturbed):
    """Of a study that was settled and not run: nothing says that its own design was trained."""
    folder, settled = undisturbed
    opened, ledger = sensitivity.open(str(folder / "studies" / "alike")), settled.ledger
    timeline = compute_timeline(opened.results)
    assert timeline.settling
    assert (timeline.timed, timeline.of) == (ledger.cost.runs, ledger.cost.runs)
    figure = opened.figure("timeline")
    assert f"of {ledger.cost.runs:,} runs of the settlement" in figure.layout.title.subtitle.text
    assert {trace.customdata for trace in figure.data} == {None}, "the table of runs has none of them"
    one = compute_timeline(opened.results.under(optimizers=("one",)))
    assert 0 < one.timed < timeline.timed
    text = " ".join(methods(opened.results))
    assert "one and other trained" not in text
    assert "The study file declares that one and other train the model perceptron" in text
    assert f"Settled in {ledger.cost.runs:,} runs" in text
    judged = [entry.cost.runs for entry in ledger.entries if entry.step.phase == "judge_scaling"]
    assert f"Judge scaling: {sum(judged):,} runs in " in text
    assert ledger.declared.hash in text
    assert ledger.freeze.hash in text
    assert "code test" in text, "where the settlement's runs were made"
    assert "are pending" not in text


def test_the_looks_are_drawn_as_the_ledger_has_them(undisturbed):
    folder, settled = undisturbed
    opened = sensitivity.open(str(folder / "studies" / "alike"))
    looks = opened.table("looks")
    scaling = looks[looks["question"] == "scaling"]
    told_ = [e.shown.facts["other against one"] for e in settled.ledger.entries if e.step.phase == "judge_scaling"]
    assert scaling["looked_at"].tolist() == [one["seeds"] for one in told_]
    assert scaling["ratio"].tolist() == pytest.approx([one["ratio"] for one in told_])
    bets = looks[looks["question"] == "sensitivity"]
    final = next(answer for answer in settled.ledger.settlement.answers if answer.claim.question == "sensitivity")
    assert final.answer == "equivalent"
    frozen = next(one for one in settled.ledger.freeze.claims if one.claim.question == "sensitivity")
    assert bets["e_equivalent"].iloc[-1] >= frozen.thresholds[1]
    figure = opened.figure("looks")
    assert len(figure.data) == 4
    assert figure.data[0].y == pytest.approx(scaling["ratio"])


def test_another_target_or_margin_has_no_settled_answer(undisturbed):
    results = sensitivity.open(str(undisturbed[0] / "studies" / "alike")).results
    assert len(results.settled) == 2
    assert [caution.code for caution in results.cautions] == ["own-design-waits"]
    assert results.under(target=("test_accuracy", 0.8)).cautions[0].code == "incomplete"
    assert results.under(target=("test_accuracy", 0.8)).settled == ()
    wider = results.margins.model_copy(update={"tuning_ratio": 3.0})
    assert [answer.claim.question for answer in results.under(margins=wider).settled] == ["scaling"]
    _, unasked = answers(results.under(margins=wider))
    assert unasked.answer == "undetermined"
    (reason,) = unasked.reasons
    assert reason.startswith("The settlement did not cover this question with this target and margin")
    assert len(unasked.settle) == 1
