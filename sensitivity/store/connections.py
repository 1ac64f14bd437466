"""File systems behind URIs, with their request limits, retries and credentials."""

from __future__ import annotations

import os
import re

from pyarrow import fs

from sensitivity.study.errors import StorageError

_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_PLAIN_UPLOADS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
"""Without it, uploads are chunked, with a trailing checksum and no length, which some servers reject (status 411)."""
_AZURE_KEYS = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY")
_AZURE_TOKEN = "AZURE_STORAGE_SAS_TOKEN"
_S3_LIMITS = {"connect_timeout": 5.0, "request_timeout": 60.0}
"""In seconds. By default a request times out after three seconds without an answer, and is retried 30 times."""
_S3_ATTEMPTS = 5
_GOOGLE_LIMIT_S = 20
"""How long Google's client silently retries a request; its own default is 15 minutes."""
_REFUSED = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|INVALID_SIGNATURE|UNRECOGNIZED_CLIENT)"
    r"|AWS Error (SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN|UNKNOWN \(HTTP status 40[03]\) during Head)"
    r"|ExpiredToken|InvalidToken|TokenRefreshRequired"
    r"|Status\((UNAUTHENTICATED|PERMISSION_DENIED)|AuthenticationFailed|AuthorizationFailure"
)
"""Errors of S3 (which gives no reason for HEAD requests), Google's storage and Azure."""


def credentials_refused(error: BaseException) -> bool:
    """Whether an object store's answer says that the credentials are wrong or have expired."""
    return _REFUSED.search(str(error)) is not None


def is_foreign_s3(uri: str) -> bool:
    """Whether a URI is served by an S3 server other than Amazon's."""
    return uri.startswith("s3://") and ("endpoint_override=" in uri or any(map(os.environ.get, _ENDPOINTS)))


def connect(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI, and the path on it.

    Raises:
        StorageError: credentials that the place needs are missing.
        OSError: no file system supports the URI. pyarrow raises its own exceptions for the same reason.
    """
    if is_foreign_s3(uri):
        os.environ.setdefault(*_PLAIN_UPLOADS)
    filesystem, path = fs.FileSystem.from_uri(_with_options(uri))
    if filesystem.type_name == "s3":
        options = {name: value for name, value in filesystem.__reduce__()[1][0].items() if value}
        filesystem = fs.S3FileSystem(
            **{**options, **_S3_LIMITS}, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_S3_ATTEMPTS)
        )
    if filesystem.type_name == "abfs":
        filesystem = _azure(filesystem, uri)
    return filesystem, str(path)


def _with_options(uri: str) -> str:
    if uri.startswith("s3://"):  # small files are uploaded in one request instead of three
        return _with_option(uri, "allow_delayed_open", "true")
    if uri.startswith(("gs://", "gcs://")):
        return _with_option(uri, "retry_limit_seconds", str(_GOOGLE_LIMIT_S))
    return uri


def _with_option(uri: str, name: str, value: str) -> str:
    if f"{name}=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{name}={value}"


def _azure(found: fs.FileSystem, uri: str) -> fs.FileSystem:
    """Return Azure's file system with the key or token of the environment, which pyarrow does not read.

    Without these, pyarrow uses Azure's default credentials: variables of a service principal, or the identity of a
    workload or machine.
    """
    options = {name: value for name, value in found.__reduce__()[1][0].items() if value}
    key = next((os.environ[name] for name in _AZURE_KEYS if os.environ.get(name)), None)
    token = os.environ.get(_AZURE_TOKEN)
    if key:
        return fs.AzureFileSystem(**options, account_key=key)
    if token:
        return fs.AzureFileSystem(**options, sas_token=token if token.startswith("?") else f"?{token}")
    if options.get("blob_storage_scheme") == "http":  # Azure's client would abort the whole process
        raise StorageError(
            f"{uri}: no credentials, and Azure's identities need https\n"
            f"  Set {_AZURE_KEYS[0]} or {_AZURE_TOKEN}, here and on every node"
        )
    return found
