"""`sensitivity report` and `sensitivity verdict` from the command line."""

import json
from pathlib import Path

import pytest

from sensitivity.report import images
from sensitivity.study.errors import UserError
from sensitivity.study.words import size


def test_verdict_in_the_terminal(command, study_of):
    code, out, _ = command("verdict", study_of("landscape").uri)
    assert code == 0
    assert out.startswith("synthetic, training loss ≤ 0.2")
    assert "Does K-FAC scale further with batch size than SGD?" in out
    assert "Is K-FAC less sensitive to its hyperparameters than SGD?" in out
    assert "why:" in out
    assert all(len(line) <= 100 for line in out.splitlines())


def test_verdict_json_has_the_same_answers_and_is_strict(command, study_of):
    code, out, _ = command("verdict", study_of("landscape").uri, "--json")
    said = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert said["target"] == {"metric": "train_loss", "level": 0.2}
    scaling, sensitivity = said["answers"]
    for answer, question in ((scaling, "scaling"), (sensitivity, "sensitivity")):
        assert (answer["question"], answer["candidate"], answer["reference"]) == (question, "kfac", "sgd")
        # The first of any number of looks, and two claims that share it.
        assert (answer["role"], answer["error_rate"], answer["effect"]["level"]) == ("confirmatory", 0.0125, 0.975)
    assert said["looks"] == []
    assert scaling["answer"] in ("better", "worse", "equivalent", "undetermined")
    assert scaling["reasons"]
    assert (sensitivity["answer"], sensitivity["reasons"][0]["code"]) == ("undetermined", "grid")


@pytest.mark.parametrize(
    ("case", "code", "said"),
    [("single-cell", "one-optimizer", "nothing to compare"), ("no-target", "no-target", "declares no target")],
)
def test_unanswered_question_explains_why(command, study_of, case, code, said):
    assert said in command("verdict", study_of(case).uri)[1].replace("\n", " ")
    content = json.loads(command("verdict", study_of(case).uri, "--json")[1])
    assert [why["code"] for why in content["why_not"]] == [code]
    assert content["answers"] == []


def test_report_of_several_studies_is_one_file(command, study_of, tmp_path):
    target = tmp_path / "deep" / "both.html"
    code, out, _ = command("report", study_of("single-cell").uri, study_of("no-target").uri, "-o", target)
    assert (code, out) == (0, f"report: {target} ({size(target.stat().st_size, 'B')})\n")
    assert "The studies side by side" in target.read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="no Chromium")
def test_figures_are_written_as_png_and_svg(report_of, tmp_path):
    figures = report_of("landscape").figures
    some = {name: figures[name] for name in ("verdict-kfac-sgd-scaling", "success-contours")}
    written = images.write_images(some, tmp_path / "figures")
    assert sorted(each.path.name for each in written) == sorted(
        f"{name}.{kind}" for name in some for kind in ("png", "svg")
    )
    for path in (each.path for each in written):
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG" if path.suffix == ".png" else b"<svg")
        assert len(content) > 8_000
    assert "K-FAC against SGD" in (tmp_path / "figures" / "verdict-kfac-sgd-scaling.svg").read_text(encoding="utf-8")


def test_images_without_a_browser_explain_the_fix(report_of, tmp_path, monkeypatch):
    from kaleido.errors import ChromeNotFoundError

    class Missing:
        def __init__(self, **_):
            raise ChromeNotFoundError

    monkeypatch.setattr("kaleido.Kaleido", Missing)
    with pytest.raises(UserError, match="apt-get install chromium"):
        images.write_images(report_of("landscape").figures, tmp_path)


def test_image_browser_makes_no_requests():
    import kaleido

    page = kaleido.PageGenerator(mathjax=False).generate_index()
    assert "http://" not in page
    assert "https://" not in page


def test_invalid_folder_is_an_error_with_its_name(report_of, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/figures: can't be written"):
        images.write_images(report_of("landscape").figures, tmp_path / "file" / "figures")
