import logging

import pytest

from sensitivity.study.errors import StorageError, StudyFileError, UserError
from sensitivity.study.redaction import RedactingFormatter, redacted, redacted_address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:hush@head:8265/x", "http://user:***@head:8265/x"),
        ("http://hush@head", "http://***@head"),
        ("http://user:hu/sh@hush@head/x", "http://user:***@head/x"),
        ("http://user:hush?x@head/", "http://user:***@head/"),
        ("'redis://:hush@head:1', then", "'redis://:***@head:1', then"),
        ("s3://KEY:hush@bucket/x?secret_key=hush&region=x", "s3://***:***@bucket/x?secret_key=***&region=x"),
        ("abfss://container@account/x?sas_token=hush", "abfss://container@account/x?sas_token=***"),
        ("optuna:postgresql+psycopg://user:hu%40sh@host/db", "optuna:postgresql+psycopg://user:***@host/db"),
        ("http://head/?token=hush#there", "http://head/?token=***#there"),
        ("both ray://a:hush@b:1 and ray://c:hush@d:2.", "both ray://a:***@b:1 and ray://c:***@d:2."),
    ],
)
def test_credentials_are_masked(text, shown):
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("user:hush@head:6379", "user:***@head:6379"),
        ("hush@head:6379", "***@head:6379"),
        ("ray://user:hush@head:10001", "ray://user:***@head:10001"),
        ("head:6379", "head:6379"),
        ("[::1]:6379", "[::1]:6379"),
        ("auto", "auto"),
    ],
)
def test_an_address_needs_no_scheme_to_be_masked(address, shown):
    assert redacted_address(address) == shown


@pytest.mark.parametrize(
    "text",
    [
        "gs://anonymous@bucket/folder",
        "http://head:8265/path@v1",
        "http://[::1]:8265/x",
        "s3://bucket/folder?region=eu-west-1&endpoint_override=localhost:9000",
        "mail someone@example.org, or see https://example.org/a?b=c",
        "a ratio of 3:4@5",
    ],
)
def test_uris_without_credentials_are_unchanged(text):
    assert redacted(text) == text


def test_every_error_and_log_line_is_masked():
    uri = "http://user:hush@head"
    for error in (UserError(uri), StorageError(uri, passing=True), StudyFileError(uri, [uri, uri])):
        assert "hush" not in f"{error} {error!r} {getattr(error, 'mistakes', '')}"
    error = ValueError(uri)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "at %s", (uri,), (ValueError, error, None))
    line = RedactingFormatter("%(message)s").format(record)
    assert "user:***@head" in line
    assert "hush" not in line
