"""Files of rows that people made: JSON lines and CSV, read as they come or refused in one line.

What is wrong with a single row is given in words in its place, so that whoever reads may count it
or refuse it (vd/data/rows.py). What is wrong with a whole file is a ValueError with file, row and
fix.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz")  # of files that may be named as data
FORMATS = {  # first bytes of what people take for text in UTF-8
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"PK\x03\x04": "a workbook or another zip file",
    b"PAR1": "Parquet",
}
BARE_CR = "\ue00d"  # stands for a carriage return within a text while a CSV is read
# The default, 131,072 characters, is less than a long text; this fits a C long everywhere.
csv.field_size_limit(2**31 - 1)


class _Twice(Exception):
    """A key is there twice in an object."""


def is_file(data: str) -> bool:
    """Whether the name of a data set is that of a file of rows."""
    return data.endswith(ENDINGS)


def is_csv(file: str | Path) -> bool:
    """Whether a file is a CSV, by its ending; all others hold JSON lines."""
    return str(file).endswith((".csv", ".csv.gz", ".tsv"))


def stem(file: str | Path) -> str:
    """A file's name without folder and ending."""
    return re.sub(r"\.(jsonl|csv)(\.gz)?$", "", Path(file).name)


def rows(file: Path) -> Iterator[tuple[int, dict | str]]:
    """Rows of a file, each with its number, packed by gzip or not.

    The number is that of the line in JSON lines, that of the record in CSV, whose empty cells are
    None. In place of a row that is none stands the reason: null or a list instead of an object,
    nested too deeply, a key twice, more or fewer fields than columns.
    """
    return _csv_rows(file) if is_csv(file) else _json_rows(file)


def lines(file: Path) -> Iterator[dict]:
    """Rows of a file that has no others; the first that is none raises ValueError."""
    for number, row in rows(file):
        if isinstance(row, str):
            raise ValueError(f"{file}: row {number}: {row}; correct or remove it")
        yield row


def records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Records of a CSV, the header first, each with the number of its last line.

    Fields are separated by comma, semicolon or tab, whichever parts the header most. A carriage
    return alone belongs to a text, unless the header ends in one.
    """
    # At once and not by lines: a field in quotation marks may go over several.
    text = _decoded(b"".join(_raw_lines(file)), f"{file}").removeprefix("\ufeff")
    text = re.sub(r"\Asep=.\r?\n", "", text)  # a line by which spreadsheets name the separator
    header, end, _ = re.split(r"(\r\n|\n|\r|\Z)", text, maxsplit=1)
    # csv would end a record at it, where it stands outside of quotation marks
    if end != "\r":
        text = re.sub(r"\r(?!\n)", BARE_CR, text)
    separator = max(",;\t", key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
    # newline='' keeps \r\n within texts; strict refuses stray quotation marks, which csv would
    # otherwise read in some way or other.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for record in reader:
            yield reader.line_num, [cell.replace(BARE_CR, "\r") for cell in record]
    except csv.Error as error:
        place = f"{file}: line {reader.line_num}"
        fix = "correct the quotation marks there or before"
        raise ValueError(f"{place}: not CSV ({error}); {fix}") from None


def _csv_rows(file: Path) -> Iterator[tuple[int, dict | str]]:
    found = records(file)
    columns = [column.strip() for column in next(found, (0, []))[1]]
    named = [column for column in columns if column]  # R and pandas number rows under no name
    if twice := sorted({column for column in named if named.count(column) > 1}):
        raise ValueError(f"{file}: header: column '{twice[0]}' is there twice; rename one")
    for number, (_, record) in enumerate(found, start=1):
        if not any(cell.strip() for cell in record):
            continue
        if len(record) < len(columns):
            yield number, "fewer fields than columns"
        # empty cells beyond the header hold nothing that could be lost
        elif any(record[len(columns) :]):
            yield number, "more fields than columns"
        else:
            pairs = zip(columns, record, strict=False)
            yield number, {column: cell or None for column, cell in pairs if column}


def _json_rows(file: Path) -> Iterator[tuple[int, dict | str]]:
    for number, line in enumerate(_raw_lines(file), start=1):
        place = f"{file}: row {number}"
        text = _decoded(line, place).strip("\ufeff \t\r\n")
        if text:
            yield number, _parsed(text, place)


def _parsed(text: str, place: str) -> dict | str:
    """A line of JSON; what is wrong with it beyond its syntax is given in words."""
    try:
        row = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        return "nested too deeply"
    except _Twice:
        return "a key is there twice"
    # int() refuses more than 4,300 digits, with an error that has no position
    except ValueError as error:
        said = f"{error.msg}, character {error.pos + 1}" if hasattr(error, "pos") else str(error)
        raise ValueError(f"{place}: not JSON ({said}); every line must be one object") from None
    # the file is one JSON array, which is no mistake of a single row
    if isinstance(row, list) and row and all(isinstance(part, dict) for part in row):
        raise ValueError(f"{place}: a JSON array; every line must be one object")
    return row if isinstance(row, dict) else "not an object"


def _object(pairs: list[tuple]) -> dict:
    # json by itself keeps the last of equal keys, in silence
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice
    return found


def _raw_lines(file: Path) -> Iterator[bytes]:
    """Lines of a file, unpacked where its first bytes say so, whatever its ending."""
    number = 0
    try:
        with open(file, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        # As bytes, whose lines end at \n alone: texts may hold U+2028 and U+0085, at which
        # `splitlines` would cut them.
        with gzip.open(file) if packed else open(file, "rb") as content:
            for number, line in enumerate(content, start=1):  # noqa: B007
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        place = f"{file}: row {number + 1}"
        raise ValueError(f"{place}: a broken or cut gzip file ({error}); fetch it anew") from None
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}; name a file to be read") from None


def _decoded(raw: bytes, place: str) -> str:
    looks = next((what for start, what in FORMATS.items() if raw.startswith(start)), None)
    # UTF-16 without a byte-order mark: in ASCII every other byte is zero
    if not looks and b"\0" in raw[:4]:
        looks = "UTF-16"
    try:
        if not looks:
            return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        looks = "Latin-1 or Windows-1252"
        # a CSV, which is decoded as a whole
        if b"\n" in raw[:-1]:
            place += f": line {raw[: error.start].count(10) + 1}"
    fix = "save it as UTF-8 (in a spreadsheet: as 'CSV UTF-8')"
    raise ValueError(f"{place}: not UTF-8, it looks like {looks}; {fix}")
