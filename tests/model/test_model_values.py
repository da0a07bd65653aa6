"""The values of the model: what is written can be read back, what is wrong is refused by name."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxist.errors import InvalidArgument, UnsupportedType, error_classes, from_json
from proxist.model.ids import Epoch, Offset, ShardId, epoch_of_log, log_id, shard_of_log
from proxist.model.query import Agg, Asof, Bars, LastBy, Scan, Window, parse_query
from proxist.model.slots import key_slot, slots_of
from proxist.model.table import parse_spec
from proxist.model.token import Mark, Token, parse_token
from proxist.model.types import accepts, parse_type
from proxist.model.units import format_time_ns, parse_bytes, parse_duration_ns, parse_time_ns

marks = st.builds(Mark, st.integers(0, 2**24 - 1).map(Epoch), st.integers(0, 2**63 - 1).map(Offset))
tokens = st.builds(Token, st.dictionaries(st.integers(0, 2**40 - 1).map(ShardId), marks, max_size=20))

TRADES = {
    "name": "trades",
    "time": "ts",
    "key": "symbol",
    "seq": "trade_id",
    "columns": [
        {"name": "ts", "type": "timestamp[ns, tz=UTC]"},
        {"name": "symbol", "type": "string"},
        {"name": "trade_id", "type": "uint64"},
        {"name": "price", "type": "double", "nullable": True},
    ],
}


@given(tokens)
def test_a_token_survives_its_text(token: Token) -> None:
    assert parse_token(str(token)) == token


@given(tokens, st.data())
def test_a_token_that_was_altered_is_refused(token: Token, data: st.DataObject) -> None:
    text = str(token)
    at = data.draw(st.integers(4, len(text) - 1))
    other = data.draw(st.sampled_from("ABCwxyz0189-_").filter(lambda c: c != text[at]))
    changed = text[:at] + other + text[at + 1 :]
    try:
        parsed = parse_token(changed)
    except InvalidArgument:
        return
    assert parsed == token, "only the unused low bits of the last base64 character may differ"


@pytest.mark.parametrize("text", ["", "px1.", "px2.AAAA", "nonsense", None, 7, "px1.@@@@"])
def test_what_is_not_a_token_is_refused_by_name(text: object) -> None:
    with pytest.raises(InvalidArgument, match="is not a token"):
        parse_token(text)


def test_merged_tokens_keep_the_later_mark_of_each_shard() -> None:
    a = Token({ShardId(1): Mark(Epoch(1), Offset(9)), ShardId(2): Mark(Epoch(5), Offset(1))})
    b = Token({ShardId(1): Mark(Epoch(2), Offset(9)), ShardId(3): Mark(Epoch(1), Offset(1))})
    assert a.merge(b).marks == {**a.marks, **b.marks}


@given(st.integers(0, 2**40 - 1), st.integers(0, 2**24 - 1))
def test_a_log_id_names_its_shard_and_epoch(shard: int, epoch: int) -> None:
    log = log_id(ShardId(shard), Epoch(epoch))
    assert (shard_of_log(log), epoch_of_log(log)) == (shard, epoch)


@given(st.integers(-(2**63), 2**63 - 1).filter(lambda ns: ns // 10**9 >= -62135596800))
def test_times_are_exact_to_the_nanosecond(time_ns: int) -> None:
    assert parse_time_ns(format_time_ns(time_ns), "t") == time_ns


def test_times_take_offsets_and_integers_and_refuse_floats() -> None:
    assert parse_time_ns("2024-08-09T02:00:00.5+02:00", "at") == parse_time_ns("2024-08-09T00:00:00.5Z", "at")
    assert parse_time_ns(17, "at") == 17
    for wrong in (1.5, "yesterday", "2024-13-01T00:00:00Z", True, 2**63):
        with pytest.raises(InvalidArgument, match="`at`"):
            parse_time_ns(wrong, "`at`")


def test_durations_and_sizes_have_units() -> None:
    assert parse_duration_ns("1.5s", "d") == 1_500_000_000
    assert parse_duration_ns("20ms", "d") == 20_000_000
    assert parse_bytes("16MiB", "b") == 16 * 2**20
    for wrong in ("20 parsecs", -1, None, "ms"):
        with pytest.raises(InvalidArgument, match=r"`flush\.age`"):
            parse_duration_ns(wrong, "`flush.age`")


def test_a_spec_survives_its_json() -> None:
    spec = parse_spec(TRADES)
    assert parse_spec(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.order == ("ts", "trade_id")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"name": "9x"}, "'9x'"),
        ({"time": "when"}, "'when'"),
        ({"key": "price"}, "'price'"),
        ({"durability": "paper"}, "'paper'"),
        ({"hot_window": "long"}, "'long'"),
        ({"shards": 0}, "shards"),
        ({"colour": "red"}, "'colour'"),
        ({"seq": None, "dedup": "seq"}, "dedup"),
        ({"flush": {"row": 1}}, "'row'"),
        ({"columns": TRADES["columns"] + [{"name": "_offset", "type": "int64"}]}, "reserved"),
        ({"columns": TRADES["columns"] + [{"name": "l", "type": "list<item: double>", "nullable": True}]}, "null"),
        ({"columns": TRADES["columns"] * 2}, "twice"),
    ],
)
def test_a_wrong_spec_is_refused_by_name(change: dict[str, object], names: str) -> None:
    with pytest.raises(InvalidArgument, match=names):
        parse_spec({**TRADES, **change})


@pytest.mark.parametrize("name", ["map<string, int8>", "list<item: string>", "decimal128(39, 2)", "struct<>", "money"])
def test_an_unsupported_type_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedType, match="column 'x'"):
        parse_type(name, "column 'x'")


def test_every_type_is_written_as_pyarrow_prints_it() -> None:
    for type_ in (pa.decimal128(18, 4), pa.list_(pa.float64()), pa.timestamp("us"), pa.time64("ns"), pa.bool_()):
        assert parse_type(str(type_), "x").equals(type_)


def test_other_encodings_of_a_string_are_taken() -> None:
    for incoming in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        assert accepts(pa.string(), incoming)
    assert not accepts(pa.string(), pa.binary())
    assert not accepts(pa.float64(), pa.float32())


def test_the_slot_of_a_key_never_changes() -> None:
    assert [key_slot(key, 8) for key in ("BTCUSDT", "ETHUSDT", "", "ü")] == [5, 7, 2, 6]


def test_the_slots_of_a_column_are_those_of_its_keys_in_every_encoding() -> None:
    names = pa.array([f"S{n}" for n in range(128)])
    plain = pa.array(["BTCUSDT", None, "", "ü", "BTCUSDT"])
    small = pa.DictionaryArray.from_arrays(pa.array([0, None, 127], pa.int8()), names)
    for keys in (plain, plain.slice(1, 3), plain.dictionary_encode(), small, names.slice(0, 0)):
        for slots in (1, 2, 8):
            expected = [0 if key is None else key_slot(key, slots) for key in keys.to_pylist()]
            assert slots_of(keys, slots).tolist() == expected  # hashed
            assert slots_of(keys, slots).tolist() == expected  # remembered


def test_a_query_has_exactly_one_verb() -> None:
    for wrong in ({}, {"sql": "SELECT 1", "scan": {"table": "t"}}, [], "{", {"sql": ""}, {"windw": {}}):
        with pytest.raises(InvalidArgument):
            parse_query(wrong)


def test_a_query_is_read_with_its_defaults() -> None:
    query = parse_query({"last_by": {"table": "trades", "at": "1970-01-01T00:00:01Z"}, "id": 4})
    assert query.verb == LastBy("trades", None, None, 10**9)  # type: ignore[arg-type]
    assert (query.completeness, query.hot_path, query.id) == ("strict", "auto", 4)
    asof = parse_query({"asof": {"left": {"probe": True}, "right": {"table": "quotes"}, "tolerance": "10ms"}}).verb
    assert asof == Asof(None, "quotes", tolerance_ns=10_000_000)
    left = parse_query({"asof": {"left": {"table": "trades", "from": 5}, "right": {"table": "quotes"}}}).verb
    assert isinstance(left, Asof)
    assert left.left == Scan("trades", from_ns=5)  # type: ignore[arg-type]
    window = parse_query({"window": {"table": "t", "aggs": [{"fn": "avg", "value": "price"}], "range": "5m"}}).verb
    assert window == Window("t", (Agg("avg", "price", name="avg_price"),), range_ns=300 * 10**9)
    bars = parse_query({"bars": {"table": "t", "aggs": [{"fn": "count", "as": "n"}], "every": "1s"}}).verb
    assert bars == Bars("t", (Agg("count", name="n"),), 10**9, fill="none")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"scan": {"table": "t", "limit": -1}}, "limit"),
        ({"scan": {"table": "t", "form": 1}}, "'form'"),
        ({"last_by": {"table": "t", "keys": "BTC"}}, "keys"),
        ({"last_by": {"table": "t", "at": 1.5}}, "at"),
        ({"asof": {"left": {"probe": True}, "right": {"table": "t"}, "direction": "sideways"}}, "sideways"),
        ({"sql": "SELECT 1", "hot_path": "warp"}, "warp"),
        ({"sql": "SELECT 1", "as_of": "x"}, "token"),
        ({"window": {"table": "t", "aggs": [{"fn": "count"}]}}, "neither `range` nor `rows`"),
        ({"window": {"table": "t", "aggs": [{"fn": "count"}], "rows": 1, "range": "1s"}}, "both `range` and `rows`"),
        ({"window": {"table": "t", "aggs": [{"fn": "count"}], "rows": 0}}, "`rows` of window is 0.*from 1"),
        ({"window": {"table": "t", "aggs": [{"fn": "count"}], "range": 0}}, "`range` of window is 0.*from 1 ns"),
        ({"window": {"table": "t", "aggs": [{"fn": "open", "value": "p"}], "rows": 1}}, "`fn`.*window.*one of count"),
        ({"window": {"table": "t", "rows": 1}}, "`aggs` of window is null"),
        ({"window": {"table": "t", "aggs": [], "rows": 1}}, "`aggs` of window is .* at least one"),
        ({"window": {"table": "t", "aggs": [{"fn": "avg"}], "rows": 1}}, "`value` .*avg"),
        ({"window": {"table": "t", "aggs": [{"fn": "vwap", "value": "p"}], "rows": 1}}, "`weight` .*vwap"),
        ({"window": {"table": "t", "aggs": [{"fn": "sum", "value": "p", "weight": "s"}], "rows": 1}}, "`weight`"),
        ({"window": {"table": "t", "aggs": [{"fn": "ema", "value": "p"}], "rows": 1}}, "`alpha`"),
        ({"window": {"table": "t", "aggs": [{"fn": "ema", "value": "p", "alpha": 2}], "rows": 1}}, "`alpha` .* 2"),
        ({"window": {"table": "t", "aggs": [{"fn": "count"}, {"fn": "count"}], "rows": 1}}, "'count'.*\"as\""),
        ({"window": {"table": "t", "aggs": [{"fn": "count"}, {"fn": "x"}], "rows": 1}}, r"aggs\[1\].* is \"x\""),
        ({"window": {"table": "t", "aggs": [{"fn": "count", "of": 1}], "rows": 1}}, "'of'"),
        ({"bars": {"table": "t", "aggs": [{"fn": "count"}]}}, "`every` of bars is null"),
        ({"bars": {"table": "t", "aggs": [{"fn": "count"}], "every": "0s"}}, "`every`.*1 ns"),
        ({"bars": {"table": "t", "aggs": [{"fn": "count"}], "every": "1s", "fill": "zero"}}, "none, null, prev"),
        ({"bars": {"table": "t", "aggs": [{"fn": "count"}], "every": "1s", "rows": 5}}, "'rows'"),
    ],
)
def test_a_wrong_query_is_refused_by_name(query: dict[str, object], names: str) -> None:
    with pytest.raises(InvalidArgument, match=names):
        parse_query(query)


def test_every_error_survives_the_wire() -> None:
    for cls in error_classes().values():
        error = cls("Subject is wrong. Do this.", retry_after_s=0.5, shard=3)
        again = from_json(json.loads(json.dumps(error.to_json())))
        assert type(again) is cls
        assert (again.message, again.retry_after_s, again.details) == (error.message, 0.5, {"shard": 3})


def test_error_codes_are_unique() -> None:
    def tree(cls: type) -> list[type]:
        return [cls, *(c for child in cls.__subclasses__() for c in tree(child))]

    from proxist.errors import ProxistError

    assert len(tree(ProxistError)) == len(error_classes())
