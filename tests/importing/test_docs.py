"""The page on importing: its blocks run as they stand."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "importing.md"


def test_the_blocks_of_the_page_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    said = capsys.readouterr().out
    assert "completed    96" in said
    assert "mine, test accuracy ≥ 80.0%" in said
    assert "runs: 2 completed" in said
    assert "pending      4" in said
