"""Pools as people have them: every odd file gives the right picks, or one message that says where and what to do."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflect_rl.__main__ import run_command
from reflect_rl.errors import SelectionError
from reflect_rl.pools.file import PoolFile, already_indices
from reflect_rl.pools.tfidf import tfidf
from reflect_rl.progress import Progress

KEPT = '{"id": "p1", "rank": 1, "gain": 1.0, "strategy": "random", "score": null}\n'
DEEP = "[" * 100_000 + "]" * 100_000
IDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6) | st.integers()


def write(path: str, text: str) -> None:
    Path(path).write_bytes(text.encode())


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("pool.jsonl", lines(*({"id": f"p{number}", "text": f"w{number}", "x": [number, 1.0]} for number in range(6))))
    return tmp_path


def picked(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Any]:
    """The ids that `select` prints."""
    assert run_command(["select", *arguments]) == 0
    return [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]


@given(ids=st.lists(IDS, min_size=1, max_size=12, unique_by=str), data=st.data())
def test_ids_come_back_unchanged_and_are_found_again(
    ids: list[str | int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    bom, end = data.draw(st.sampled_from(["", "\ufeff"])), data.draw(st.sampled_from(["\n", "\r\n"]))
    (folder / "pool.jsonl").write_bytes((bom + lines(*({"id": one} for one in ids)).replace("\n", end)).encode())
    read = PoolFile(folder / "pool.jsonl").ids("id")
    assert read == ids
    named = [str(one) for one in ids if str(one).strip() and not set(str(one)) & set("\r\n")]
    (folder / "done.txt").write_bytes((bom + end.join(named)).encode())
    places = already_indices(folder / "done.txt", "id", read)
    assert [str(ids[place]) for place in places] == [str(one) for one in ids if str(one) in named]


def test_a_text_list_of_labelled_items_is_split_at_line_ends_only(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ["a\u2028b", "c\x85d", "e\x0bf", "g\x1eh", "i", "j"]
    write("odd.jsonl", lines(*({"id": one} for one in ids)))
    given = ("odd.jsonl", "--id-column", "id", "--strategy", "random", "--already", "done.txt", "--budget")
    for text in ("\n".join(ids[:5]), "\ufeff" + "\r\n".join(ids[:5]) + "\r\n", "\n\n  ".join(ids[:5]) + "  \n\n"):
        write("done.txt", text)
        assert picked(capsys, *given, "1") == ["j"]
    write("done.txt", "a\u2028b\nb\n")
    assert run_command(["select", *given, "1"]) == 2
    assert "names the id 'b', which the pool does not have" in capsys.readouterr().err


def test_embeddings_beyond_float32_are_told_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for scale in (1.0, 1e200, 1e-200, 1e39, 1e-45):
        write("x.jsonl", lines(*({"x": [scale * number**2, 0]} for number in range(6))))
        for metric, expected in (("euclidean", [3, 5, 0]), ("cosine", [1, 0, 2])):
            given = ("--embeddings", "x", "--strategy", "k-center", "--metric", metric, "--budget", "3")
            assert picked(capsys, "x.jsonl", *given) == expected, (scale, metric)
    assert PoolFile(Path("pool.jsonl")).vectors("x", 6).dtype == np.float32


def test_a_radius_is_printed_whatever_its_size(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("x.jsonl", lines(*({"x": [1e-200 * number**2]} for number in range(6))))
    given = ("--embeddings", "x", "--strategy", "k-center", "--metric", "euclidean", "--budget", "3")
    assert run_command(["select", "x.jsonl", *given]) == 0
    assert "no item is farther than 7e-200" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.jsonl", '{"g": null}\n' * 4 + '{"g": "a"}\n' * 4),
        ("g.jsonl", '{"g": NaN}\n' * 4 + '{"g": ""}\n' * 4),  # in JSON, an empty text is a text
        ("g.csv", "g,x\n" + ",1\n" * 4 + "a,1\n" * 4),
        ("g.TSV", "g\tx\n" + "\t1\n" * 2 + '""\t1\n' * 2 + "a\t1\n" * 4),
    ],
)
def test_items_without_a_group_are_one_group(
    name: str, text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(name, text)
    given = ("--strategy", "random", "--quota-column", "g", "--budget", "4")
    assert run_command(["select", name, *given]) == 0
    out, said = capsys.readouterr()
    assert sorted(json.loads(line)["id"] // 4 for line in out.splitlines()) == [0, 0, 1, 1]
    assert said.count("4 of 8 items have no group (None or NaN); together they are one") == 1


def test_an_array_file_may_end_in_capitals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.array([[number, 1.0] for number in range(6)]))
    expected = picked(capsys, "pool.jsonl", "--budget", "3", "--embeddings", "x.npy")
    Path("x.npy").rename("X.NPY")
    assert picked(capsys, "pool.jsonl", "--budget", "3", "--embeddings", "X.NPY") == expected
    assert run_command(["select", "pool.jsonl", "--budget", "3", "--embeddings", "X.NPY", "--dry-run"]) == 0


def test_a_budget_in_other_digits_is_a_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for budget, count in (("\uff13", 3), ("0.1%", 1), (" 50 % ", 3)):
        assert len(picked(capsys, "pool.jsonl", "--strategy", "random", "--budget", budget)) == count


def test_columns_that_are_not_asked_for_may_share_a_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("two.csv", "\ufeffid,x,x,,\r\n1,2,3,,\r\n")
    write("two.jsonl", '{"id": "1", "x": 2, "x": {"id": 3, "id": 4}}\n')
    for name in ("two.csv", "two.jsonl"):
        assert picked(capsys, name, "--strategy", "random", "--budget", "1", "--id-column", "id") == ["1"]


FILES = {
    "surrogate.jsonl": '{"id": "a"}\n{"id": "b\\ud800", "text": "\\udfff", "g": "\\ud800"}\n',
    "text.jsonl": '{"text": "fine"}\n{"text": "caf\\udce9"}\n',
    "group.jsonl": '{"text": "fine", "g": "\\ud800"}\n',
    "deep.jsonl": f'{{"id": "a"}}\n{{"id": {DEEP}}}\n',
    "deep.csv": f'id,x\na,"{DEEP}"\n',
    "digits.jsonl": f'{{"id": {"9" * 5000}}}\n',
    "digits.csv": f"id,x\n1,{'9' * 5000}\n",
    "huge.jsonl": f'{{"id": "a", "x": [{"9" * 400}], "q": {"9" * 400}}}\n',
    "two.csv": "id,x,x\n1,2,3\n",
    "two-ids.jsonl": '{"id": "p1", "id": "p2"}\n',
    "two.jsonl": '{"id": "a", "x": [1]}\n{"id": "b", "x": [1], "x": [2]}\n',
    "float.jsonl": '{"id": 1.0}\n',
    "bool.jsonl": '{"id": true}\n',
    "infinity.jsonl": '{"id": Infinity, "x": [Infinity]}\n',
    "row.jsonl": '{"id": "a"}\n["b"]\n',
    "group-list.jsonl": '{"g": ["a"]}\n',
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["surrogate.jsonl", "--id-column", "id"], "surrogate.jsonl, line 2: 'id' has half a surrogate pair"),
        (["text.jsonl", "--strategy", "k-center"], "text.jsonl, line 2: 'text' has half a surrogate pair"),
        (["group.jsonl", "--quota-column", "g"], "group.jsonl, line 1: 'g' has half a surrogate pair"),
        (["deep.jsonl"], "deep.jsonl, line 2 is nested too deeply"),
        (["deep.csv", "--strategy", "k-center", "--embeddings", "x"], "line 2: 'x' should be a list of numbers"),
        (["digits.jsonl"], "digits.jsonl, line 1 has a whole number of too many digits"),
        (["digits.csv", "--strategy", "inverse-confidence", "--score-column", "x"], "should be a finite number"),
        (["huge.jsonl", "--strategy", "k-center", "--embeddings", "x"], "line 1: 'x' should be a list of numbers"),
        (["huge.jsonl", "--strategy", "inverse-confidence", "--score-column", "q"], "should be a finite number"),
        (["two.csv", "--id-column", "x"], "two.csv has 2 columns 'x'"),
        (["two.jsonl", "--strategy", "k-center", "--embeddings", "x"], "two.jsonl, line 2 has 'x' more than once"),
        (["pool.jsonl", "--id-column", "id", "--already", "two-ids.jsonl"], "two-ids.jsonl, line 1 has 'id' more than"),
        (["float.jsonl", "--id-column", "id"], "the id 1.0 should be a text or a whole number"),
        (["bool.jsonl", "--id-column", "id"], "the id True should be a text or a whole number"),
        (["infinity.jsonl", "--id-column", "id"], "the id inf should be a text or a whole number"),
        (["infinity.jsonl", "--strategy", "k-center", "--embeddings", "x"], "'x' has a value that is not finite"),
        (["row.jsonl"], "row.jsonl, line 2 should be a JSON object"),
        (["group-list.jsonl", "--quota-column", "g"], "'g' should be a text or a number"),
        (["folder.jsonl"], "folder.jsonl is a folder"),
        (["pipe.jsonl"], "pipe.jsonl is a pipe or device, which can be read only once"),
        (["pool.jsonl.gz"], "the format is known by the file's extension"),
        (["packed.jsonl"], "packed.jsonl, line 1 is not UTF-8"),
        (["latin.csv"], "latin.csv is not UTF-8"),
        (["wide.jsonl"], "wide.jsonl, line 1 is not UTF-8"),
        (["pool.jsonl", "--id-column", "id", "--already", "wide.txt"], "wide.txt is not UTF-8"),
        (["pool.jsonl", "--strategy", "k-center", "--embeddings", "x.npz"], "x.npz is no .npy file. Save the array"),
        (["pool.jsonl", "--strategy", "k-center", "--embeddings", "none.npz"], "none.npz is no .npy file"),
        (["pool.jsonl", "--strategy", "k-center", "--embeddings", "pool.jsonl"], "pool.jsonl is no .npy file"),
        (["pool.jsonl", "--strategy", "k-center", "--embeddings", "zip.npy"], "zip.npy is an archive of arrays"),
        (["pool.jsonl", "--strategy", "k-center", "--embeddings", "cut.npy"], "cut.npy is not an array that numpy"),
        (["pool.jsonl", "--strategy", "k-center", "--embeddings", "folder.npy"], "folder.npy is a folder"),
        (["pool.jsonl", "--strategy", "k-center", "--embeddings", "pipe.npy"], "pipe.npy is a pipe"),
        (["pool.jsonl", "--strategy", "k-center", "--embeddings", "complex.npy"], "array of numbers; it is (6, 2)"),
        (["pool.jsonl", "--budget", "1e3"], "such as 2000, or a share"),
        (["pool.jsonl", "--budget=-1"], "such as 2000, or a share"),
        (["pool.jsonl", "--budget", "9" * 5000], "such as 2000, or a share"),
        (["pool.jsonl", "--budget", ""], "such as 2000, or a share"),
        (["pool.jsonl", "--budget", "0"], "--budget 0 picks nothing. Ask for 1 item or more"),
        (["pool.jsonl", "--budget", "0.0 %"], "--budget 0.0 % picks nothing"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_an_odd_file_is_one_message(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in FILES.items():
        write(name, text)
    for name in ("folder.jsonl", "folder.npy"):
        Path(name).mkdir()
    for name in ("pipe.jsonl", "pipe.npy"):
        os.mkfifo(name)
    for name in ("pool.jsonl.gz", "packed.jsonl"):
        Path(name).write_bytes(gzip.compress(Path("pool.jsonl").read_bytes()))
    Path("latin.csv").write_bytes(b"id\ncaf\xe9\n")
    for name in ("wide.jsonl", "wide.txt"):
        Path(name).write_bytes(Path("pool.jsonl").read_text().encode("utf-16"))
    np.savez("x.npz", np.ones((6, 2)))
    Path("zip.npy").write_bytes(Path("x.npz").read_bytes())
    np.save("complex.npy", np.ones((6, 2), complex))
    Path("cut.npy").write_bytes(Path("complex.npy").read_bytes().replace(b"}", b" ", 1))  # a header without its end
    write("picks.jsonl", KEPT)
    usual = {"--budget": "1", "--strategy": "random", "-o": "picks.jsonl"}
    rest = [part for name, value in usual.items() if name not in " ".join(arguments) for part in (name, value)]
    assert run_command(["select", *arguments, *rest]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("error:") == 1
    assert "Traceback" not in said
    assert Path("picks.jsonl").read_text() == KEPT


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '\n{"id": 1}\n{"id": 3, "text": "x"\n', "line 3 is not JSON (Expecting ',' delimiter, column 22)"),
        ("x.jsonl", '{"id": 1}\r\n{"id": x}\r\n', "line 2 is not JSON (Expecting value, column 8)"),
        ("x.csv", 'id,text\n1,"a b\n2,c d\n3,x\n', "line 2 is not CSV (unexpected end of data)"),
        ("x.csv", 'id,text\n1,"a\nb"\n\n"3"x,"c\nd"\n', "line 5 is not CSV"),
        ("x.csv", 'id,text\r\n1,"a\r\nb"\r\n\r\n3,"c\r\nd",e\r\n', "line 5: the row has more or fewer fields"),
        ("x.csv", '"id,text\n1,a\n', "line 1 is not CSV (unexpected end of data)"),
        ("x.csv", 'id,x\n1,"[1,\n2]"\n2,\n', "line 4: 'x' should be a list"),
    ],
)
def test_an_error_names_the_line_where_the_item_begins(
    name: str, text: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(name, text)
    assert run_command(["select", name, "--budget", "1", "--embeddings", "x"]) == 2
    said = capsys.readouterr().err
    assert f"{name}, {message}" in said
    assert said.count("line ") == 1


@pytest.mark.parametrize("size", [3, 7, 5000])
def test_a_pool_that_changes_while_it_is_read_is_one_message(size: int, folder: Path) -> None:
    file = PoolFile(Path("pool.jsonl"))
    items = len(file.ids("id"))
    changed = "".join(json.dumps({"text": f"w{number}", "x": [1.0, 2.0]}) + "\n" for number in range(size))
    write("pool.jsonl", changed)
    read = (
        lambda: file.vectors("x", items),
        lambda: file.labels("text"),
        lambda: tfidf(lambda: file.texts("text"), items, Progress()),
    )
    for attempt in read:
        with pytest.raises(SelectionError, match=r"pool\.jsonl was changed while it was read"):
            attempt()


def test_a_pool_that_grows_behind_its_end_is_one_message(folder: Path) -> None:
    file = PoolFile(Path("pool.jsonl"))
    items = len(file.ids("id"))
    reading = iter(file.texts("text"))
    for _ in range(items):
        next(reading)
    with Path("pool.jsonl").open("a") as more:
        more.write(json.dumps({"text": "late"}) + "\n")
    with pytest.raises(SelectionError, match="was changed while it was read"):
        next(reading)


def parquet(path: str, columns: dict[str, Any]) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    files.write_table(arrow.table(list(columns.values()), names=[name.strip() for name in columns]), path)


def test_parquet_is_read_by_the_columns_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet("g.parquet", {"odd": [b"\xff"] * 4, "g": [float("nan"), None, 1.0, 1.0], "id": [3, 4, 5, 6]})
    given = ("g.parquet", "--strategy", "random", "--budget", "2")
    assert len(picked(capsys, *given)) == 2
    assert sorted(each // 5 for each in picked(capsys, *given, "--id-column", "id", "--quota-column", "g")) == [0, 1]
    assert PoolFile(Path("g.parquet")).columns() == ("odd", "g", "id")
    parquet("two.parquet", {"id": [1], "id ": [2]})
    with pytest.raises(SelectionError, match="has 2 columns 'id'"):
        PoolFile(Path("two.parquet")).ids("id")
