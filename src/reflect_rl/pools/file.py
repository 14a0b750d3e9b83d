"""A pool of items in a file: JSON lines, CSV or Parquet. Rows are streamed, and only the requested columns are kept.

The file is read once per column, so a pool cannot be a pipe.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from reflect_rl.errors import SelectionError

FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
BATCH = 4096
NO_ARRAY = (ValueError, EOFError, TokenError)
"""The errors that numpy raises for a damaged .npy file."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PoolFile:
    """A file of rows. All reads raise SelectionError if the file is missing or damaged, or lacks a column.

    It is read more than once, so all reads also raise SelectionError if it has changed since the first one.
    """

    path: Path
    _seen: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The file's state at the first read, and its number of rows after a whole one."""

    def rows(self, columns: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
        """(position, row) for each row; `columns` must exist."""
        reader = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv}.get(self.path.suffix.lower(), _jsonl)
        if self.path.suffix.lower() not in FORMATS:
            raise SelectionError(
                f"{self.path}: the format is known by the file's extension, one of {', '.join(FORMATS)}."
            )
        try:
            _check_file(self.path)
            number = -1
            for number, (where, row) in enumerate(reader(self.path, columns)):
                if number % BATCH == 0 or number == self._seen.get("rows"):
                    self._check_unchanged()
                for column in columns:
                    if column not in row:
                        there = ", ".join(map(str, row)) or "none"
                        raise SelectionError(f"{self.path}, {where}: there is no column {column!r}. Columns: {there}.")
                yield where, row
            self._check_unchanged()
            self._seen["rows"] = number + 1
        except OSError as error:
            raise SelectionError(f"{self.path} cannot be read: {error.strerror or error}.") from None
        except UnicodeDecodeError as error:
            raise SelectionError(f"{self.path} is not UTF-8 text ({error.reason}).") from None

    def ids(self, column: str | None) -> list[Any]:
        """Unique ids of the rows: texts or integers. Without a column, row numbers from 0."""
        if column is None:
            return list(range(sum(1 for _ in self.rows())))
        ids: list[Any] = []
        known: set[str] = set()
        for where, row in self.rows([column]):
            value = self._id(where, column, row)
            if str(value) in known:
                raise SelectionError(f"{self.path}, {where}: the id {value!r:.80} was there before; ids should differ.")
            known.add(str(value))
            ids.append(value)
        return ids

    def _id(self, where: str, column: str, row: Row) -> str | int:
        value = row[column]
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise SelectionError(f"{self.path}, {where}: the id {value!r:.80} should be a text or a whole number.")
        if isinstance(value, str):
            self._check_text(where, column, value)
        return value

    def named(self, column: str) -> list[str | int]:
        """The ids of rows that may repeat."""
        return [self._id(where, column, row) for where, row in self.rows([column])]

    def columns(self) -> tuple[str, ...]:
        """The columns of the first row."""
        return next((tuple(map(str, row)) for _, row in self.rows()), ())

    def labels(self, column: str) -> list[Any]:
        """A column of texts, numbers or booleans, unchanged; None for null, and for an empty cell of CSV."""
        none = "" if self.path.suffix.lower() in (".csv", ".tsv") else None
        labels = []
        for where, row in self.rows([column]):
            value = row[column]
            if not isinstance(value, str | int | float | None):
                raise SelectionError(f"{self.path}, {where}: {column!r} should be a text or a number: {value!r:.80}.")
            if isinstance(value, str):
                self._check_text(where, column, value)
            labels.append(None if value == none else value)
        return labels

    def texts(self, column: str, *, for_model: bool = False) -> Iterator[str]:
        """A column of texts. for_model: none may be empty."""
        for where, row in self.rows([column]):
            value = row[column]
            if not isinstance(value, str):
                raise SelectionError(f"{self.path}, {where}: {column!r} should be a text, not {value!r:.80}.")
            self._check_text(where, column, value)
            if for_model and not value:
                raise SelectionError(
                    f"{self.path}, {where}: {column!r} is empty, and a model has nothing to read. Leave it out, or "
                    f"fill it in."
                )
            yield value

    def numbers(self, column: str) -> np.ndarray:
        """A column of finite numbers, as float64."""
        return np.array([_number(self.path, where, column, row[column]) for where, row in self.rows([column])], float)

    def lists(self, column: str) -> Iterator[np.ndarray]:
        """A column of lists of finite numbers: float32 arrays, or float64 if float32 cannot hold their range."""
        return (array for _, array in self._placed_lists(column))

    def _placed_lists(self, column: str) -> Iterator[tuple[str, np.ndarray]]:
        for where, row in self.rows([column]):
            value = _listed(row[column])
            try:
                array = np.asarray(value, dtype=np.float64)
            except (TypeError, ValueError, OverflowError):
                array = np.empty((0, 0))
            if array.ndim != 1 or not isinstance(value, list):
                raise SelectionError(f"{self.path}, {where}: {column!r} should be a list of numbers.")
            if not np.isfinite(array).all():
                raise SelectionError(
                    f"{self.path}, {where}: {column!r} has a value that is not finite (NaN or infinity)."
                )
            largest, fits = np.abs(array).max(initial=0.0), np.finfo(np.float32)
            yield where, array.astype(np.float32) if largest == 0 or fits.tiny <= largest <= fits.max else array

    def vectors(self, column: str, size: int) -> np.ndarray:
        """A column of vectors of equal length: (size, D) float32, or float64 if any of `lists` is."""
        vectors_ND = np.empty((0, 0), np.float32)
        for number, (where, vector) in enumerate(self._placed_lists(column)):
            if not number:
                vectors_ND = np.empty((size, len(vector)), vector.dtype)
            if len(vector) != vectors_ND.shape[1]:
                raise SelectionError(
                    f"{self.path}, {where}: {column!r} has {len(vector)} numbers, those before have "
                    f"{vectors_ND.shape[1]}. Embeddings should be of one length."
                )
            vectors_ND = vectors_ND.astype(np.promote_types(vectors_ND.dtype, vector.dtype), copy=False)
            vectors_ND[number] = vector
        return vectors_ND

    def _check_unchanged(self) -> None:
        now = self.path.stat()
        state = now.st_size, now.st_mtime_ns
        if self._seen.setdefault("state", state) != state:
            raise SelectionError(f"{self.path} was changed while it was read. When nothing writes to it, select again.")

    def _check_text(self, where: str, column: str, text: str) -> None:
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise SelectionError(
                f"{self.path}, {where}: {column!r} has half a surrogate pair, which is no character: {text!r:.80}. "
                f"Mend or leave out the item."
            )


def read_array(path: Path, size: int) -> np.ndarray:
    """The (size, D) embeddings of a .npy file, memory-mapped. Raises SelectionError."""
    try:
        _check_file(path)
        array_ND = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise SelectionError(f"{path} cannot be read: {error.strerror or error}.") from None
    except NO_ARRAY as error:
        raise SelectionError(f"{path} is not an array that numpy.save wrote ({error}).") from None
    if not isinstance(array_ND, np.ndarray):
        raise SelectionError(f"{path} is an archive of arrays (.npz). Save the one array by numpy.save.")
    if array_ND.ndim != 2 or array_ND.dtype.kind not in "fiu":
        raise SelectionError(
            f"{path} should be an (items, width) array of numbers; it is {array_ND.shape} {array_ND.dtype}."
        )
    if len(array_ND) != size:
        raise SelectionError(f"{path} has {len(array_ND):,} embeddings, the pool {size:,} items: they go row by row.")
    return array_ND


def already_indices(path: Path, column: str | None, ids: Sequence[Any]) -> np.ndarray:
    """Positions in the pool of the items that another file names. Raises SelectionError for unknown ids.

    The file has the pool's id column (row numbers without one), or is a .txt with one id per line. White space around
    an id is ignored unless it is part of the id.
    """
    places = {str(each): place for place, each in enumerate(ids)}
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would break at U+2028 and others
        except OSError as error:
            raise SelectionError(f"{path} cannot be read: {error.strerror or error}.") from None
        except UnicodeDecodeError:
            raise SelectionError(f"{path} is not UTF-8 text.") from None
        named = [line if line in places else line.strip() for line in lines if line.strip() or line in places]
    else:
        named = PoolFile(path).named(column or "id")
    unknown = [each for each in named if str(each) not in places]
    if unknown:
        more = f", and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        how = "" if column else " Without --id-column the pool's ids are row numbers from 0."
        raise SelectionError(f"{path} names the id {unknown[0]!r:.80}, which the pool does not have{more}.{how}")
    return np.array(sorted({places[str(each)] for each in named}), np.int64)


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = OBJECTS.decode(line.decode(json.detect_encoding(line), "surrogatepass"))  # as json.loads
            except UnicodeDecodeError:
                raise SelectionError(f"{path}, line {number} is not UTF-8 text.") from None
            except json.JSONDecodeError as error:
                place = min(error.pos, len(error.doc.rstrip())) + 1
                raise SelectionError(f"{path}, line {number} is not JSON ({error.msg}, column {place}).") from None
            except RecursionError:
                raise SelectionError(f"{path}, line {number} is nested too deeply.") from None
            except ValueError:  # Python limits the number of digits
                raise SelectionError(f"{path}, line {number} has a whole number of too many digits.") from None
            if not isinstance(row, dict):
                raise SelectionError(f"{path}, line {number} should be a JSON object, one an item.")
            for column in row.twice if isinstance(row, _Repeating) else ():
                if column in columns:
                    raise SelectionError(f"{path}, line {number} has {column!r} more than once. Keep the one meant.")
            yield f"line {number}", row


class _Repeating(dict):
    """A JSON object in which keys are repeated: each counts as its last value."""

    twice: list[str]


def _object(pairs: list[tuple[str, Any]]) -> Row:
    """A JSON object as a dict; a _Repeating one if a key is there more than once."""
    row = dict(pairs)
    if len(row) < len(pairs):
        row = _Repeating(row)
        row.twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    return row


OBJECTS = json.JSONDecoder(object_pairs_hook=_object)
"""Made once: `json.loads` with a hook would make one a line, which takes half as long again."""


def _csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(sys.maxsize)
    begun = 1  # the line in which a row begins: a quoted field may have line breaks
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            header = next(reader, [])
            _check_once(path, columns, header)
            begun = reader.line_num + 1
            for fields in reader:
                if fields and len(fields) != len(header):
                    raise SelectionError(
                        f"{path}, line {begun}: the row has more or fewer fields than the header has names."
                    )
                if fields:
                    yield f"line {begun}", dict(zip(header, fields, strict=True))
                begun = reader.line_num + 1
        except csv.Error as error:
            raise SelectionError(f"{path}, line {begun} is not CSV ({error}).") from None


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow as arrow  # type: ignore[import-not-found]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-not-found]
    except ImportError:
        raise SelectionError(
            'Parquet files need pyarrow: pip install "reflect-rl[parquet]". JSON lines and CSV need nothing.'
        ) from None
    try:
        with ParquetFile(path) as file:
            there = file.schema_arrow.names
            _check_once(path, columns, there)
            if not columns or not set(columns) <= set(there):  # count rows; the caller reports missing columns
                for number in range(1, file.metadata.num_rows + 1):
                    yield f"row {number}", dict.fromkeys(there)
                return
            number = 0
            for batch in file.iter_batches(BATCH, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except arrow.ArrowException as error:
        raise SelectionError(f"{path} is not a sound Parquet file ({error}).") from None


def _check_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or device, which can be read only once"
        raise SelectionError(f"{path} is {kind}. Give a file.")


def _check_once(path: Path, columns: Sequence[str], there: Sequence[str]) -> None:
    for column in columns:
        if there.count(column) > 1:
            raise SelectionError(f"{path} has {there.count(column)} columns {column!r}. Rename all but the one meant.")


def _listed(value: Any) -> Any:
    """Parse a list that is given as JSON text, as in CSV; other values are returned unchanged."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _number(path: Path, where: str, column: str, value: Any) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not np.isfinite(number):
        raise SelectionError(f"{path}, {where}: {column!r} should be a finite number, not {value!r:.80}.")
    return number
