"""What the options of the group decide for every command: which catalog, which output, how many messages."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from kvcatalog.cli.output import Format, Output
from kvcatalog.cli.text import visible
from kvcatalog.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kvcatalog.config import CatalogConfig, ContentDownloadConfig, StorageConfig
    from kvcatalog.store.protocol import CatalogStore


class Invocation:
    """One run of the program."""

    def __init__(
        self,
        *,
        config_path: str | None,
        catalog: str | None,
        root: str | None = None,
        output_format: Format,
        verbosity: int,
    ) -> None:
        self.config_path = config_path
        self.output_format = output_format
        self.verbosity = verbosity
        self._catalog = catalog
        self._root = root
        self._file: Mapping[str, object] | None = None
        self._sends = False

    @property
    def output(self) -> Output:
        """Where results go."""
        return Output(self.output_format, sys.stdout)

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        """What the options set, in the form of the configuration."""
        sections: dict[str, dict[str, Any]] = {}
        if self._catalog is not None:
            sections["catalog"] = _catalog(self._catalog)
        if self._root is not None:
            sections["storage"] = _storage(self._root)
        return sections

    def load_config(self) -> ContentDownloadConfig:
        """Return the configuration in force; for commands that store blobs."""
        from kvcatalog.config import load_config

        return load_config(self.config_path, self.overrides)

    def storage_at(self, root: str | None) -> StorageConfig:
        """Return the configuration of the storage, with another root if one is given."""
        from kvcatalog.config import load_config

        sections = self.overrides
        if root is not None:
            sections["storage"] = _storage(root)
        return load_config(self.config_path, sections).storage

    def open_catalog(self, *, read_only: bool = True, create: bool | None = None, command: str = "cli") -> CatalogStore:
        """Open the catalog that options, environment and configuration name; only a writer creates one.

        With `create` False none does. `command` is what the journal names for what is changed.
        """
        from kvcatalog.store import open_catalog

        target = self._target(path_suffices=read_only)
        if not read_only and not isinstance(target, str) and not target.enabled:
            error = ConfigError("catalog.enabled: the catalog is switched off, so nothing is registered")
            raise error.advising("Set catalog.enabled to true.")
        create = not read_only if create is None else create
        return open_catalog(target, read_only=read_only, create=create, command=command)

    def open_catalog_at(self, place: str, *, read_only: bool, command: str = "cli") -> CatalogStore:
        """Open the catalog at a path or URL, with all other settings as they are; only a writer creates one."""
        from kvcatalog.config import load_config
        from kvcatalog.store import open_catalog

        config = load_config(self.config_path, self.overrides | {"catalog": _catalog(place)})
        return open_catalog(config.catalog, read_only=read_only, create=not read_only, command=command)

    @contextmanager
    def telemetry(self, name: str) -> Iterator[None]:
        """Follow a command with a span, and send it and all figures where configuration and environment say.

        What the environment alone asks for, which may be meant for other programs, keeps no command from its work.
        """
        from kvcatalog import __version__, telemetry

        if self._sends:  # a command within a command
            with telemetry.span(name):
                yield
            return
        configured = self._telemetry_exporter()
        with ExitStack() as stack:
            try:
                if exporters := telemetry.wanted_exporters(configured):
                    stack.enter_context(telemetry.configure(exporters, version=__version__))
                    stack.enter_context(telemetry.span(name))
                    self._sends = True
            except ConfigError as error:
                if configured != "auto":
                    raise
                self.note(f"No telemetry is sent: {error}")
            yield

    def catalog_path(
        self,
        *,
        instead: str = "Of a DynamoDB table there is point-in-time recovery; `kvcatalog copy` makes a folder of it.",
    ) -> str:
        """Return the folder of the catalog, for what works on its files; UnsupportedError where it has none."""
        target = self._target(path_suffices=True)
        path = target if isinstance(target, str) else target.path
        if "://" in path:
            error = UnsupportedError(f"catalog {path}: this command needs a catalog in a local folder")
            raise error.advising(instead)
        return path

    def catalog_place(self) -> str:
        """Return the folder or the URL of the catalog."""
        target = self.catalog_target()
        return target if isinstance(target, str) else target.path

    def catalog_target(self) -> str | CatalogConfig:
        """Return what names the catalog: its folder or URL, or the whole of its configuration."""
        return self._target(path_suffices=True)

    def note(self, message: str) -> None:
        """Write a message for people to standard error, unless --quiet was given."""
        if self.verbosity >= 0:
            sys.stderr.write(visible(message) + "\n")

    def _target(self, *, path_suffices: bool) -> str | CatalogConfig:
        """Return which catalog to open; to read, its path says it all, and is found without importing pydantic."""
        if not any(name.upper().startswith("KVCATALOG_") for name in os.environ):
            if self._catalog is not None and self.config_path is None:
                return self._catalog
            if path_suffices and self.config_path is not None:
                from kvcatalog.config_files import catalog_path

                path = catalog_path(self._read_file(self.config_path))
                if path is not None:
                    return path if self._catalog is None else self._catalog
        return self.load_config().catalog

    def _telemetry_exporter(self) -> str:
        """Return which exporter is configured, without importing pydantic where nobody has a word on it."""
        is_in_file = self.config_path is not None and "telemetry" in self._read_file(self.config_path)
        if is_in_file or any(name.upper().startswith("KVCATALOG_TELEMETRY__") for name in os.environ):
            return self.load_config().telemetry.exporter
        return "auto"

    def _read_file(self, path: str) -> Mapping[str, object]:
        if self._file is None:
            from kvcatalog.config_files import read_config_file

            self._file = read_config_file(path)
        return self._file


def _catalog(place: str) -> dict[str, Any]:
    """Return the configuration of a catalog that is given as a folder or as the URL of a table."""
    return {"path": place, "backend": "dynamodb" if place.startswith("dynamodb://") else "lmdb"}


def _storage(root: str) -> dict[str, Any]:
    """Return the configuration of a root that is given as a folder or its URI."""
    from kvcatalog.uris import has_scheme

    if not has_scheme(root):
        return {"backend": "fs", "root_dir": root}
    from kvcatalog.blob_backends import BACKENDS, settings_of

    settings = settings_of(root)
    if settings is None:
        forms = " or ".join(backend.form for backend in BACKENDS.values())
        raise ConfigError(f"--root {root}: must be {forms}").advising("Correct --root.")
    return settings
