"""``sensitivity import`` from the command line: its questions, the written mapping, and what was read."""

import re

ROWS = "".join(
    f"{name},{lr},{seed},{step},{2 - step / 100}\n"
    for name in ("sgd", "adamw")
    for lr in (0.1, 0.3)
    for seed in range(2)
    for step in (0, 50, 100)
    if (name, lr, seed) != ("sgd", 0.3, 1)
)


def test_questions_are_answered_in_the_written_mapping(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs.csv").write_text("optimizer,lr,seed,step,val_loss\n" + ROWS)
    asked = command("import", "runs.csv", "--as", "mine")
    assert asked.code == 2
    assert "runs.csv: 1 question to answer" in asked.err
    assert "at which batch size" in asked.err
    assert asked.err.rstrip().endswith("sensitivity import runs.csv --as mine --map mine.map.toml")
    assert not (tmp_path / "studies").exists()

    mapping = tmp_path / "mine.map.toml"
    assert "# ASKED: at which batch size" in mapping.read_text()
    again = command("import", "runs.csv", "--as", "mine")
    assert again.code == 2
    assert "mine.map.toml exists already" in again.err

    mapping.write_text(mapping.read_text() + "\n[constants]\nbatch_size = 64\n[study.targets]\ntest_loss = [1.5]\n")
    done = command("import", "runs.csv", "--as", "mine", "--map", "mine.map.toml")
    assert (done.code, done.err) == (0, "")
    for line in (
        "runs.csv: 7 runs (7 completed), 21 evaluations",
        "batch sizes 64; 2 seeds",
        "sgd: a grid (2 of lr)",
        '  test_loss = { column = "val_loss", unit = "as_is" }',
        "  - Runs that would complete the grids and are missing from the source: 1. They are pending.",
        "study: studies/mine",
    ):
        assert line in done.out.splitlines()
    listed = command("list", "studies").out.splitlines()[1].split()
    assert listed[:4] == ["mine", "8", "1", "7"]
    verdict = command("verdict", "studies/mine")
    assert (verdict.code, verdict.out.splitlines()[0]) == (0, "mine, test loss ≤ 1.5")


def test_complete_inferred_mapping_is_shown_and_stored(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = re.sub(r"(?m)^(\w+,[\d.]+),", r"\1,32,", ROWS)
    (tmp_path / "runs.csv").write_text("optimizer,lr,batch_size,seed,step,val_loss\n" + rows)
    done = command("import", "runs.csv", "--as", "mine")
    assert (done.code, done.err) == (0, "")
    assert "read as (mine.map.toml, which you may correct):" in done.out
    assert "It declares no target" in done.out
    assert command("import", "runs.csv", "--as", "mine", "--map", "mine.map.toml").code == 0
