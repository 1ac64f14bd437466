"""Studies as Python objects: built from functions, modified, and written as study files."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import PrivateAttr

from sensitivity.study.errors import StudyFileError
from sensitivity.study.section import Section
from sensitivity.study.session_code import MODULE, with_import_paths
from sensitivity.study.toml_text import toml_text


class Editable(Section):
    """Methods of ``StudySpec`` for use from Python."""

    _code: str = PrivateAttr(default="")

    def __init__(self, /, **fields: Any) -> None:
        """Validate a study from the fields of a study file; functions may be given instead of import paths.

        Raises:
            StudyFileError: lists every mistake by the field names of a study file.
        """
        from sensitivity.study.load import reported_mistakes  # not at the top: it imports a subclass of this class

        ready, code = with_import_paths(fields)
        with reported_mistakes(ready, source="study"):
            super().__init__(**ready)
        self._code = code

    @classmethod
    def read(cls, study: str | os.PathLike[str]) -> Self:
        """Read a study file, or a shipped one by name; its paths become relative to the current folder.

        Raises:
            UserError: the file does not exist or has mistakes, which are all listed.
        """
        from sensitivity.study.load import find_study, load_study

        found = load_study(find_study(os.fspath(study)))
        assert isinstance(found, cls)
        return found

    @property
    def code(self) -> str:
        """Source of the module ``study_code``, which holds functions that were passed from a notebook or script."""
        return self._code

    def with_code(self, code: str) -> Self:
        """Return the study with its functions restored from their stored source."""
        found = self.model_copy()
        found._code = code
        return found

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields replaced, validated as a whole.

        Args:
            changes: values by field or by the dotted path of a field in a study file, as in
                ``replace(seeds=8, **{"optimizers.sgd.lr": [0.1, 0.3]})``. None removes a field, which restores its
                default.

        Raises:
            StudyFileError: the resulting study is invalid; every mistake is listed.
        """
        content = self.model_dump(mode="json", exclude_unset=True)
        for path, value in changes.items():
            _put(content, _parts(path), value, path)
        kept = [field for field, value in _leaves(content) if str(value).startswith(f"{MODULE}:")]
        found = type(self)(**content)
        if kept and found.code:
            raise StudyFileError(
                "study",
                [
                    f"{field}: this function was passed earlier; pass it again together with the new one"
                    for field in kept
                ],
            )
        return found.with_code(self.code) if kept else found

    def __repr__(self) -> str:
        """Return a one-line summary; `to_toml` returns the whole study."""
        content = self.model_dump(mode="json")
        sizes = ", ".join(map(str, content["batch_sizes"]))
        return f"Study({content['name']!r}: {', '.join(content['optimizers'])}; batch sizes {sizes})"

    __str__ = __repr__

    def to_toml(self) -> str:
        """Return the text of a study file that reads back to an equal study."""
        content = self.model_dump(mode="json", exclude_unset=True)
        if content["seeds"] == list(range(len(content["seeds"]))):
            content["seeds"] = len(content["seeds"])
        return toml_text(content)


def _parts(path: str) -> list[str]:
    """Split a dotted TOML path into names; names that contain dots are quoted."""
    try:
        below: Any = tomllib.loads(f"{path} = 0")
    except ValueError:
        raise StudyFileError("study", [f"{path}: not a field path; give one such as optimizers.sgd.lr"]) from None
    names = []
    while isinstance(below, dict) and len(below) == 1:
        names.append(next(iter(below)))
        below = below[names[-1]]
    return names


def _put(content: dict[str, Any], names: list[str], value: Any, path: str) -> None:
    table: Any = content
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise StudyFileError("study", [f"{path}: {name} is not a table; give {name} as a whole"])
    if value is None:
        table.pop(names[-1], None)
    else:
        table[names[-1]] = value


def _leaves(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
