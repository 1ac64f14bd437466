"""Files that are sent with a study's job: the study file, the user's code, and this package's source."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sensitivity.execution.prepare import snapshot_of
from sensitivity.execution.private_files import private_files
from sensitivity.execution.shadowing import shadowing_files
from sensitivity.store.lock import JOB_VARIABLE
from sensitivity.store.manifest import MANIFEST
from sensitivity.study.errors import UserError
from sensitivity.study.load import find_study, load_study
from sensitivity.study.provenance import CODE_VERSION_VARIABLE, code_version
from sensitivity.study.spec import StudySpec

MAX_BYTES = 100 * 2**20
"""Largest size of a job's packed files that Ray accepts."""
_NEVER = (".?*", "__pycache__", "*.pyc")
"""Patterns that are never sent. For Ray, a plain `.*` would also match the folder itself."""
_SHOWN, _SHOWN_PRIVATE = 3, 10
"""Most files listed in a message about size, and in one about credentials."""
_LOCAL_FOLDERS = ("/dev/", "/proc/", "/run/", "/sys/")


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """A study, ready to be sent."""

    spec: StudySpec
    file_name: str
    """Name of the study file in `folder`."""
    folder: Path
    """Working directory of the job."""
    excludes: tuple[str, ...]
    """Patterns of files in `folder` that are not sent, in addition to those of .gitignore and .rayignore."""
    package: Path | None
    """This package's source, if it is sent too."""
    needed: tuple[Path, ...]
    """Files and folders that the study needs, and those that the user has named."""
    included: tuple[Path, ...] = ()
    """Files and folders that the user has named; they are sent even if they look like credentials."""

    def runtime_env(self, *, job: str) -> dict[str, object]:
        """Return the shipment as the runtime environment of a Ray job with that name."""
        variables = {
            JOB_VARIABLE: job,
            # Ray's default of 3 seconds between stop and kill is too short for a driver that is writing results.
            "RAY_JOB_STOP_WAIT_TIME_S": "60",
        }
        env = {"working_dir": str(self.folder), "excludes": list(self.excludes)}
        if self.package is None:
            return {**env, "env_vars": variables}
        variables[CODE_VERSION_VARIABLE] = code_version()
        return {**env, "env_vars": variables, "py_modules": [str(self.package)]}

    def fault(self) -> str | None:
        """Describe why this can't be sent and how to fix it; None if it can."""
        sizes = _sizes(self.folder, self.excludes)
        for path in self.needed:
            if not any(file.is_relative_to(path) for file in sizes):
                return (
                    f"{path} would not be sent: a .gitignore or .rayignore names it, it is hidden, or it is empty\n"
                    "  The study needs it: change the ignore file, or move it"
                )
        private = [
            path.relative_to(self.folder).as_posix()
            for path in private_files(sizes, self.folder)
            if not any(path.is_relative_to(named) for named in self.included)
        ]
        if private:
            named = ", ".join(private[:_SHOWN_PRIVATE]) + f" and {len(private) - _SHOWN_PRIVATE} more" * (
                len(private) > _SHOWN_PRIVATE
            )
            return (
                f"{named} in {self.folder}: looks like credentials, which are not sent, because a cluster keeps files\n"
                "  Name files that the study does not need in a .rayignore next to it; or, to send them, add "
                f"--include {shlex.quote(private[0])}, and the same for each other file"
            )
        if shadowing := shadowing_files(sizes, self.folder):
            first = shadowing[0].relative_to(self.folder).as_posix()
            named = ", ".join(path.relative_to(self.folder).as_posix() for path in shadowing[:_SHOWN_PRIVATE])
            return (
                f"{named} in {self.folder}: has the name of a module of Python or of an installed package, which it "
                "would shadow in the job, because Ray puts this folder first on Python's path there\n"
                f"  Rename it; or, if the study does not need it, add the line /{first} to a .rayignore next to it"
            )
        total = sum(sizes.values())
        if total <= MAX_BYTES:
            return None
        most = sorted(sizes, key=lambda path: -sizes[path])[:_SHOWN]
        named = ", ".join(f"{path.relative_to(self.folder)} ({sizes[path] / 2**20:.0f} MiB)" for path in most)
        return (
            f"a job's files may have {MAX_BYTES // 2**20} MiB, these have {total / 2**20:.0f} MiB in {self.folder}, "
            f"most of it in {named}\n"
            "  Copy data to every node, and name it by its full path or through $SENSITIVITY_DATA there; name files "
            "that the study does not need in a .rayignore next to it"
        )

    def extent(self) -> tuple[int, int]:
        """Return the number of the user's files to send, and their total size in bytes."""
        sizes = _sizes(self.folder, self.excludes)
        return len(sizes), sum(sizes.values())


@contextlib.contextmanager
def shipment(study: str, *, with_package: bool, include: Sequence[str] = ()) -> Iterator[Shipment]:
    """Check a study without its data set, and yield the files to send inside the block.

    Without code or data files of the user, only the study file is sent, otherwise its folder. `include` names files and
    folders in it that are sent even if they look like credentials.

    Raises:
        UserError: the study file has mistakes, or a named module or file is not found.
    """
    path = find_study(study)
    spec = load_study(path)
    folder = path.resolve().parent
    snapshot = snapshot_of(spec, folder)  # the job takes its own snapshot of the sent copies
    modules = [Path(module.path).resolve() for module in snapshot.files.values()]
    own = (*modules, *_data(spec, folder))
    package = Path(__file__).resolve().parents[1] if with_package else None
    included = tuple(Path(os.path.normpath(folder / name)) for name in include)
    for each in included:
        if not own or not each.exists() or not each.is_relative_to(folder):
            raise UserError(
                f"--include {each.name!r}: no such file in {folder}, or the study needs no code and is sent alone"
                "\n  Use a path relative to the study file's folder, or omit the option"
            )
    if own:
        file = path.resolve()
        yield Shipment(
            spec=spec,
            file_name=file.name,
            folder=folder,
            excludes=(*_NEVER, *_not_code(folder)),
            package=package,
            needed=(file, *(each for each in own if each.is_relative_to(folder)), *included),
            included=included,
        )
        return
    with tempfile.TemporaryDirectory(prefix="sensitivity-") as scratch:
        shutil.copy(path, scratch)
        yield Shipment(spec=spec, file_name=path.name, folder=Path(scratch), excludes=(), package=package, needed=())


def _data(spec: StudySpec, folder: Path) -> Iterator[Path]:
    """Yield the data file or folder that a study names, if it is in the folder of the study file."""
    named = spec.required_problem.path
    if named is not None and (place := (folder / named).resolve()).is_relative_to(folder):
        yield place


def _not_code(folder: Path) -> Iterator[str]:
    """Yield patterns of folders below `folder` that are not code: virtual environments and study directories."""
    for here, names, files in os.walk(folder):
        if Path(here) != folder and ({"pyvenv.cfg", MANIFEST} & set(files)):
            yield f"/{Path(here).relative_to(folder).as_posix()}/"
            names.clear()
        names[:] = [name for name in names if not name.startswith(".")]


def _sizes(folder: Path, excludes: tuple[str, ...]) -> dict[Path, int]:
    """Return the size in bytes of each file that Ray would send."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes = {}

    def record(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    _dir_travel(folder, [_get_excludes(folder, list(excludes))], record, include_gitignore=True)
    return sizes


def refuse_local(storage: str) -> None:
    """Raise if `storage` is clearly local to one machine; the job itself checks every node.

    Raises:
        UserError: it is a relative path, the root of the file tree, or a folder of the running system.
    """
    path = storage.removeprefix("file://")
    if "://" in path:
        return
    if os.path.normpath(path).strip("/") == "" or path.startswith(_LOCAL_FOLDERS):
        raise UserError(
            f"--storage {storage!r}: every machine has its own\n"
            "  Use the full path of a folder that all nodes share (NFS), or a URI such as s3://bucket/studies"
        )
    if not path.startswith("/"):
        raise UserError(
            f"--storage {storage!r}: on the cluster, this folder is deleted with the job\n"
            "  Use the full path of a folder that all nodes share (NFS), or a URI such as s3://bucket/studies"
        )
