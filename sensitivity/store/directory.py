"""Places: study directories on local disks, NFS and object stores, through pyarrow's file systems."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from sensitivity.study.errors import StorageError


@dataclass(frozen=True)
class Place:
    """A folder on a file system. All writing is whole files that appear at once or not at all."""

    filesystem: fs.FileSystem
    path: str
    uri: str
    """As a user would write it."""

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine's file tree."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def child(self, name: str) -> Place:
        """Return the folder `name` in this one."""
        return Place(self.filesystem, f"{self.path}/{name}", f"{self.uri.rstrip('/')}/{name}")

    def folders(self) -> tuple[Place, ...]:
        """Return the folders in this one, by name; none if it does not exist."""
        infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return tuple(self.child(info.base_name) for info in sorted(infos, key=lambda i: i.path) if not info.is_file)

    def files(self, suffix: str) -> tuple[str, ...]:
        """Return the names of this folder's files that end in `suffix`, sorted; none without the folder."""
        infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return tuple(
            sorted(i.base_name for i in infos if i.is_file and i.base_name.endswith(suffix) and i.base_name[0] != ".")
        )

    def exists(self, name: str) -> bool:
        """Whether the file `name` is there."""
        return bool(self.filesystem.get_file_info(f"{self.path}/{name}").is_file)

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            StorageError: it can't be read.
        """
        try:
            with self.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                return bytes(stream.read())
        except OSError as error:
            raise StorageError(f"{self.uri}/{name}: can't be read ({_first_line(error)})") from None

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Put a whole file in its place, replacing one of the same name.

        On a local disk it is written beside and renamed; an object store shows an object only when complete.

        Raises:
            StorageError: the place can't be written; nothing that was there has changed.
        """
        target = f"{self.path}/{name}"
        try:
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            written = f"{target.rpartition('/')[0]}/.{uuid.uuid4().hex}.tmp" if self.is_local else target
            with self.filesystem.open_output_stream(written) as stream:
                stream.write(data)
            if written != target:
                self.filesystem.move(written, target)
        except OSError as error:
            raise StorageError(
                f"{self.uri}: can't be written ({_first_line(error)})\n"
                "  Give a place that you may write to, with space left: --storage URI"
            ) from None

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        if self.exists(name):
            self.filesystem.delete_file(f"{self.path}/{name}")


def place(uri: str) -> Place:
    """Return the folder that `uri` names: a path, or a URI such as ``s3://bucket/folder`` or ``gs://...``.

    Raises:
        StorageError: no file system answers to it.
    """
    if "://" not in uri:
        path = Path(uri).expanduser().absolute()
        return Place(fs.LocalFileSystem(), path.as_posix(), uri.rstrip("/") or "/")
    try:
        filesystem, path_text = fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise StorageError(
            f"storage {uri!r}: {_first_line(error)}\n  Give a folder, or a URI such as s3://bucket/folder"
        ) from None
    return Place(filesystem, path_text.rstrip("/"), uri.rstrip("/"))


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
