"""A pool of items in a file: JSON lines, CSV or Parquet, read a row at a time; only the asked columns are kept."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reflect_rl.errors import SelectionError

FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
BATCH = 4096

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PoolFile:
    """A file of rows. Every read raises SelectionError where the file is missing, damaged or lacks a column."""

    path: Path

    def rows(self, columns: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
        """(where it stands, the row) for each row; `columns` have to be there."""
        reader = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv}.get(self.path.suffix.lower(), _jsonl)
        if self.path.suffix.lower() not in FORMATS:
            raise SelectionError(f"{self.path}: the format is told by the ending, one of {', '.join(FORMATS)}.")
        try:
            for where, row in reader(self.path, columns):
                for column in columns:
                    if column not in row:
                        there = ", ".join(map(str, row)) or "none"
                        raise SelectionError(f"{self.path}, {where}: there is no column {column!r}. Columns: {there}.")
                yield where, row
        except OSError as error:
            raise SelectionError(f"{self.path} cannot be read: {error.strerror or error}.") from None
        except UnicodeDecodeError as error:
            raise SelectionError(f"{self.path} is not UTF-8 text ({error.reason} at byte {error.start}).") from None

    def ids(self, column: str | None) -> list[Any]:
        """The id of each row, all different: texts or whole numbers; the row's number from 0 without a column."""
        if column is None:
            return list(range(sum(1 for _ in self.rows())))
        ids: list[Any] = []
        known: set[str] = set()
        for where, row in self.rows([column]):
            value = row[column]
            if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
                raise SelectionError(f"{self.path}, {where}: the id {value!r} should be a text or a whole number.")
            if str(value) in known:
                raise SelectionError(f"{self.path}, {where}: the id {value!r} was there before; ids should differ.")
            known.add(str(value))
            ids.append(value)
        return ids

    def columns(self) -> tuple[str, ...]:
        """Those of the first row."""
        return next((tuple(map(str, row)) for _, row in self.rows()), ())

    def labels(self, column: str) -> list[Any]:
        """A column of texts, numbers or truths, as it is."""
        labels = []
        for where, row in self.rows([column]):
            if not isinstance(row[column], str | int | float):
                raise SelectionError(f"{self.path}, {where}: {column!r} should be a text or a number: {row[column]!r}.")
            labels.append(row[column])
        return labels

    def texts(self, column: str) -> Iterator[str]:
        for where, row in self.rows([column]):
            if not isinstance(row[column], str):
                raise SelectionError(f"{self.path}, {where}: {column!r} should be a text, not {row[column]!r}.")
            yield row[column]

    def numbers(self, column: str) -> np.ndarray:
        """A column of finite numbers, float64."""
        return np.array([_number(self.path, where, column, row[column]) for where, row in self.rows([column])], float)

    def lists(self, column: str) -> Iterator[np.ndarray]:
        """A column of lists of finite numbers, float32 each."""
        for where, row in self.rows([column]):
            value = _listed(row[column])
            try:
                array = np.asarray(value, dtype=np.float64)
            except (TypeError, ValueError):
                array = np.empty((0, 0))
            if array.ndim != 1 or not isinstance(value, list):
                raise SelectionError(f"{self.path}, {where}: {column!r} should be a list of numbers.")
            if not np.isfinite(array).all():
                raise SelectionError(
                    f"{self.path}, {where}: {column!r} has a value that is not finite (NaN or infinity)."
                )
            yield array.astype(np.float32)

    def vectors(self, column: str, size: int) -> np.ndarray:
        """A column of vectors of one length, (size, D) float32."""
        vectors_ND = np.empty((0, 0), np.float32)
        for number, vector in enumerate(self.lists(column)):
            if not number:
                vectors_ND = np.empty((size, len(vector)), np.float32)
            if len(vector) != vectors_ND.shape[1]:
                raise SelectionError(
                    f"{self.path}: embeddings should be of one length; {column!r} of row {number + 1} has "
                    f"{len(vector)} numbers, those before have {vectors_ND.shape[1]}."
                )
            vectors_ND[number] = vector
        return vectors_ND


def read_array(path: Path, size: int) -> np.ndarray:
    """The embeddings of a .npy file, mapped, not read. Raises SelectionError; (size, D) is expected."""
    try:
        array_ND = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise SelectionError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, EOFError) as error:
        raise SelectionError(f"{path} is not an array that numpy.save wrote ({error}).") from None
    if array_ND.ndim != 2 or array_ND.dtype.kind not in "fiu":
        raise SelectionError(
            f"{path} should be an (items, width) array of numbers; it is {array_ND.shape} {array_ND.dtype}."
        )
    if len(array_ND) != size:
        raise SelectionError(f"{path} has {len(array_ND):,} embeddings, the pool {size:,} items: they go row by row.")
    return array_ND


def already_indices(path: Path, column: str | None, ids: Sequence[Any]) -> np.ndarray:
    """Places in the pool of the items that another file names. Raises SelectionError for an unknown one.

    The file has the id column of the pool (row numbers without one), or is a .txt of one id a line.
    """
    if path.suffix.lower() == ".txt":
        try:
            named = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise SelectionError(f"{path} cannot be read: {error}.") from None
    else:
        named = [row[column or "id"] for _, row in PoolFile(path).rows([column or "id"])]
    places = {str(each): place for place, each in enumerate(ids)}
    unknown = [each for each in named if str(each) not in places]
    if unknown:
        more = f", and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        how = "" if column else " Without --id-column the pool's ids are row numbers from 0."
        raise SelectionError(f"{path} names the id {unknown[0]!r}, which the pool does not have{more}.{how}")
    return np.array(sorted({places[str(each)] for each in named}), np.int64)


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except UnicodeDecodeError:
                raise SelectionError(f"{path}, line {number} is not UTF-8 text.") from None
            except ValueError as error:
                raise SelectionError(f"{path}, line {number} is not JSON ({error}).") from None
            if not isinstance(row, dict):
                raise SelectionError(f"{path}, line {number} should be a JSON object, one an item.")
            yield f"line {number}", row


def _csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise SelectionError(
                        f"{path}, line {reader.line_num}: the row has more or fewer fields than the header has names."
                    )
                yield f"line {reader.line_num}", row
        except csv.Error as error:
            raise SelectionError(f"{path}, line {reader.line_num} is not CSV ({error}).") from None


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
            wanted = [column for column in columns if column in there] if columns else there[:1]
            number = 0
            for batch in file.iter_batches(
                BATCH, columns=wanted if len(wanted) == len(columns) or not columns else there
            ):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except arrow.ArrowException as error:
        raise SelectionError(f"{path} is not a sound Parquet file ({error}).") from None


def _listed(value: Any) -> Any:
    """A list as it is; the JSON text of one, as CSV has it, read."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _number(path: Path, where: str, column: str, value: Any) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise SelectionError(f"{path}, {where}: {column!r} should be a finite number, not {value!r}.")
    return number
