"""A reader in a process of its own: `python hot_feeder.py FD KEYS SEED PAGE` attaches and checks answers until told to stop.

Row `offset` of the oracle table has key `k<offset % KEYS>` and values that follow from its offset, so every answer can be
judged from its own end and seam, without talking to the writer. Prints one JSON line: counts, and the first wrong answer.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pyarrow as pa

from proxist.errors import Unavailable
from proxist.hot.ops import HotAsof, HotFirstBy, HotLastBy, HotPart, HotScan, Probes
from proxist.hot.reader import HotReader
from proxist.model.table import TableSpec, parse_spec

TIME_STEP = 10


def oracle_spec() -> TableSpec:
    return parse_spec(
        {
            "name": "oracle", "time": "ts", "key": "sym", "seq": "id", "hot_bytes": "16MiB",
            "columns": [
                {"name": "sym", "type": "string"}, {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
                {"name": "id", "type": "uint64"}, {"name": "value", "type": "double"},
                {"name": "maybe", "type": "int32", "nullable": True}, {"name": "side", "type": "string"},
                {"name": "raw", "type": "binary"}, {"name": "levels", "type": "list<item: double>"},
            ],
        }
    )  # fmt: skip


def times_of(offsets: Any, late: int) -> Any:
    """Nearly in order: every `late`-th row comes with the time of 50 rows before it."""
    offsets = np.asarray(offsets, np.int64)
    return (offsets - np.where(offsets % late == late - 1, 50, 0)) * TIME_STEP


def oracle_batch(first: int, count: int, keys: int, late: int) -> pa.RecordBatch:
    offsets = np.arange(first, first + count)
    spec = oracle_spec()
    sizes = offsets % 5
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    flat = np.repeat(offsets, sizes)
    columns = [
        pa.array([f"k{o % keys}" for o in offsets]), pa.array(times_of(offsets, late)).cast(pa.timestamp("ns", tz="UTC")),
        pa.array(offsets.astype(np.uint64)), pa.array(offsets * 0.5),
        pa.array(offsets.astype(np.int32), mask=offsets % 7 == 0), pa.array([f"side{o % 13}" for o in offsets]),
        pa.array([b"%d" % o * int(o % 4) for o in offsets], pa.binary()),
        pa.ListArray.from_arrays(pa.array(bounds), pa.array(flat.astype(np.float64))),
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, schema=spec.schema)


def check_values(rows: pa.RecordBatch, keys: int, late: int) -> None:
    """Every column of every row is what its offset says."""
    matched = rows.filter(rows.column("_offset").is_valid())
    offsets = matched.column("_offset").to_numpy()
    if not len(offsets):
        return
    assert np.array_equal(matched.column("ts").view(pa.int64()).to_numpy(), times_of(offsets, late)), "time"
    assert np.array_equal(matched.column("id").to_numpy(), offsets), "seq"
    assert np.array_equal(matched.column("value").to_numpy(), offsets * 0.5), "value"
    assert np.array_equal(matched.column("maybe").is_null().to_numpy(zero_copy_only=False), offsets % 7 == 0), "null"
    assert matched.column("sym").to_pylist() == [f"k{o % keys}" for o in offsets], "key"
    assert matched.column("side").to_pylist() == [f"side{o % 13}" for o in offsets], "side"
    assert matched.column("raw").to_pylist() == [b"%d" % o * int(o % 4) for o in offsets], "raw"
    assert matched.column("levels").to_pylist() == [[float(o)] * int(o % 5) for o in offsets], "levels"


def last_offset(key: int, at: int, end: int, keys: int, late: int) -> int | None:
    """The last in Order of the rows of `key` below `end` with time <= at: within 200 rows of where it should be."""
    newest = min(end - 1, at // TIME_STEP + 51)
    near = np.arange(max(0, newest - 100 * keys - 200), newest + 1)
    near = near[(near % keys == key) & (times_of(near, late) <= at)]
    if not len(near):
        return None
    return int(near[np.lexsort((near, times_of(near, late)))[-1]])


class Checker:
    def __init__(self, reader: HotReader, keys: int, late: int, seed: int) -> None:
        self.reader, self.keys, self.late = reader, keys, late
        self.rng = np.random.default_rng(seed)
        columns = ("value", "id", "ts", "maybe")
        self.latest = reader.prepare_last_by(tuple(f"k{k}" for k in range(keys)), columns)
        self.probed = self.rng.integers(0, keys, 50)
        self.as_of = reader.prepare_asof(tuple(f"k{k}" for k in self.probed), columns)

    def ask(self) -> None:
        """One random question; AssertionError where the answer is wrong."""
        kinds = [
            self.last_all, self.last_clamped, self.asof, self.scan_tail, self.first, self.prepared_last, self.prepared_asof,
        ]  # fmt: skip
        kinds[int(self.rng.integers(0, len(kinds)))]()

    def last_all(self) -> None:
        part = self.reader.run(HotLastBy())
        check_values(part.rows, self.keys, self.late)
        self.check_last(part, 2**62)

    def last_clamped(self) -> None:
        end = self.reader.marks().end
        part = self.reader.run(HotLastBy(end=max(0, end - int(self.rng.integers(0, 3000)))))
        check_values(part.rows, self.keys, self.late)
        self.check_last(part, 2**62)

    def check_last(self, part: HotPart, at: int) -> None:
        got = {int(o) % self.keys: int(o) for o in part.rows.column("_offset").to_numpy()}
        cold = set(range(self.keys)) if part.cold.keys is None else {int(k[1:]) for k in part.cold.keys}
        for key in range(self.keys):
            if key not in cold:
                assert got.get(key) == last_offset(key, at, part.end, self.keys, self.late), ("last", key, part.end)

    def asof(self) -> None:
        marks = self.reader.marks()
        count = 50
        keys = self.rng.integers(0, self.keys, count)
        times = self.rng.integers(max(0, marks.floor - 1000), marks.end + 100, count) * TIME_STEP
        part = self.reader.run(HotAsof(), Probes(pa.array([f"k{k}" for k in keys]), times))
        check_values(part.rows.append_column("sym", pa.array([f"k{k}" for k in keys])), self.keys, self.late)
        undecided = set() if part.cold.probes is None else set(part.cold.probes.tolist())
        offsets = part.rows.column("_offset").to_pylist()
        for i in range(count):
            if i not in undecided:
                expected = last_offset(int(keys[i]), int(times[i]), part.end, self.keys, self.late)
                assert offsets[i] == expected, ("asof", i, offsets[i], expected)

    def prepared_last(self) -> None:
        self.reader.read(self.latest)
        if not self.latest.undecided:
            self.check_prepared(self.latest, range(self.keys), [2**62] * self.keys)

    def prepared_asof(self) -> None:
        marks = self.reader.marks()
        times = self.rng.integers(max(0, marks.floor - 1000), marks.end + 100, len(self.probed)) * TIME_STEP
        times.flags.writeable = False
        self.reader.read(self.as_of, times)
        if not self.as_of.undecided:
            self.check_prepared(self.as_of, self.probed.tolist(), times.tolist())

    def check_prepared(self, prepared: Any, keys: Any, times: list[int]) -> None:
        """Every array of every row is what the offset says that the row must have; a row's id is its offset."""
        offsets = [
            last_offset(key, at, prepared.end, self.keys, self.late) for key, at in zip(keys, times, strict=True)
        ]
        found = prepared.slots >= 0
        assert found.tolist() == [offset is not None for offset in offsets], "prepared: found"
        wanted = np.array([offset or 0 for offset in offsets])[found]
        arrays = {name: array[found] for name, array in prepared.arrays.items()}
        assert np.array_equal(arrays["id"], wanted), ("prepared: id", prepared.end)
        assert np.array_equal(arrays["value"], wanted * 0.5), "prepared: value"
        assert np.array_equal(arrays["ts"].view(np.int64), times_of(wanted, self.late)), "prepared: time"
        has = prepared.valid["maybe"][found]
        assert np.array_equal(has, wanted % 7 != 0), "prepared: null"
        assert np.array_equal(arrays["maybe"][has], wanted[has]), "prepared: nullable"

    def scan_tail(self) -> None:
        marks = self.reader.marks()
        start = max(marks.end - int(self.rng.integers(1, 4000)), marks.floor) * TIME_STEP
        part = self.reader.run(HotScan(from_ns=start))
        check_values(part.rows, self.keys, self.late)
        inside = np.arange(part.seam, part.end)
        inside = inside[times_of(inside, self.late) >= start]
        expected = inside[np.lexsort((inside, inside, times_of(inside, self.late)))]
        assert np.array_equal(part.rows.column("_offset").to_numpy(), expected), "scan"

    def first(self) -> None:
        marks = self.reader.marks()
        start = int(self.rng.integers(marks.floor, marks.end + 1)) * TIME_STEP
        part = self.reader.run(HotFirstBy(at_ns=start))
        check_values(part.rows, self.keys, self.late)
        got = {int(o) % self.keys: int(o) for o in part.rows.column("_offset").to_numpy()}
        cold = set(range(self.keys)) if part.cold.keys is None else {int(k[1:]) for k in part.cold.keys}
        near = np.arange(start // TIME_STEP, min(part.end, start // TIME_STEP + 100 * self.keys + 200))
        near = near[times_of(near, self.late) >= start]
        for key in set(range(self.keys)) - cold:
            of_key = near[near % self.keys == key]
            expected = int(of_key[np.lexsort((of_key, times_of(of_key, self.late)))[0]]) if len(of_key) else None
            assert got.get(key) == expected, ("first", key, start, part.end)


def main() -> None:
    fd, keys, late, seed, page = (int(a) if a.isdigit() else a for a in sys.argv[1:6])
    reader = HotReader.attach(int(fd), str(page) if page != "-" else None)
    checker = Checker(reader, int(keys), int(late), int(seed))
    print("ready", flush=True)
    answers = unavailable = 0
    wrong = None
    end = ""
    try:
        while True:
            try:
                checker.ask()
                answers += 1
            except Unavailable as error:
                if error.details["reason"] != "evicting":
                    end = str(error.details["reason"])
                    break
                unavailable += 1
    except AssertionError as error:
        wrong = repr(error)
    print(json.dumps({"answers": answers, "unavailable": unavailable, "wrong": wrong, "end": end}), flush=True)


if __name__ == "__main__":
    main()
