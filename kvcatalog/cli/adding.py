"""The command `add`."""

from __future__ import annotations

import os
import stat
from collections import Counter
from mimetypes import MimeTypes
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kvcatalog.bootstrap import open_services
from kvcatalog.cli.command import FILE_NAME, Command
from kvcatalog.cli.exit_status import ExitStatus
from kvcatalog.cli.mapping import read_rows, rows_expected
from kvcatalog.cli.progress import amount_progress
from kvcatalog.errors import InvalidValueError, NotFoundError
from kvcatalog.uris import absolute_path, file_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kvcatalog.cli.invocation import Invocation
    from kvcatalog.finalize import DownloadOutcome
    from kvcatalog.pipeline.running import Finalize

_COLUMNS = ("outcome", "id", "file", "bytes", "sha256", "storage_uri", "line", "reason")


class _Addition(NamedTuple):
    """A file to be stored under a key; `line` is where the mapping names it, `error` why it cannot be stored."""

    facts: Mapping[str, str]
    line: int | None = None
    error: str | None = None


@click.command(cls=Command)
@click.argument("files", nargs=-1, type=FILE_NAME, metavar="[FILE...]")
@click.option("--artifact-id", metavar="ID", help="The artifact that the files belong to.")
@click.option("--url", help="Where the file comes from.  [default: the file's own URI]")
@click.option("--resolver", default="local", show_default=True, help="What found the file.")
@click.option("--variant", metavar="NAME", help="Store as another form of the document: html, text, ….")
@click.option("--content-type", metavar="TYPE", help="The media type.  [default: by the suffix]")
@click.option("--run", metavar="ID", help="The run that this belongs to.")
@click.option("--move", is_flag=True, help="Remove each file once it is stored.")
@click.option(
    "--from", "mapping", type=FILE_NAME, metavar="MAPPING", help="Rows that name files and their keys; - for stdin."
)
@click.pass_obj
def add(
    invocation: Invocation, /, files: tuple[str, ...], *, mapping: str | None, move: bool, **facts: str | None
) -> ExitStatus:
    """Store each FILE, or what the rows of MAPPING name, and register it.

    The bytes are copied below the root that --root or the configuration names. MAPPING is CSV with a header, or JSON
    lines, with the columns file and artifact_id, and url, resolver, variant, content_type, run where they are known;
    the options stand for what a row leaves open. Other columns are refused. A row that cannot be stored is reported
    with its line, and the others go on; the exit status is then 1.

    \b
    Example:
      kvcatalog add a.pdf --artifact-id doi:10.1234/a --url https://example.org/a
      kvcatalog --root s3://bucket/docs add --from found.csv --resolver crawl
    """  # noqa: D301
    if bool(files) == bool(mapping):
        raise click.UsageError("give FILEs or --from MAPPING")
    if files and not facts["artifact_id"]:
        raise click.UsageError("FILEs need --artifact-id")
    if len(files) > 1 and (facts["url"] or facts["variant"]):
        raise click.UsageError("several FILEs cannot have one --url or --variant; name them in a mapping")
    given = {name: value for name, value in facts.items() if value}
    config = invocation.load_config()
    if move:  # what lies there already is read before a file is removed for it
        read_back = config.catalog.model_copy(update={"verify_on_register": True})
        config = config.model_copy(update={"catalog": read_back})
    counts: Counter[str] = Counter()
    sums: Counter[str] = Counter()

    def rows(finalize: Finalize) -> Iterator[dict[str, Any]]:
        for addition in _from_mapping(mapping, given) if mapping else _from_arguments(files, given):
            row = _added(addition, finalize, move=move)
            counts[row["outcome"]] += 1
            sums.update(files=1, bytes=row["bytes"] or 0)
            progress(sums)
            yield row

    interrupted = False
    try:
        with (
            open_services(config, command="add") as services,
            amount_progress(
                "{files} files",
                "files",
                total=lambda: rows_expected(mapping) if mapping else len(files),
                is_wanted=invocation.verbosity >= 0,
            ) as progress,
        ):
            invocation.output.rows(rows(services.finalize), _COLUMNS)
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        done = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "nothing was added"
        invocation.note(done + ("; run it again for the rest" if interrupted else ""))
    return ExitStatus.FINDINGS if counts["error"] else ExitStatus.DONE


def _from_arguments(files: tuple[str, ...], given: Mapping[str, str]) -> Iterator[_Addition]:
    for file in files:
        yield _Addition({**given, "file": file})


def _from_mapping(mapping: str, given: Mapping[str, str]) -> Iterator[_Addition]:
    required = ("file",) if "artifact_id" in given else ("file", "artifact_id")
    for row in read_rows(mapping, required=required):
        yield _Addition({**given, **row.values}, row.line, row.error)


def _added(addition: _Addition, finalize: Finalize, *, move: bool) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_COLUMNS)
    row.update(file=addition.facts.get("file"), line=addition.line, outcome="error", reason=addition.error)
    if addition.error:
        return row
    try:
        outcome = _stored(addition.facts, finalize, move=move)
    except (ValueError, NotFoundError) as error:
        # InvalidValueError and UnsafePathError too, and names that no file can have.
        row["reason"] = str(error)
    except OSError as error:
        row["reason"] = error.strerror or str(error)
    else:
        row["storage_uri"] = outcome.storage_uri
        row["reason"] = outcome.reason
        if outcome.ok:
            row.update(outcome=outcome.registration or "stored", bytes=outcome.meta["bytes"])
            row.update(sha256=outcome.meta["sha256"], id=None if outcome.record is None else outcome.record.id)
    return row


def _stored(facts: Mapping[str, str], finalize: Finalize, *, move: bool) -> DownloadOutcome:
    file = facts["file"]
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise InvalidValueError("file", f"{file!r} is no regular file")
    key = {
        "artifact_id": facts["artifact_id"],
        "source_url": facts.get("url") or file_uri(file),
        "resolver": facts["resolver"],
        "content_type": facts.get("content_type") or MimeTypes().guess_type(absolute_path(file))[0],
        "run_id": facts.get("run"),
        "variant": facts.get("variant"),
    }
    if move:
        return finalize(file, **key)
    with open(file, "rb", buffering=0) as stream:
        return finalize(stream, **key)
