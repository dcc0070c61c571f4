"""Configuration files as they are written, and the one question that is asked of them at every start.

Validating a configuration takes pydantic, whose import costs more than a lookup; here is what does without it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from kvcatalog.errors import ConfigError

Values = Mapping[str, object]

_MOST_BYTES = 1 << 20

KEYS = {
    "storage": frozenset(
        (
            "backend",
            "root_dir",
            "layout",
            "cas_prefix",
            "hardlink_dedup",
            "policy_links",
            "s3_bucket",
            "s3_prefix",
            "s3_storage_class",
            "s3_endpoint_url",
            "s3_region",
        )
    ),
    "catalog": frozenset(
        (
            "enabled",
            "backend",
            "path",
            "durability",
            "compute_sha256",
            "verify_on_register",
            "retention_days",
            "orphan_ttl_days",
            "map_size_bytes",
        )
    ),
    "retention": frozenset(("rules", "min_copies")),
    "telemetry": frozenset(("exporter",)),
}
"""The sections of a configuration and their keys; a test holds them against the models."""


def read_config_file(path: str | os.PathLike[str]) -> Values:
    """Return what a YAML or TOML file holds; ConfigError if it cannot be read or holds no sections."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in {".toml", ".yaml", ".yml"}:
        error = ConfigError(f"{path}: a configuration file ends in .yaml, .yml or .toml")
        raise error.advising("Check -c; the suffix tells what it is.")
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError(f"{path}: is longer than 1 MiB")
        contents = _parse(suffix, data.decode("utf-8").replace("\r\n", "\n"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}").advising("Check -c.") from error
    except (ValueError, RecursionError) as error:
        failure = ConfigError(f"{path}: {' '.join(str(error).split())}")
        raise failure.advising("Correct the file where the message says.") from error
    if contents is None:
        return {}
    if not isinstance(contents, dict):
        raise ConfigError(f"{path}: must hold the sections {', '.join(KEYS)}")
    return contents


def catalog_path(contents: Values) -> str | None:
    """Return where a file says that a local catalog lies.

    None where it does not say so in plain words, or holds a key that is not known: then the whole is to be validated.
    """
    if not contents.keys() <= KEYS.keys():
        return None
    sections: dict[str, Values] = {}
    for section, known in KEYS.items():
        inner = contents.get(section, {})
        if not isinstance(inner, Mapping) or not inner.keys() <= known:
            return None
        sections[section] = inner
    catalog = sections["catalog"]
    path = catalog.get("path")
    if isinstance(path, str) and path and "://" not in path and catalog.get("backend", "lmdb") == "lmdb":
        return path
    return None


def _parse(suffix: str, text: str) -> object:
    if suffix == ".toml":
        import tomllib

        return tomllib.loads(text)
    import yaml

    try:
        contents: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    return contents
