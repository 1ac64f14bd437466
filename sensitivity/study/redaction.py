"""Masking of credentials in URIs that are shown, logged or stored."""

from __future__ import annotations

import logging
import re

MASK = "***"
SECRET_OPTION = r"[\w.-]*(?:key|secret|token|sig|sas|pass|credential)[\w.-]*"
"""Pattern of the names of URI options that contain credentials."""

_REST = re.compile(r"://([^\s'\"<>]+)")
"""A URI after its scheme. The scheme is searched backwards from here, because searching for it takes quadratic time."""
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*$", re.IGNORECASE)
_LONGEST_SCHEME = 40
_OPTION = re.compile(rf"([?&;])({SECRET_OPTION})=[^&;#\s'\"<>]*", re.IGNORECASE)
_ACCOUNTS = ("abfs", "abfss", "gs", "gcs")
"""Schemes with an account or container, which is not secret, before the ``@``."""


def redacted(text: str) -> str:
    """Return `text` with the credentials in each of its URIs replaced by ``***``.

    This masks a password before the host, or a user without a password (often a token; on S3 the access key), and the
    values of options such as ``?secret_key=``. The rest stays readable and can be used again with the credentials.
    """
    return _REST.sub(_without_credentials, text)


def redacted_address(address: str) -> str:
    """Return the address of a cluster, with or without a scheme, with its credentials replaced by ``***``."""
    return redacted(address) if "://" in address else redacted(f"://{address}").removeprefix("://")


class RedactingFormatter(logging.Formatter):
    """Masks credentials in log records, including tracebacks, and begins warnings and errors with their level."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a formatted record."""
        text = redacted(super().format(record))
        return text if record.levelno < logging.WARNING else f"{record.levelname}: {text}"


def _without_credentials(found: re.Match[str]) -> str:
    rest = found[1]
    before = _SCHEME.search(found.string[max(0, found.start() - _LONGEST_SCHEME) : found.start()])
    scheme = before[0].lower() if before else ""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    # A password that was not percent-encoded may contain a slash; then the apparent port is part of the password.
    broken = "@" not in authority and "@" in rest and re.fullmatch(r"[^:\[\]]*:(?!\d*$).*", authority) is not None
    user_info, at, tail = rest.rpartition("@") if broken else authority.rpartition("@")
    if at:
        tail = tail if broken else tail + rest[len(authority) :]
        user, colon, _ = user_info.partition(":")
        if colon:
            user_info = f"{user if scheme != 's3' else MASK}:{MASK}"
        elif scheme not in _ACCOUNTS:
            user_info = MASK
        rest = f"{user_info}@{tail}"
    return "://" + _OPTION.sub(rf"\1\2={MASK}", rest)
