"""Making and opening a catalog in a table: what goes wrong is said in terms of DynamoDB, with what to do."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

from kvcatalog import open_catalog
from kvcatalog.config import CatalogConfig, ContentDownloadConfig
from kvcatalog.doctor import diagnose
from kvcatalog.dynamo import connection, creation, patience
from kvcatalog.dynamo.layout import item_key
from kvcatalog.dynamo.place import parse_place
from kvcatalog.errors import (
    CatalogError,
    CatalogMissingError,
    CatalogUnavailableError,
    ConfigError,
    DatabaseDamagedError,
    StoragePermissionError,
)
from kvcatalog.schema import FORMAT_KEY, META
from kvcatalog.store import init_catalog
from kvcatalog.store.dynamo_catalog import DynamoCatalog
from tests.catalog_stores import document
from tests.dynamo_tables import REGION, Tables, tables
from tools.servers.dynamodb_proxy import Action, Body, Change, Cut, Proxy, Refuse, Say, between

__all__ = ["tables"]

NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("dynamodb://t", "3 to 255"),
        ("dynamodb://a/b?region=r", "3 to 255"),
        ("dynamodb://table?regoin=r", "regoin=r"),
        ("dynamodb://table?region=r&region=s", "once each"),
        ("dynamodb://table?region", "region"),
        ("dynamodb://table?region=us east", "region_name"),
        ("dynamodb://table?region=r&endpoint_url=127.0.0.1:8000", "begins with http"),
        ("dynamodb://table?region=r&endpoint_url=ftp://host", "begins with http"),
        ("dynamodb://table?region=r&endpoint_url=http://", "begins with http"),
        ("dynamodb:/table?region=r", "can be opened"),
        ("DynamoDB://table?region=r", "can be opened"),
    ],
)
def test_a_url_that_is_not_understood_is_told_with_one_that_is(
    url: str, words: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words) as caught:
        open_catalog(url)
    assert "dynamodb://TABLE?region=REGION" in caught.value.advice
    assert list(tmp_path.iterdir()) == []


def test_credentials_and_profiles_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"dynamodb://table?region={REGION}&endpoint_url={NOWHERE}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(StoragePermissionError, match="credentials") as missing:
        open_catalog(url)
    assert "AWS_ACCESS_KEY_ID" in missing.value.advice
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(ConfigError, match="no-such-profile") as caught:
        open_catalog(url)
    assert "AWS_PROFILE" in caught.value.advice


def test_a_service_that_is_down_is_told_with_where_it_was_looked_for(tables: Tables) -> None:
    url = tables.url(endpoint_url=NOWHERE)
    for make in (open_catalog, init_catalog):
        with pytest.raises(CatalogUnavailableError, match=r"127\.0\.0\.1:1") as caught:
            make(url)
        assert "endpoint_url" in caught.value.advice


def test_a_clock_that_is_off_is_told_from_wrong_credentials() -> None:
    made = connection.Connection(parse_place("dynamodb://table?region=r"))
    for message, word in (("Signature expired: 2025 is now earlier than", "clock"), ("does not match", "credentials")):
        from botocore.exceptions import ClientError

        told = made.translated(ClientError({"Error": {"Code": "InvalidSignatureException", "Message": message}}, "Get"))
        assert isinstance(told, StoragePermissionError)
        assert word in told.advice


def put_format(tables: Tables, value: bytes) -> None:
    partition, sort = item_key(META, FORMAT_KEY)
    item = {"pk": {"S": partition}, "sk": {"B": sort}, "v": {"B": value}}
    tables.client().put_item(TableName=tables.table(), Item=item)


def test_tables_that_hold_no_catalog_of_ours_are_told_apart(tables: Tables) -> None:
    with pytest.raises(CatalogMissingError, match="no such table") as missing:
        open_catalog(tables.url())
    assert "kvcatalog init" in missing.value.advice
    tables.open().close()
    put_format(tables, b"what is this")
    with pytest.raises(DatabaseDamagedError, match=tables.table()) as damaged:
        open_catalog(tables.url())
    (told,) = diagnose(
        ContentDownloadConfig(catalog=CatalogConfig(backend="dynamodb", path=tables.url())), damaged.value
    )
    assert (told.state, told.advice) == ("problem", damaged.value.advice)
    partition, sort = item_key(META, FORMAT_KEY)
    tables.client().delete_item(TableName=tables.table(), Key={"pk": {"S": partition}, "sk": {"B": sort}})
    with pytest.raises(CatalogMissingError, match="holds no catalog"):
        open_catalog(tables.url())
    with pytest.raises(CatalogUnavailableError, match="other things") as full:
        init_catalog(tables.url(), recovery=False)
    assert "another name" in full.value.advice


def test_the_doctor_tells_whether_a_table_can_be_recovered(tables: Tables) -> None:
    def told(url: str) -> tuple[str, str | None]:
        config = ContentDownloadConfig(catalog=CatalogConfig(backend="dynamodb", path=url))
        with open_catalog(url) as catalog:
            (found,) = [each for each in diagnose(config, catalog) if each.check == "point-in-time recovery"]
        return found.state, found.detail

    def rule(operation: str, _request: Body) -> Action:
        return Refuse("AccessDeniedException") if operation == "DescribeContinuousBackups" else None

    init_catalog(tables.url(), recovery=False)
    assert told(tables.url()) == ("note", "it is off")
    init_catalog(tables.url())
    assert told(tables.url()) == ("ok", None)
    with between(tables.endpoint_url) as proxy:
        proxy.rule = rule
        state, detail = told(tables.url(endpoint_url=proxy.endpoint_url))
    assert (state, "AccessDenied" in str(detail)) == ("note", True)


def test_a_table_that_another_makes_at_the_same_time_is_waited_for(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creation, "_LOOK_SECONDS", 0.01)
    asked = itertools.count()

    def rule(operation: str, _request: Body) -> Action:
        if operation == "CreateTable":
            tables.open().close()  # the other was quicker
            return Refuse("ResourceInUseException")
        if operation == "DescribeTable":
            match next(asked):
                case 0 | 1:  # nor is it seen at once
                    return Refuse("ResourceNotFoundException")
                case 2:
                    return Change(reply=lambda reply: {"Table": reply["Table"] | {"TableStatus": "CREATING"}})
        return None

    with between(tables.endpoint_url) as proxy:
        proxy.rule = rule
        created = init_catalog(tables.url(endpoint_url=proxy.endpoint_url), recovery=False)
    assert next(asked) > 3
    assert not created.was_made
    tables.open().close()


def test_a_table_that_is_being_deleted_is_not_waited_for(tables: Tables) -> None:
    tables.open().close()

    def rule(operation: str, _request: Body) -> Action:
        leaving = Change(reply=lambda reply: {"Table": reply["Table"] | {"TableStatus": "DELETING"}})
        return leaving if operation == "DescribeTable" else None

    with between(tables.endpoint_url) as proxy:
        proxy.rule = rule
        with pytest.raises(CatalogUnavailableError, match="not ready"):
            init_catalog(tables.url(endpoint_url=proxy.endpoint_url), recovery=False)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(connection, "READ_SECONDS", 0.3)
    monkeypatch.setattr(connection, "ATTEMPTS", 1)


def behind(tables: Tables, proxy: Proxy) -> DynamoCatalog:
    tables.open().close()
    opened = open_catalog(tables.url(endpoint_url=proxy.endpoint_url))
    assert isinstance(opened, DynamoCatalog)
    return opened


@pytest.mark.usefixtures("impatient")
def test_nobody_waits_long_for_a_service_that_hangs_nor_again_on_closing(tables: Tables) -> None:
    hung = threading.Event()
    asked: list[str] = []

    def rule(operation: str, _request: Body) -> Action:
        asked.append(operation)
        hung.wait()
        return Cut(is_done=False)

    with between(tables.endpoint_url) as proxy:
        catalog = behind(tables, proxy)
        catalog.register(**document(1))
        proxy.rule = rule
        with pytest.raises(CatalogUnavailableError, match="does not answer") as caught:
            catalog.register(**document(2))
        assert "endpoint_url" in caught.value.advice
        assert 1 <= len(asked) < 6
        before = len(asked)
        catalog.close()
        assert len(asked) == before
        hung.set()
        proxy.rule = lambda _operation, _request: None
        with behind(tables, proxy) as again:
            assert [record.artifact_id for record in again.iter_records()] == ["doi:10.1/1"]
            assert again.register(**document(2)).outcome == "registered"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("text", [b"<html>log in</html>", b'{"Item": {', b""])
def test_what_is_no_answer_is_never_taken_for_an_empty_one(tables: Tables, text: bytes) -> None:
    """In botocore's eyes a page that a proxy puts in place of an answer says that nothing is there."""
    with between(tables.endpoint_url) as proxy, behind(tables, proxy) as catalog:
        known = catalog.register(**document(1)).record
        proxy.rule = lambda _operation, _request: Say(text)
        for ask in (
            lambda: catalog.get_by_id(known.id),
            lambda: catalog.get_by_sha256(known.sha256 or ""),
            lambda: catalog.register(**document(2)),
        ):
            with pytest.raises(CatalogError):
                ask()
        proxy.rule = lambda _operation, _request: None
        assert catalog.get_by_id(known.id) == known
        tables.assert_consistent(catalog)
