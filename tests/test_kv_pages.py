"""What can be told of pages that lie where they do not belong."""

from __future__ import annotations

import os
import random
import struct
import threading
from pathlib import Path

import pytest

from kvcatalog.kv import preflight
from kvcatalog.kv.environment import Environment, open_environment
from kvcatalog.kv.pages import Layout, Moment, Wrong, _Walk, wrong_pages
from kvcatalog.kv.paging import pages_out_of_place
from tests.support import ROWS, SETS, TABLES, made, put_rows

PAGE = 4096


def change(environment: Environment, chance: random.Random) -> None:
    """Put and delete rows of all sizes, and sets that are small, large and larger than a page."""
    with environment.write() as transaction:
        for _ in range(150):
            number = chance.randrange(600)
            if chance.random() < 0.3:
                transaction.delete(ROWS, b"row %06d" % number)
            else:
                transaction.put(ROWS, b"row %06d" % number, b"v" * chance.choice([0, 10, 300, 1500, 9000]))
            transaction.put(SETS, b"%d" % chance.choice([1, 2, number % 50, number]), number.to_bytes(8, "big"))


@pytest.fixture
def data(engine_kind: int, folder: Path) -> Path:
    """The file of an environment that was changed often and is closed."""
    environment = made(folder)
    chance = random.Random(1)
    for _ in range(12):
        change(environment, chance)
    environment.close()
    return folder / preflight.DATA_FILE


def moment(path: Path) -> tuple[Layout, Moment]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        commit = preflight._newest_meta(str(path), descriptor)[1].transaction
        found = preflight.moment_of(str(path), descriptor, commit)
    finally:
        os.close(descriptor)
    assert found is not None
    return found


def wrong(path: Path, image: bytes) -> list[Wrong]:
    return list(wrong_pages(lambda start, count: image[start : start + count], *moment(path)))


def in_use(path: Path, image: bytes, *, kinds: tuple[int, ...] = (1, 2, 4, 0x22)) -> list[int]:
    """Return the pages that the trees reach, of some kinds; further pages of a long value are none."""
    layout, of = moment(path)
    walk = _Walk(lambda start, count: image[start : start + count], layout, of.last_page)
    assert [*walk._tree("free pages", of.free), *walk._tree("tables", of.tables)] == []
    reached = [number for number, is_reached in enumerate(walk._reached) if is_reached]
    return [
        number
        for number in reached
        if struct.unpack_from("<Q", image, number * PAGE)[0] == number
        and struct.unpack_from("<H", image, number * PAGE + layout.header_bytes - 6)[0] in kinds
    ]


def test_a_sound_file_is_sound_after_every_commit_and_no_page_is_lost(engine_kind: int, folder: Path) -> None:
    environment = made(folder)
    chance = random.Random(2)
    for _ in range(10):
        change(environment, chance)
        assert list(pages_out_of_place(environment)) == []
        image = (folder / preflight.DATA_FILE).read_bytes()
        layout, of = moment(folder / preflight.DATA_FILE)
        walk = _Walk(lambda start, count, image=image: image[start : start + count], layout, of.last_page)  # type: ignore[misc]
        assert list(walk.wrong(of)) == []
        assert all(walk._reached[2:])  # what is neither reached nor free would be lost
    environment.close()


def test_others_may_write_meanwhile(environment: Environment) -> None:
    ended = threading.Event()

    def write() -> None:
        chance = random.Random(3)
        while not ended.is_set():
            change(environment, chance)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert [found for _ in range(10) for found in pages_out_of_place(environment)] == []
    finally:
        ended.set()
        writer.join()


def test_of_any_two_pages_that_changed_places_it_tells(data: Path) -> None:
    image = data.read_bytes()
    pages, chance = in_use(data, image), random.Random(4)
    for _ in range(60):
        one, other = chance.choice(pages), chance.randrange(2, len(image) // PAGE)
        if one != other:
            swapped = bytearray(image)
            swapped[one * PAGE : (one + 1) * PAGE] = image[other * PAGE : (other + 1) * PAGE]
            swapped[other * PAGE : (other + 1) * PAGE] = image[one * PAGE : (one + 1) * PAGE]
            assert wrong(data, bytes(swapped)), (one, other)


def test_a_leaf_in_the_place_of_another_is_told_by_its_keys(data: Path) -> None:
    image = data.read_bytes()
    layout, _ = moment(data)
    leaves = [number for number in in_use(data, image, kinds=(2,)) if keys_of(image, number, layout)[:4] == b"row "]
    chance = random.Random(5)
    for _ in range(40):
        one, other = chance.sample(leaves, 2)
        copied = bytearray(image)
        copied[one * PAGE : (one + 1) * PAGE] = image[other * PAGE : (other + 1) * PAGE]
        copied[one * PAGE : one * PAGE + 8] = one.to_bytes(8, "little")
        assert wrong(data, bytes(copied)), (one, other)


def keys_of(image: bytes, number: int, layout: Layout) -> bytes:
    """Return the first key of a leaf."""
    base = layout.header_bytes if layout.header_bytes > 16 else 0
    (offset,) = struct.unpack_from("<H", image, number * PAGE + layout.header_bytes)
    node = number * PAGE + base + offset
    (size,) = struct.unpack_from("<H", image, node + 6)
    return image[node + 8 : node + 8 + size]


def test_a_page_in_use_that_is_called_free_is_told(data: Path) -> None:
    image = data.read_bytes()
    layout, of = moment(data)
    pages = in_use(data, image, kinds=(2, 0x22))
    (root,) = struct.unpack_from("<Q", of.free, 40)
    changed = bytearray(image)
    base = layout.header_bytes if layout.header_bytes > 16 else 0
    (offset,) = struct.unpack_from("<H", image, root * PAGE + layout.header_bytes)
    value = root * PAGE + base + offset + 8 + 8  # behind the first node and its key
    assert struct.unpack_from("<Q", image, value)[0]  # it has a number of pages, and the first of them
    struct.pack_into("<Q", changed, value + 8, pages[-1])
    assert [table for table, _ in wrong(data, bytes(changed))] == ["free pages"]


def test_damage_to_any_part_of_a_header_is_told_or_harmless(data: Path) -> None:
    image = data.read_bytes()
    layout, _ = moment(data)
    chance = random.Random(6)
    told = 0
    for number in in_use(data, image, kinds=(1, 2)):
        changed = bytearray(image)
        place = number * PAGE + chance.choice([0, 1, layout.header_bytes - 6, layout.header_bytes - 1])
        changed[place] ^= 0x80
        told += bool(wrong(data, bytes(changed)))  # and nothing else is raised
    assert told == len(in_use(data, image, kinds=(1, 2)))


def test_trees_that_lead_round_in_circles_end(data: Path) -> None:
    image = data.read_bytes()
    layout, _ = moment(data)
    base = layout.header_bytes if layout.header_bytes > 16 else 0
    for number in in_use(data, image, kinds=(1,)):
        changed = bytearray(image)
        (offset,) = struct.unpack_from("<H", image, number * PAGE + layout.header_bytes)
        struct.pack_into("<HH", changed, number * PAGE + base + offset, number & 0xFFFF, number >> 16)
        assert any("in use twice" in text for _, text in wrong(data, bytes(changed)))


def test_the_environment_that_was_looked_at_still_works(data: Path) -> None:
    environment = open_environment(data.parent, TABLES)
    walk = pages_out_of_place(environment)
    assert list(walk) == []
    put_rows(environment, [(b"more", b"x")])
    environment.close()
