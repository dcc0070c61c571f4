from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from kvcatalog.config import (
    CatalogConfig,
    ContentDownloadConfig,
    RetentionConfig,
    StorageConfig,
    TelemetryConfig,
    check_config,
    explain_config,
    load_config,
)
from kvcatalog.config_files import KEYS, catalog_path
from kvcatalog.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVCATALOG_CATALOG__PATH", raising=False)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_given_ones() -> None:
    assert StorageConfig().model_dump() == {
        "backend": "fs",
        "root_dir": "data/docs",
        "layout": "policy_path",
        "cas_prefix": "sha256",
        "hardlink_dedup": True,
        "policy_links": False,
        "s3_bucket": None,
        "s3_prefix": "docs/",
        "s3_storage_class": "STANDARD",
        "s3_endpoint_url": None,
        "s3_region": None,
    }
    assert CatalogConfig().model_dump() == {
        "enabled": True,
        "backend": "lmdb",
        "path": "state/catalog.lmdb",
        "durability": "full",
        "compute_sha256": True,
        "verify_on_register": False,
        "retention_days": 0,
        "orphan_ttl_days": 7,
        "map_size_bytes": None,
    }
    assert load_config() == ContentDownloadConfig(storage=StorageConfig(), catalog=CatalogConfig())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "storage:\n  layout: cas\ncatalog:\n  path: x.lmdb\n  retention_days: 30\n"),
        ("c.YML", "storage: {layout: cas}\ncatalog: {path: x.lmdb, retention_days: 30}\n"),
        ("c.toml", '[storage]\nlayout = "cas"\n[catalog]\npath = "x.lmdb"\nretention_days = 30\n'),
    ],
)
def test_files_are_yaml_or_toml(tmp_path: Path, name: str, text: str) -> None:
    config = load_config(written(tmp_path, name, text))
    assert config.storage == StorageConfig(layout="cas")
    assert config.catalog == CatalogConfig(path="x.lmdb", retention_days=30)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "c.yaml", "# nothing yet\n")) == ContentDownloadConfig()


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "catalog: {path: file.lmdb, retention_days: 1, orphan_ttl_days: 2}\n"
    path = written(tmp_path, "c.yaml", text)
    monkeypatch.setenv("KVCATALOG_CATALOG__PATH", "environment.lmdb")
    monkeypatch.setenv("kvcatalog_catalog__retention_days", "10")
    overrides = {"catalog": {"path": "flag.lmdb"}}
    assert load_config(path, overrides).catalog == CatalogConfig(path="flag.lmdb", retention_days=10, orphan_ttl_days=2)
    origins = {entry.key: (entry.value, entry.origin) for entry in explain_config(path, overrides)}
    assert origins["catalog.path"] == ("flag.lmdb", "flag")
    assert origins["catalog.retention_days"] == (10, "environment")
    assert origins["catalog.orphan_ttl_days"] == (2, "file")
    assert origins["catalog.durability"] == ("full", "default")
    sections = (StorageConfig, CatalogConfig, RetentionConfig, TelemetryConfig)
    assert len(origins) == sum(len(section.model_fields) for section in sections)


def test_a_section_may_stand_in_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCATALOG_STORAGE", '{"layout": "cas", "policy_links": true}')
    assert load_config().storage == StorageConfig(layout="cas", policy_links=True)


def test_configurations_are_frozen_and_take_no_unknown_key() -> None:
    with pytest.raises(ValidationError):
        CatalogConfig().path = "other"
    with pytest.raises(ValidationError):
        StorageConfig(colour="red")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("catalog: {pahth: x}", "catalog.pahth: there is no such key"),
        ("katalog: {path: x}", "katalog: there is no such key; there are storage, catalog, retention, telemetry ("),
        ("retention: {rules: [{nme: x}]}", "retention.rules.0.name: Field required ("),
        ("catalog: {backend: sqlite}", "catalog.backend: Input should be 'lmdb' or 'dynamodb'"),
        ("catalog: {path: ''}", "catalog.path: String should have at least 1 character"),
        ("catalog: {retention_days: -1}", "catalog.retention_days: "),
        ("catalog: {retention_days: soon}", "catalog.retention_days: "),
        ("catalog: {map_size_bytes: 0}", "catalog.map_size_bytes: "),
        ("catalog: {map_size_bytes: 140737488355329}", "catalog.map_size_bytes: "),
        ("catalog: {backend: dynamodb}", "catalog: backend dynamodb and a path"),
        ("catalog: {path: 'dynamodb://t'}", "catalog: backend dynamodb and a path"),
        ("catalog: 7", "catalog: "),
        ("storage: {backend: s3}", "storage: backend s3 needs s3_bucket"),
        ("storage: {policy_links: true}", "storage: policy_links needs layout cas"),
        ("storage: {cas_prefix: ../x}", "storage.cas_prefix: "),
        ("storage: {cas_prefix: ..}", "storage.cas_prefix: "),
        ("1: x", "1: "),
    ],
)
def test_a_refused_key_is_named_with_its_file(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, "c.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(expected)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("c.yaml", "catalog: [", "line 1"),
        ("c.toml", "catalog = \n[", "line 1"),
        ("c.yaml", "catalog: 2025-99-99", "month must be in"),
        ("c.yaml", "- x", "must hold the sections storage, catalog, retention, telemetry"),
        ("c.json", "{}", "ends in .yaml, .yml or .toml"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(tmp_path: Path, name: str, text: str, expected: str) -> None:
    path = written(tmp_path, name, text)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"latin\.toml: 'utf-8' codec"):
        load_config(tmp_path / "latin.toml")


def test_a_file_is_read_only_where_it_can_be_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.yaml"):
        load_config(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="longer than 1 MiB"):
        load_config(written(tmp_path, "c.yaml", "#" * (2**20 + 1)))
    assert load_config(written(tmp_path, "c.yaml", "#" * 2**20)) == ContentDownloadConfig()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("KVCATALOG_CATALOG_PATH", "x", "KVCATALOG_CATALOG_PATH in the environment: .* two underscores"),
        ("KVCATALOG_CATALOG__PAHTH", "x", r"catalog\.pahth: there is no such key; .* path, .* \(the environment\)"),
        ("KVCATALOG_CATALOG__RETENTION_DAYS", "x", r"catalog\.retention_days: .* \(the environment\)"),
        ("KVCATALOG_CATALOG", "{", "the environment: .*catalog"),
        ("KVCATALOG_CATALOG", '{"path":' * 100_000, "the environment: .*nested too deep"),
        (
            "KVCATALOG_CATALOGUE__PATH",
            "x",
            "KVCATALOG_CATALOGUE__PATH in the environment: there is no section catalogue",
        ),
    ],
)
def test_a_refused_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=expected):
        load_config()


def test_what_others_set_under_the_prefix_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCATALOG_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KVCATALOG_PORT", "tcp://10.0.0.1:80")
    assert load_config() == ContentDownloadConfig()


def test_the_package_alone_imports_no_pydantic() -> None:
    script = "import kvcatalog, kvcatalog.errors, sys; sys.exit(bool({'pydantic', 'yaml'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_keys_that_are_known_without_the_models_are_theirs() -> None:
    assert set(StorageConfig.model_fields) == KEYS["storage"]
    assert set(CatalogConfig.model_fields) == KEYS["catalog"]
    assert set(ContentDownloadConfig.model_fields) == set(KEYS)


@pytest.mark.parametrize(
    ("contents", "path"),
    [
        ({"catalog": {"path": "a/b.lmdb", "retention_days": 3}, "storage": {"layout": "cas"}}, "a/b.lmdb"),
        ({"catalog": {"path": "dynamodb://table", "backend": "dynamodb"}}, None),
        ({"catalog": {"path": "a", "backend": "other"}}, None),
        ({"catalog": {"path": 5}}, None),
        ({"catalog": {"path": ""}}, None),
        ({"catalog": {"path": "a", "pahth": "b"}}, None),
        ({"catalog": {"path": "a"}, "storage": {"rot": "b"}}, None),
        ({"catalog": {"path": "a"}, "storge": {}}, None),
        ({"catalog": None}, None),
        ({}, None),
    ],
)
def test_only_a_plain_path_is_taken_without_validating(contents: dict[str, object], path: str | None) -> None:
    assert catalog_path(contents) == path


def test_a_check_names_every_problem_and_who_gave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "c.yaml", "catalog: {pahth: x, retention_days: -1}\n")
    monkeypatch.setenv("KVCATALOG_STORAGE__BACKEND", "tape")
    problems = {problem.key: problem.source for problem in check_config(path, {"telemetry": {"exporter": "loud"}})}
    assert problems == {
        "catalog.pahth": str(path),
        "catalog.retention_days": str(path),
        "storage.backend": "the environment",
        "telemetry.exporter": "the command line",
    }
    monkeypatch.delenv("KVCATALOG_STORAGE__BACKEND")
    assert check_config(written(tmp_path, "good.yaml", "telemetry: {exporter: none}\n")) == ()
