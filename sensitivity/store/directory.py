"""Places: study directories on local disks, NFS and object stores, through pyarrow's file systems."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from sensitivity.store.connections import connect, credentials_refused, is_foreign_s3
from sensitivity.study.errors import StorageError
from sensitivity.study.redaction import SECRET_OPTION
from sensitivity.study.whole_files import write_whole

logger = logging.getLogger(__name__)

PATIENCE_S = 180.0
"""How long writes to an unreachable place are retried."""
SCHEMES = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
"""Schemes of the URIs that pyarrow's file systems support."""
_SECRET = re.compile(SECRET_OPTION, re.IGNORECASE)
_OBJECT_STORES = ("s3", "gcs", "abfs")
"""Folders are not created there: each would be an object, written again with every file, in half of all requests."""
_SMALL_FILE = 8 * 2**20
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0
_PERMANENT = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR)
"""Errors that retrying does not fix, such as a full disk or missing permission."""


@dataclass(frozen=True)
class Place:
    """A folder on a file system. Files are written atomically: each appears complete or not at all."""

    filesystem: fs.FileSystem
    path: str
    uri: str
    """The URI or path as the user wrote it."""

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a local file system."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle object stores by their URI: each process connects with the credentials of its own environment."""
        if self.filesystem.type_name in _OBJECT_STORES:
            return place, (self.uri,)
        return Place, (self.filesystem, self.path, self.uri)

    def child(self, name: str) -> Place:
        """Return the subfolder `name`."""
        return Place(self.filesystem, f"{self.path}/{name}", self.uri_of(name))

    def uri_of(self, name: str) -> str:
        """Return the URI of a file or subfolder; options such as ``?region=`` stay at its end."""
        folder, mark, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return f"{folder.rstrip('/')}/{name}{mark}{options}"

    def folders(self) -> tuple[Place, ...]:
        """Return the subfolders by name; empty if this folder does not exist.

        Raises:
            StorageError: it can't be reached, or is a file.
        """
        if self.filesystem.type_name == "gcs":
            return tuple(self.child(name) for name in self._first_parts())
        return tuple(self.child(info.base_name) for info in self._entries() if info.type == fs.FileType.Directory)

    def _first_parts(self) -> tuple[str, ...]:
        """Return the subfolders by the files below them: pyarrow lists no others on Google's storage."""
        with self._storage_errors("can't be read"):
            infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True, recursive=True))
        below = (info.path.removeprefix(f"{self.path}/").partition("/") for info in infos)
        return tuple(sorted({first for first, slash, _ in below if slash and not first.startswith(".")}))

    def files(self, suffix: str) -> tuple[str, ...]:
        """Return the sorted names of the files that end in `suffix`; empty if this folder does not exist.

        Raises:
            StorageError: it can't be reached, or is a file.
        """
        return tuple(i.base_name for i in self._entries() if i.is_file and i.base_name.endswith(suffix))

    def sizes(self, suffix: str) -> dict[str, int]:
        """Return the size in bytes of each file that `files` returns, by name.

        Raises:
            StorageError: it can't be reached, or is a file.
        """
        return {i.base_name: int(i.size) for i in self._entries() if i.is_file and i.base_name.endswith(suffix)}

    def hidden(self, pattern: re.Pattern[str]) -> tuple[str, ...]:
        """Return the sorted names of the files that begin with a dot and match `pattern`.

        Raises:
            StorageError: it can't be reached, or is a file.
        """
        infos = self._entries(hidden=True)
        return tuple(i.base_name for i in infos if i.is_file and pattern.fullmatch(i.base_name))

    def _entries(self, *, hidden: bool = False) -> list[fs.FileInfo]:
        with self._storage_errors("can't be read"):
            infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        named = {name: info for info in infos if (name := self._name(info)) is not None}
        return [named[name] for name in sorted(named) if name.startswith(".") == hidden]

    def _name(self, info: fs.FileInfo) -> str | None:
        try:
            return str(info.base_name)
        except UnicodeDecodeError:
            logger.warning("%s: skipping an entry whose name is not valid UTF-8", self.uri)
            return None

    def exists(self, name: str) -> bool:
        """Whether the file `name` exists.

        Raises:
            StorageError: the place can't be reached.
        """
        return bool(self._info(name).is_file)

    def modified_at(self, name: str) -> float:
        """Return the time a file was last written, in seconds since the epoch; 0 if unknown."""
        written = self._info(name).mtime
        return float(written.timestamp()) if written is not None else 0.0

    def _info(self, name: str) -> fs.FileInfo:
        with self._storage_errors("can't be read"):
            return self.filesystem.get_file_info(f"{self.path}/{name}")

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            StorageError: it can't be read.
        """
        with (
            self._storage_errors("can't be read", name),
            self.filesystem.open_input_stream(f"{self.path}/{name}") as stream,
        ):
            return bytes(stream.read())

    def read_start(self, name: str, most: int) -> bytes:
        """Return at most the first `most` bytes of a file.

        Raises:
            StorageError: it can't be read.
        """
        with (
            self._storage_errors("can't be read", name),
            self.filesystem.open_input_stream(f"{self.path}/{name}") as stream,
        ):
            return bytes(stream.read(most))

    def open(self, name: str) -> pa.NativeFile | None:
        """Open a file for random access (small ones are read into memory); None if it does not exist.

        Raises:
            StorageError: it can't be read.
        """
        with self._storage_errors("can't be read", name):
            try:
                stream = self.filesystem.open_input_file(f"{self.path}/{name}")
            except FileNotFoundError:
                return None
            if stream.size() > _SMALL_FILE:
                return stream
            with stream:  # one request; otherwise an object store receives one for the footer and each column
                return pa.BufferReader(stream.read())

    def read_through(self, name: str) -> None:
        """Read a file to its end, to raise the error of an unreachable place.

        Raises:
            StorageError: it can't be read.
        """
        with (
            self._storage_errors("can't be read", name),
            self.filesystem.open_input_stream(f"{self.path}/{name}") as stream,
        ):
            while stream.read(_SMALL_FILE):
                pass

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file atomically, replacing one of the same name.

        On a local disk it is written to a temporary file, flushed to the disk and renamed; an object store shows an
        object only when it is complete.

        Raises:
            StorageError: the place can't be written; existing files are unchanged.
        """
        target = f"{self.path}/{name}"
        with self._storage_errors("can't be written"):
            if self.is_local:
                write_whole(Path(target), data)
                return
            if self.filesystem.type_name not in _OBJECT_STORES:
                self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(data)

    def delete(self, name: str) -> None:
        """Remove a file if it exists.

        Raises:
            StorageError: it can't be removed.
        """
        if self.exists(name):
            with self._storage_errors("can't be written"):
                try:
                    self.filesystem.delete_file(f"{self.path}/{name}")
                except FileNotFoundError:
                    pass
                except OSError:  # S3 also raises if the file is deleted but no object can be created for its folder
                    if self.exists(name):
                        raise

    def require_folder_objects(self, scratch: str) -> None:
        """Check, in a new folder `scratch`, that deleting a file does not affect others.

        When a file is deleted, pyarrow creates an object for its folder. Amazon's S3 and most servers keep that object;
        rclone's server drops it or turns it into a file, and nothing can be written below it.

        Raises:
            StorageError: the place can't be reached, or is such a server.
        """
        if not is_foreign_s3(self.uri):
            return
        folder = self.child(scratch)
        folder.write("file", b"")
        folder.delete("file")
        with self._storage_errors("can't be written"):
            try:
                self.filesystem.delete_dir(folder.path)
            except FileNotFoundError:
                raise StorageError(
                    f"{self.uri}: this server does not keep objects for folders, so files in them would be lost\n"
                    "  Keep studies on another server, or in a local folder"
                ) from None

    @contextlib.contextmanager
    def _storage_errors(self, what: str, name: str = "") -> Iterator[None]:
        """Convert errors of a file system to a `StorageError` with a fix."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            refused = credentials_refused(error)
            if refused:
                fix = (
                    "Its credentials were rejected or have expired. Renew them for this command and for the nodes, and "
                    "run the same command again; reported results are kept"
                )
            elif "written" in what:
                fix = "Use a place with free space and write permission: --storage URI"
            else:
                fix = "Check that this is the right place and that you have permission to read it"
            where = self.uri_of(name) if name else self.uri
            passing = not refused and (not isinstance(error, OSError) or error.errno not in _PERMANENT)
            raise StorageError(f"{where}: {what} ({first_line(error)})\n  {fix}", passing=passing) from None


def place(uri: str) -> Place:
    """Return the folder that `uri` names: a path, or a URI such as ``s3://bucket/folder`` or ``gs://...``.

    Rejected are an empty text, a scheme without a bucket or host, ``file:///`` (a whole disk), and a scheme without
    ``//``, which would be a local folder named ``s3:``. Credentials are read from the environment, as the platform's
    own tools do. URIs appear in messages, logs, reports and process lists, so a URI with credentials is rejected, and
    the message does not show it.

    Raises:
        StorageError: no file system supports the URI, it names no folder, or it contains credentials.
    """
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise _invalid_place(uri, "its name is not valid UTF-8") from None
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return _local_folder(uri)
    _reject_credentials(uri)
    if scheme not in SCHEMES:
        raise _invalid_place(uri, f"no file system has the scheme {scheme!r}; allowed: {', '.join(SCHEMES)}")
    if not rest.partition("?")[0].strip("/"):
        raise _invalid_place(uri, "it names the whole disk" if scheme == "file" else f"nothing follows {scheme}://")
    try:
        filesystem, path_text = connect(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise _invalid_place(uri, first_line(error)) from None
    return Place(filesystem, path_text.rstrip("/"), uri.rstrip("/"))


def _local_folder(path: str) -> Place:
    if not path.strip():
        raise _invalid_place(path, "it is empty, perhaps from an unset variable; the current folder is '.'")
    scheme = path.partition(":")[0]
    if ":" in path and scheme.lower() in SCHEMES:
        raise _invalid_place(
            path, f"'//' is missing after '{scheme}:'; for a local folder of this name, write './{path}'"
        )
    try:
        resolved = _resolved(Path(path))
    except (OSError, RuntimeError, ValueError) as error:  # an unknown user, circular links, a zero byte
        raise StorageError(
            f"{path!r}: can't be read ({first_line(error)})\n  Check that this is the right place and that you have "
            "permission to read it"
        ) from None
    return Place(fs.LocalFileSystem(), resolved.as_posix(), path.rstrip("/") or resolved.as_posix())


def _resolved(path: Path) -> Path:
    found = path.expanduser().resolve()
    if found.is_symlink():  # from Python 3.13 on, `resolve` accepts circular links
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return found


def _invalid_place(uri: str, reason: str) -> StorageError:
    return StorageError(f"storage {uri!r}: {reason}\n  Give a folder, or a URI such as s3://bucket/folder")


def _reject_credentials(uri: str) -> None:
    scheme, _, rest = uri.partition("://")
    authority, options = rest.partition("/")[0].partition("?")[0], rest.partition("?")[2]
    user, at, host = authority.rpartition("@")
    named = (name.partition("=")[0] for name in options.split("&"))
    # The part before the host may be an account or a container; after a colon, it is a password. On S3 all of it
    # belongs to the key.
    if (at and (":" in user or scheme == "s3")) or any(map(_SECRET.fullmatch, named)):
        raise StorageError(
            f"storage {scheme}://{host}/...: contains credentials, which would appear in logs and reports\n"
            "  Remove them from the URI; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_KEY, or other variables that the platform's tools read, "
            "here and on every node"
        )


def patiently(
    write: Callable[[], None], *, patience: float = PATIENCE_S, wait: Callable[[float], None] = time.sleep
) -> None:
    """Call `write`, and retry with exponential backoff while the storage is unreachable, for up to `patience` seconds.

    Raises:
        StorageError: a permanent error, or one that lasts longer than `patience`.
    """
    waited, pause = 0.0, _FIRST_WAIT_S
    while True:
        try:
            return write()
        except StorageError as error:
            if not error.passing or waited >= patience:
                raise
            logger.warning("%s; retrying", str(error).splitlines()[0])
        wait(pause)
        waited, pause = waited + pause, min(2 * pause, _LONGEST_WAIT_S)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
