"""Detection of files that look like credentials, which are not sent to a cluster unless the user names them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

_NAMES = (
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx", "*.ovpn", "*.tfstate"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *(".env", ".env.*", "*.env", ".netrc", "_netrc", ".pgpass", ".npmrc", ".pypirc", ".git-credentials", "*htpasswd"),
    *("credential", "credentials", "credential.*", "credentials.*", "*[_-]credentials.*", "*[_-]credentials"),
    *("client_secret*.json", "service[_-]account*.json", "secret", "secrets", "secret.*", "secrets.*"),
    *("kubeconfig", "kubeconfig.*", "*.kubeconfig", "token", "tokens", "token.*", "*[_-]token", "*[_-]token.*"),
    *("*.token", "api[_-]key*", "apikey*", "password*", "passwd*"),
)
_FOLDERS = (".aws", ".azure", ".gcloud", ".gnupg", ".kube", ".ssh", ".docker")
_HARMLESS = (".py", ".pyi", ".pub", ".md", ".rst")
"""Suffixes of files whose names may mention keys and tokens; only their content is checked."""
_CONTENT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rb"|aws_secret_access_key\s*[=:]\s*[\"']?\S{8}"
    rb"|\"type\"\s*:\s*\"service_account\""
    rb"|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{36}|\bgithub_pat_\w{50}|\bhf_[A-Za-z]{34}\b|\bxox[abps]-[\w-]{20}|\bAIza[\w-]{35}",
    re.IGNORECASE,
)
_MAX_BYTES = 2**18
"""Larger files contain data or weights, not keys."""


def private_files(files: Iterable[Path], folder: Path) -> tuple[Path, ...]:
    """Return the files that look like credentials by their names, their folders below `folder`, or their content."""
    return tuple(path for path in sorted(files) if _looks_private(path, folder))


def _looks_private(path: Path, folder: Path) -> bool:
    name = path.name.lower()
    if any(part in _FOLDERS for part in path.relative_to(folder).parts[:-1]):
        return True
    if path.suffix.lower() not in _HARMLESS and any(fnmatch(name, pattern) for pattern in _NAMES):
        return True
    return path.stat().st_size <= _MAX_BYTES and _CONTENT.search(path.read_bytes()) is not None
