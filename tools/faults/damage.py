"""Damage the database file of a catalog in every way that comes to mind, and see what is read from it.

Each damaged file is opened in a child, since the engine may die of it: everything is read through the public API and
held against what was ever stored. A record that never was, a hang, or a death where a file was merely cut short is a
violation; an error of ours, the right answers, or those of an earlier commit (its meta page is as good as the last) are
not. Where less or something outdated is found without an error, and where a child died, the audit, which reads in a
process of its own, must tell.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import struct
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Literal

from msgspec import structs

from kvcatalog import open_catalog, storage
from kvcatalog.audit import examine
from kvcatalog.errors import CatalogError
from kvcatalog.kv.preflight import DATA_FILE, LOCK_FILE
from kvcatalog.store.lmdb_catalog import LmdbCatalog
from tools.faults.copies import taken_for_originals
from tools.faults.planting import plant
from tools.faults.report import Report
from tools.faults.workload import Key, Place, Workload, carry_out

PAGE = 4096
HANG_SECONDS = 20
STEPS = 120

Outcome = Literal["right", "earlier", "refused", "less", "wrong", "died", "hung"]
Answers = dict[object, object]


def mutated(image: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Return a kind of damage and the damaged file."""
    data = bytearray(image)
    pages = len(data) // PAGE
    kind = chance.choice(("bit", "bytes", "zeros", "swap", "copy", "cut", "meta", "sector", "old page", "pointer"))
    page, other = chance.randrange(2, pages), chance.randrange(2, pages)
    match kind:
        case "bit":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "bytes":
            place = chance.randrange(len(data) - 16)
            data[place : place + 16] = chance.randbytes(16)
        case "zeros":
            data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        case "swap":
            data[page * PAGE : (page + 1) * PAGE] = image[other * PAGE : (other + 1) * PAGE]
            data[other * PAGE : (other + 1) * PAGE] = image[page * PAGE : (page + 1) * PAGE]
        case "copy" | "old page":
            data[page * PAGE : (page + 1) * PAGE] = image[other * PAGE : (other + 1) * PAGE]
            if kind == "old page":  # with the number that belongs there, so that the engine has nothing to doubt
                data[page * PAGE : page * PAGE + 8] = struct.pack("<Q", page)
        case "cut":
            del data[chance.randrange(len(data)) :]
        case "meta":
            data[chance.choice((0, PAGE)) + chance.randrange(200)] ^= chance.randrange(1, 256)
        case "sector":
            place = 512 * chance.randrange(len(data) // 512)
            data[place : place + 512] = chance.choice((bytes(512), chance.randbytes(512)))
        case _:
            place = page * PAGE + 16 + 2 * chance.randrange(40)
            data[place : place + 2] = struct.pack("<H", chance.randrange(PAGE))
    return kind, bytes(data)


def answers(catalog: LmdbCatalog, keys: list[Key], digests: list[str]) -> Answers:
    """Ask everything: walks, lookups of each kind, figures."""
    found: Answers = {}
    for record in catalog.iter_records():
        if ("id", record.id) in found:
            found["twice", record.id] = True
        found["id", record.id] = record
        found["variants", record.id] = tuple(catalog.get_variants(record.id))
        found["conflicts", record.id] = tuple(catalog.get_conflicts(record.id))
    for key in keys:
        artifact_id, source_url, resolver = key
        found["key", key] = catalog.get(artifact_id=artifact_id, source_url=source_url, resolver=resolver)
        found["artifact", artifact_id] = tuple(catalog.get_by_artifact(artifact_id))
    for digest in digests:
        found["digest", digest] = tuple(catalog.get_by_sha256(digest))
    found["duplicates"] = tuple(catalog.find_duplicates(variants=True))
    # How large the file is has nothing to do with what it holds.
    found["stats"] = structs.replace(catalog.stats(), file_bytes=0, used_bytes=0)
    found["journal"] = tuple(catalog.journal())
    return found


class Damage:
    """A sound file, and what was to be read from it after each step, the last one first."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder / "sound")
        self.place.folder.mkdir()
        self.victim = folder / "victim"
        self.victim.mkdir()
        workload = Workload("damaged", 5)
        self.keys: list[Key] = []
        self.truths: list[Answers] = []
        with self.place.catalog() as catalog:
            for _ in range(STEPS):
                step = workload.next()
                self.keys += [key for key, _ in step.changes if key not in self.keys]
                carry_out(step, catalog, self.place)
                workload.taken(step)
                self.truths.insert(0, self.read(catalog, workload))
            self.digests = sorted(workload.numbers)
        storage._open.clear()
        self.image = Path(self.place.path, DATA_FILE).read_bytes()

    def read(self, catalog: LmdbCatalog, workload: Workload) -> Answers:
        return answers(catalog, self.keys, sorted(workload.numbers))

    def classified(self) -> tuple[Outcome, str]:
        """Open the victim, read it all, and say what that was; in a child."""
        try:
            with open_catalog(self.victim, create=False) as catalog:
                assert isinstance(catalog, LmdbCatalog)
                found = answers(catalog, self.keys, self.digests)
        except CatalogError as error:
            return "refused", type(error).__name__
        except Exception as error:  # noqa: BLE001 - that, too, is an answer, and none of ours
            return "wrong", "".join(traceback.format_exception(error)[-9:])
        if found == self.truths[0]:
            return "right", ""
        if {**self.truths[0], **self.truths[1]}.keys() >= found.keys() and all(
            found.get(question) == answer for question, answer in self.truths[1].items()
        ):
            return "earlier", ""
        for question, answer in found.items():
            if question not in {"stats", "duplicates"} and not self.was_true(question, answer):
                return "wrong", f"{question}: {answer}"
        return "less", ""

    def was_true(self, question: object, answer: object) -> bool:
        """Tell whether an answer holds nothing that was never stored.

        A page that was once written is sound for ever, so what is outdated may come back.
        """
        if isinstance(answer, tuple):
            return all(any(each in (truth.get(question) or ()) for truth in self.truths) for each in answer)  # type: ignore[operator]
        return answer is None or any(truth.get(question) == answer for truth in self.truths)

    def try_one(self, chance: random.Random, report: Report) -> None:
        kind, data = mutated(self.image, chance)
        (self.victim / DATA_FILE).write_bytes(data)
        with suppress(FileNotFoundError):
            (self.victim / LOCK_FILE).unlink()
        outcome, text = self.in_child()
        report.cases += 1
        report.checked += len(self.truths[0])
        report.count(outcome)
        where = f"{kind}, case {report.cases}"
        if outcome in {"wrong", "hung"} or (outcome == "died" and kind == "cut"):
            report.wrong(where, [f"{outcome}: {text}"])
        if outcome in {"less", "died"}:
            try:
                told = any(True for _ in examine(self.victim))
            except CatalogError:
                told = True
            if not told and kind == "old page" and outcome == "less":
                report.count("outdated, untold")
            elif not told:
                report.wrong(where, [f"{outcome}, and the audit does not tell"])

    def in_child(self) -> tuple[Outcome, str]:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the engine says when it dies
            try:
                os.write(writing, "\0".join(self.classified()).encode()[:PAGE])
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            is_there = bool(select.select([pipe], [], [], HANG_SECONDS)[0])
            answer = pipe.read() if is_there else b""
        if not is_there:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not is_there:
            return "hung", ""
        outcome, _, text = answer.decode().partition("\0")
        return ("died", "") if not outcome else (outcome, text)  # type: ignore[return-value]


@taken_for_originals()
def run(files: int, *, seed: int = 0, mistake: str = "") -> Report:
    """Try a number of damaged files."""
    started = time.monotonic()
    report = Report("damage")
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        damage = Damage(Path(name))
        plant(mistake)
        for _ in range(files):
            damage.try_one(chance, report)
        shutil.rmtree(damage.victim)
    report.seconds = time.monotonic() - started
    return report
