"""The command `reconcile`."""

from __future__ import annotations

import string
from collections import Counter
from contextlib import contextmanager
from mimetypes import MimeTypes
from threading import Event
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click
from msgspec.structs import asdict

from kvcatalog.cli.command import Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.mapping import read_rows
from kvcatalog.filters import parse_filter
from kvcatalog.reconcile import Adoption, FetchError, Reconciling
from kvcatalog.removal import Collection, open_roots
from kvcatalog.uris import file_uri, has_scheme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.reconcile import Step

_COLUMNS = ("action", "outcome", "document_id", "artifact_id", "bytes", "storage_uri", "former_uri", "detail")
_PARTS = ("folder", "name", "path", "stem", "top")


@click.command(cls=Command)
@click.argument("filters", nargs=-1, metavar="[FILTER]...")
@click.option("--dry-run/--apply", default=True, help="Show what would be done, or do it.  [default: dry run]")
@click.option("--adopt", "mapping", metavar="MAPPING", help="Rows that name unknown files and their keys; - for stdin.")
@click.option(
    "--artifact-from", "rule", metavar="RULE", help="Adopt every unknown file, with such an artifact id: '{folder}'."
)
@click.option("--resolver", default="local", show_default=True, help="What found the files that are adopted.")
@click.option("--refetch", is_flag=True, help="Fetch what is corrupt or missing, and found nowhere, from its source.")
@click.pass_obj
def reconcile(
    invocation: Invocation,
    filters: tuple[str, ...],
    *,
    dry_run: bool,
    mapping: str | None,
    rule: str | None,
    resolver: str,
    refetch: bool,
) -> ExitStatus:
    """Find blobs that are not where their records say, and records for files that nobody knows.

    Below all storage roots: a record whose blob is missing, or was found corrupt by `verify`, is made to refer to an
    unknown file with its digest (`rebind`). What is found nowhere is fetched from its source with --refetch, and stored
    only if its digest is the right one; else it is `lost`. Unknown files are adopted where they lie, by MAPPING, CSV
    with a header or JSON lines as `add --from` takes, or by RULE: {top} and {folder} are the first and the last folder
    below the root, {name} the file's name, {stem} that without suffix, {path} all of it. FILTERs choose which records
    are looked at. Nothing is touched without --apply; a run that was cut off is simply made again. The exit status is 1
    where something is lost or failed.

    \b
    Example:
      kvcatalog reconcile
      kvcatalog reconcile --artifact-from 'doi:{folder}' --resolver rescue --apply
      kvcatalog reconcile --adopt found.csv --refetch --apply
    """  # noqa: D301 - click's mark for lines that are not wrapped
    adopt = _adopting(mapping, rule, resolver)
    fetch = _fetched if refetch else None
    where = parse_filter(filters)
    storage = invocation.load_config().storage
    counts: Counter[str] = Counter()

    def rows(steps: Iterator[Step]) -> Iterator[dict[str, Any]]:
        for step in steps:
            needs_nobody = step.action in {"lost", "unknown"} or step.outcome == "done"
            counts[step.action if needs_nobody else f"{step.action} {step.outcome}"] += 1
            yield asdict(step)

    if dry_run:
        with invocation.open_catalog() as catalog, open_roots(catalog, storage) as roots:
            steps = Reconciling(catalog, roots, adopt=adopt, fetch=fetch, where=where).plan()
            invocation.output.rows(rows(steps), _COLUMNS, identity="storage_uri")
    else:
        with (
            invocation.open_catalog(read_only=False, create=False, command="reconcile") as catalog,
            Collection(catalog, storage) as collection,
        ):
            run = Reconciling(catalog, collection.roots, adopt=adopt, fetch=fetch, where=where)
            invocation.output.rows(rows(run.apply(collection)), _COLUMNS, identity="storage_uri")
    invocation.note(", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "all is where it belongs")
    if dry_run and counts.keys() - {"lost", "unknown"}:
        invocation.note("nothing was changed; --apply does it")
    is_whole = not counts["lost"] and not any(name.endswith(" failed") for name in counts)
    return ExitStatus.DONE if is_whole else ExitStatus.FINDINGS


def _adopting(mapping: str | None, rule: str | None, resolver: str) -> Callable[[str, str], Adoption | None]:
    """Return what gives an unknown file its key; UsageError for a mapping or a rule that cannot be used."""
    if rule is not None:
        _check_rule(rule)
    rows = {} if mapping is None else _mapped(mapping, resolver)

    def adopt(uri: str, path: str) -> Adoption | None:
        known = rows.get(uri)
        if known is not None or rule is None:
            return known
        *folders, name = path.split("/")
        if not folders and ("{folder}" in rule or "{top}" in rule):
            return None  # it lies in no folder that could say what it is
        top, folder = (folders[0], folders[-1]) if folders else ("", "")
        stem = name.rpartition(".")[0] or name
        artifact_id = rule.format(top=top, folder=folder, name=name, stem=stem, path=path)
        return Adoption(artifact_id, resolver=resolver, content_type=MimeTypes().guess_type(name)[0])

    return adopt


def _check_rule(rule: str) -> None:
    known = ", ".join(f"{{{part}}}" for part in _PARTS)
    try:
        fields = list(string.Formatter().parse(rule))
    except ValueError as error:
        raise click.UsageError(f"--artifact-from {rule}: {error}") from error
    for _, field, form, conversion in fields:
        if field is not None and (field not in _PARTS or form or conversion):
            raise click.UsageError(f"--artifact-from {rule}: there are {known} and no {{{field}}}")
    if not any(field for _, field, _, _ in fields):
        raise click.UsageError(f"--artifact-from {rule}: one of {known} tells the files apart")


def _mapped(mapping: str, resolver: str) -> dict[str, Adoption]:
    """Return the keys that a mapping gives, by storage URI."""
    found: dict[str, Adoption] = {}
    for row in read_rows(mapping, required=("file", "artifact_id")):
        values = row.values
        error = row.error or ("a variant is not adopted; use `add`" if "variant" in values else None)
        if error is not None:
            raise click.UsageError(f"{mapping}: line {row.line}: {error}")
        file = values["file"]
        found[file if has_scheme(file) else file_uri(file)] = Adoption(
            values["artifact_id"],
            values.get("url"),
            values.get("resolver", resolver),
            values.get("content_type") or MimeTypes().guess_type(file)[0],
            values.get("run"),
        )
    return found


@contextmanager
def _fetched(url: str) -> Iterator[BinaryIO]:
    from kvcatalog.pipeline.http import Client, DownloadError
    from kvcatalog.pipeline.transfer import Limits, Transfer

    client = Client(connections=1)
    try:
        with client.get(url, Transfer(Limits(), Event())) as body:
            yield cast("BinaryIO", body)
    except DownloadError as error:
        raise FetchError(error.reason) from error
    finally:
        client.close()
