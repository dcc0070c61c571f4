"""The configuration of storage, catalog and telemetry, and where its values come from.

A value comes from the first of these that gives it: a flag of the command line, an environment variable
(`KVCATALOG_CATALOG__PATH`), the configuration file (YAML or TOML), the default. Relative paths stay as they are given;
what opens them makes them absolute.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from msgspec import Struct, json
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from kvcatalog.config_files import Values, read_config_file
from kvcatalog.errors import ConfigError
from kvcatalog.values import DAYS_MAX, INTEGER_MAX

ENVIRONMENT_PREFIX = "KVCATALOG_"

Origin = Literal["flag", "environment", "file", "default"]
_NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class StorageConfig(_Section):
    """Where blobs lie and how their paths are chosen.

    The root is the folder `root_dir`, or with the backend s3 the keys of `s3_bucket` that begin with `s3_prefix`. With
    the layout `policy_path` a blob lies at `<artifact>/<name>`, and `hardlink_dedup` links equal contents; with `cas`
    it lies at `cas/<cas_prefix>/ab/cdef…`, and `policy_links` adds the readable name as a link. ConfigError comes from
    `load_config`, pydantic's ValidationError from here.
    """

    backend: Literal["fs", "s3"] = "fs"
    root_dir: _NonEmpty = "data/docs"
    layout: Literal["policy_path", "cas"] = "policy_path"
    cas_prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")] = "sha256"
    hardlink_dedup: bool = True
    policy_links: bool = False
    s3_bucket: _NonEmpty | None = None
    s3_prefix: str = "docs/"
    s3_storage_class: _NonEmpty = "STANDARD"
    s3_endpoint_url: _NonEmpty | None = None
    s3_region: _NonEmpty | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.backend == "s3" and self.s3_bucket is None:
            raise ValueError("backend s3 needs s3_bucket")
        if self.policy_links and self.layout != "cas":
            raise ValueError("policy_links needs layout cas")
        return self


class CatalogConfig(_Section):
    """Where the catalog lies and what it does at each registration.

    `path` is a folder, or `dynamodb://TABLE?region=…` with the backend dynamodb. `retention_days` 0 keeps for ever.
    With `enabled` false nothing is hashed for the catalog or registered. `compute_sha256` hashes what comes without a
    digest, `verify_on_register` reads again what was stored. `orphan_ttl_days` is how long a blob stays that nothing
    refers to. `map_size_bytes` is what LMDB's map begins with; it grows by itself.

    With `durability` "relaxed" a commit saves one of its two flushes, and its answers come before the other. What a
    crash of the operating system or a loss of power may undo is the last commit of all processes, as a whole: up to
    1,024 calls that shared it, or one batch of `register_many`. Everything before it stands, the file is sound, and
    nothing is lost when a process dies. Closing flushes.
    """

    enabled: bool = True
    backend: Literal["lmdb", "dynamodb"] = "lmdb"
    path: _NonEmpty = "state/catalog.lmdb"
    durability: Literal["full", "relaxed"] = "full"
    compute_sha256: bool = True
    verify_on_register: bool = False
    retention_days: Annotated[int, Field(ge=0, le=DAYS_MAX)] = 0
    orphan_ttl_days: Annotated[int, Field(ge=0, le=DAYS_MAX)] = 7
    map_size_bytes: Annotated[int, Field(gt=0, le=2**47)] | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.backend == "dynamodb") != self.path.startswith("dynamodb://"):
            raise ValueError("backend dynamodb and a path that begins with dynamodb:// go together")
        return self


class TelemetryConfig(_Section):
    """Where the command line sends what it measures; the library itself sends nothing.

    With `auto` the standard variables decide (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER, …), and `otlp` is
    where they say. The console is standard error.
    """

    exporter: Literal["auto", "none", "console", "otlp"] = "auto"


class RetentionRule(_Section):
    """How long the records are kept that all `filters` let through; 0 days is for ever.

    Age counts from a record's creation, or from the last run that met it. `min_copies` physical copies of each content
    stay, in place of the section's number.
    """

    name: _NonEmpty
    filters: tuple[_NonEmpty, ...] = ()
    days: Annotated[float, Field(ge=0, le=DAYS_MAX, allow_inf_nan=False)] = 0
    since: Literal["created", "last_seen"] = "created"
    min_copies: Annotated[int, Field(ge=0, le=INTEGER_MAX)] | None = None


class RetentionConfig(_Section):
    """What may go, and when: the first rule that lets a record through decides, at last `catalog.retention_days`."""

    rules: tuple[RetentionRule, ...] = ()
    min_copies: Annotated[int, Field(ge=0, le=INTEGER_MAX)] = 0


class ContentDownloadConfig(_Section):
    """The whole configuration, by its sections; `load_config` makes it of a file and the environment."""

    storage: StorageConfig = Field(default_factory=StorageConfig)
    catalog: CatalogConfig = Field(default_factory=CatalogConfig)
    retention: RetentionConfig = Field(default_factory=RetentionConfig)
    telemetry: TelemetryConfig = Field(default_factory=TelemetryConfig)


class ConfigEntry(Struct, frozen=True):
    """One value in force; `key` is dotted, `origin` says which source gave it."""

    key: str
    value: str | int | bool | None
    origin: Origin


class ConfigProblem(Struct, frozen=True):
    """What is wrong with a key; `source` is the file, the environment or the command line, if one of them gave it."""

    key: str
    problem: str
    source: str | None

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}" + (f" ({self.source})" if self.source else "")


def load_config(path: str | os.PathLike[str] | None = None, overrides: Values | None = None) -> ContentDownloadConfig:
    """Return the configuration from a file, the environment and `overrides`, which are nested like the file and win.

    ConfigError names the key and the source of what is refused.
    """
    return _validated(_sources(path, overrides))


def explain_config(
    path: str | os.PathLike[str] | None = None, overrides: Values | None = None
) -> tuple[ConfigEntry, ...]:
    """Return every value in force with its origin; arguments and errors as in `load_config`."""
    sources = _sources(path, overrides)
    config = _validated(sources)
    return tuple(
        ConfigEntry(f"{section}.{key}", _shown(value), _origin(sources, (section, key)))
        for section, contents in config.model_dump(mode="json").items()
        for key, value in contents.items()
    )


def check_config(
    path: str | os.PathLike[str] | None = None, overrides: Values | None = None
) -> tuple[ConfigProblem, ...]:
    """Return all that is wrong with a configuration; ConfigError if the file or the environment cannot be read."""
    return _merged_and_validated(_sources(path, overrides))[1]


def _shown(value: object) -> str | int | bool | None:
    """Return a value as it is, and a list as JSON."""
    if value is None or isinstance(value, str | int):
        return value
    return json.encode(value).decode()


class _Source(Struct, frozen=True):
    origin: Origin
    name: str
    values: Values


def _sources(path: str | os.PathLike[str] | None, overrides: Values | None) -> tuple[_Source, ...]:
    """Return the sources, the strongest first."""
    file = () if path is None else (_Source("file", os.fspath(path), read_config_file(path)),)
    return (
        _Source("flag", "the command line", overrides or {}),
        _Source("environment", "the environment", _read_environment()),
        *file,
    )


def _read_environment() -> Values:
    sections = tuple(ContentDownloadConfig.model_fields)
    ours = [name for name in os.environ if name.upper().startswith(ENVIRONMENT_PREFIX)]
    if not ours:
        return {}
    for name in ours:
        # What other programs set under our prefix (service links of Kubernetes) is theirs; what begins like a section
        # and is none is a slip of the pen.
        section, delimiter, _ = name.lower().removeprefix(ENVIRONMENT_PREFIX.lower()).partition("__")
        meant = name.upper().startswith(tuple(f"{ENVIRONMENT_PREFIX}{known}_".upper() for known in sections))
        if meant and not (delimiter and section in sections):
            raise ConfigError(f"{name} in the environment: section and key are joined by two underscores")
        if delimiter and section not in sections:
            raise ConfigError(f"{name} in the environment: there is no section {section}")
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

    class Environment(BaseSettings):
        model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__")

        storage: StorageConfig = Field(default_factory=StorageConfig)
        catalog: CatalogConfig = Field(default_factory=CatalogConfig)
        retention: RetentionConfig = Field(default_factory=RetentionConfig)
        telemetry: TelemetryConfig = Field(default_factory=TelemetryConfig)

    try:
        return EnvSettingsSource(Environment)()
    except SettingsError as error:
        raise ConfigError(f"the environment: {error}: {error.__cause__}") from error
    except RecursionError as error:
        raise ConfigError("the environment: a value is nested too deep") from error


def _validated(sources: tuple[_Source, ...]) -> ContentDownloadConfig:
    config, problems = _merged_and_validated(sources)
    if config is None:
        raise ConfigError("; ".join(map(str, problems)))
    return config


def _merged_and_validated(
    sources: tuple[_Source, ...],
) -> tuple[ContentDownloadConfig | None, tuple[ConfigProblem, ...]]:
    merged: Values = {}
    for source in reversed(sources):
        merged = _merged(merged, source.values)
    try:
        return ContentDownloadConfig.model_validate(merged), ()
    except ValidationError as error:
        return None, tuple(
            _problem(sources, details["loc"], details["msg"], details["type"]) for details in error.errors()
        )


def _merged(weaker: Values, stronger: Values) -> Values:
    result = dict(weaker)
    for key, value in stronger.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            result[key] = _merged(below, value)
        else:
            result[key] = value
    return result


def _problem(sources: tuple[_Source, ...], location: tuple[str | int, ...], message: str, kind: str) -> ConfigProblem:
    if kind == "extra_forbidden":
        text = f"there is no such key{_besides(location)}"
    else:
        text = message.removeprefix("Value error, ")
    given = location[:-1] if kind == "missing" else location
    name = next((source.name for source in sources if _holds(source.values, given)), None)
    return ConfigProblem(".".join(map(str, location)) or "configuration", text, name)


def _besides(location: tuple[str | int, ...]) -> str:
    """Return which keys there are where one was meant that is not there."""
    model: object = ContentDownloadConfig
    for key in location[:-1]:
        field = model.model_fields.get(str(key)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        model = None if field is None else field.annotation
    return (
        f"; there are {', '.join(model.model_fields)}"
        if isinstance(model, type) and issubclass(model, BaseModel)
        else ""
    )


def _origin(sources: tuple[_Source, ...], location: tuple[str, ...]) -> Origin:
    return next((source.origin for source in sources if _holds(source.values, location)), "default")


def _holds(contents: Values, location: tuple[str | int, ...]) -> bool:
    inner: Any = contents
    for key in location:
        try:
            inner = inner[key]
        except (KeyError, IndexError, TypeError):
            return False
    return True
