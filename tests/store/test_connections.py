import os
import pickle

import pytest

from sensitivity.store.connections import credentials_refused
from sensitivity.store.directory import place
from sensitivity.study.errors import StorageError

AZURE = "abfs://account@127.0.0.1:9/studies/x?enable_tls=false"
KEY = "a2V5IG9mIHRoZSB0ZXN0"


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch):
    for name in ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "")  # so that it is put back
    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")


def options(filesystem):
    return filesystem.__reduce__()[1][0]


@pytest.mark.parametrize("name", ["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"])
def test_azures_key_comes_from_the_environment_and_stays_there(name, monkeypatch):
    monkeypatch.setenv(name, KEY)
    where = place(AZURE).child("tiny")
    assert where.path == "studies/x/tiny"
    assert options(where.filesystem)["account_key"] == KEY
    assert options(where.filesystem)["blob_storage_authority"] == "127.0.0.1:9"
    sent = pickle.dumps(where)
    assert KEY.encode() not in sent
    there = pickle.loads(sent)
    assert (there.path, there.uri) == (where.path, where.uri)
    assert options(there.filesystem)["account_key"] == KEY


def test_azures_token_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2024&sig=x")
    assert options(place(AZURE).filesystem)["sas_token"] == "?sv=2024&sig=x"


def test_azure_without_credentials_and_tls_is_refused():
    with pytest.raises(StorageError, match=r"no credentials, and(.|\n)*AZURE_STORAGE_KEY"):
        place(AZURE)


def test_a_slow_s3_server_has_time_to_answer():
    filesystem = place("s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http").filesystem
    assert options(filesystem)["request_timeout"] == 60
    assert options(filesystem)["endpoint_override"] == "127.0.0.1:9"
    assert options(filesystem)["allow_delayed_open"]


@pytest.mark.parametrize("given", ["variable", "option"])
def test_other_s3_servers_get_uploads_with_a_length(given, monkeypatch):
    if given == "variable":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    place("s3://bucket/x" + ("?endpoint_override=127.0.0.1:9" if given == "option" else ""))
    assert os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"


def test_amazons_own_gets_its_checksums():
    place("s3://bucket/x?region=us-east-1")
    assert "AWS_REQUEST_CHECKSUM_CALCULATION" not in os.environ


def test_googles_client_gives_up_before_our_patience_ends():
    assert options(place("gs://anonymous@bucket/x").filesystem)["retry_time_limit"].total_seconds() == 20


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("AWS Error ACCESS_DENIED during PutObject operation: Access Denied", True),
        ("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body.", True),
        ("AWS Error UNKNOWN (HTTP status 400) during PutObject operation: ExceptionName: ExpiredToken Message", True),
        ("google::cloud::Status(UNAUTHENTICATED: Permanent error, with a last message of Unauthorized", True),
        ("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body.", False),
        ("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate.", False),
        ("[Errno 28] No space left on device", False),
    ],
)
def test_credentials_that_are_refused_are_told_from_other_faults(said, refused):
    assert credentials_refused(OSError(said)) == refused
