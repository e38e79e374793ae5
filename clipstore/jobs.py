"""Job files: one TOML file with a model, its training and its evaluation.

# jobs/tuned.toml: the job and its model are named "tuned"
[model]                                   # records.Model
family = "clip"
base = "openai/clip-vit-base-patch32"     # a hub id, a local folder, or "bundled:demo"
adapter = "adapters/tuned"                # optional: a PEFT folder; not in a job with [train]
prompt = "a photo of {}"                  # optional: the text tower's input; {} is the caption
clean = true                              # optional: lower-case and strip captions before the prompt
exif_orientation = true                   # optional: apply the EXIF orientation of images; CLIP does not

[train]                                   # optional; records.Training
split = "my-images/train"
validation = "my-images/val"
learning_rate = 2e-5

[train.lora]                              # optional; records.Lora
towers = ["text"]

[eval]                                    # optional; records.JobEvaluation, for `clipstore run`
splits = ["my-images/val"]
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import msgspec

from clipstore.errors import BadNameError, JobError, NotFoundError, nearest, path_name
from clipstore.files import read_regular
from clipstore.json_decoding import convert_record
from clipstore.records import FAMILIES, Job, JobEvaluation, Lora, Model, Training
from clipstore.resources import packaged_folder

_TABLES: dict[str, Any] = {"model": Model, "train": Training, "train.lora": Lora, "eval": JobEvaluation}

Record = TypeVar("Record")


def job_files() -> dict[str, Path]:
    """The files of all jobs by name: those in ./jobs, then the packaged ones whose names are not among them."""
    files: dict[str, Path] = {}
    for folder in (Path("jobs"), packaged_folder("jobs")):
        for file in sorted(folder.glob("*.toml")):
            files.setdefault(file.stem, file)
    return files


def is_path(word: str) -> bool:
    """Whether a word is the path of a job file rather than a name."""
    return "/" in word or word.endswith(".toml")


def is_packaged(file: Path) -> bool:
    """Whether a job file is one that ships with clipstore."""
    return file.parent == packaged_folder("jobs")


def job_file(word: str) -> Path:
    """The file of a job given by name or by path. A name stands for ./jobs/NAME.toml, else for the packaged job.

    The path jobs/NAME.toml stands for the packaged job if there is no such file.

    Raises:
        NotFoundError: there is no such job; the message suggests the nearest name.
    """
    jobs, file = job_files(), Path(word)
    if word in jobs:
        return jobs[word]
    if not is_path(word):
        raise NotFoundError.of("job", word, jobs, hint="a job is a file jobs/NAME.toml, or the path of one")
    packaged = packaged_folder("jobs") / file.name
    if not file.exists() and file.parent == Path("jobs") and packaged.is_file():
        return packaged
    if not file.exists() or file.is_dir():
        message = f"no job file {word}{nearest(file.stem, jobs)}: give the path of a .toml file, or a name" + (
            "" if file.suffix == ".toml" else f"; 'clipstore model add NAME --base {word}' names a hub id or a folder"
        )
        raise NotFoundError(message)
    return file


def read_job(file: Path) -> Job:
    """Read and check a job file.

    Raises:
        JobError: the file cannot be read, or a key is unknown, missing, of the wrong type or out of range; the message
            has the file and line.
    """
    return _Reader(file).job()


def checked_model(*, name: str, context: str, base: str = "", family: str = "clip", **options: Any) -> Model:
    """A model with these values.

    Raises:
        JobError: a value is invalid; the message begins with `context`.
    """
    if not base:
        message = f"{context}: a model needs a base: a hub id, a local folder, or bundled:demo"
        raise JobError(message)
    if family not in FAMILIES:
        message = f"{context}: unknown family {family!r}{nearest(family, FAMILIES)}"
        raise JobError(message)
    prompt = options.get("prompt")
    if prompt is not None and "{}" not in prompt:
        message = f"{context}: the prompt {prompt!r} has no {{}} in place of the caption"
        raise JobError(message)
    return Model(name=name, family=family, base=base, **options)


def _choices(record: Any, key: str, value: Any) -> str:
    """A suggestion among the valid values of a key whose type is a Literal of strings; empty for other keys."""
    words = get_args(get_type_hints(record).get(key))
    literal = words and isinstance(value, str) and all(isinstance(word, str) for word in words)
    return nearest(value, words) if literal else ""


class _Reader:
    """Reads one job file, table by table; every error has the file and line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._text = read_regular(file).decode("utf-8")
            self._tables = tomllib.loads(self._text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            message = f"cannot read the job {file}: {error}"
            raise JobError(message) from error

    def job(self) -> Job:
        tables = [name for name in _TABLES if "." not in name]
        for name in self._tables:
            if name not in tables:
                self._fail("", name, f"unknown table {name!r}{nearest(name, tables)}")
        if not isinstance(self._tables.get("model"), dict):
            message = f"{self._file}: a job needs a table [model] with at least a base"
            raise JobError(message)
        self._check_name()
        settings = self._tables["model"]
        if "name" in settings:
            self._fail("model", "name", f"unknown key 'name': the name is that of the file, {self._file.stem}")
        record = self._table("model", Model, {"family": "clip", "base": ""} | settings | {"name": self._file.stem})
        model = checked_model(context=str(self._file), **asdict(record))
        training = self._optional("train", Training)
        if training and model.adapter:
            self._fail("model", "adapter", "a job with [train] starts from its base alone: remove the adapter")
        if training and not training.lora.towers:
            self._fail("train.lora", "towers", 'a LoRA needs a tower: towers = ["text"], or with "vision"')
        return Job(file=self._file, model=model, training=training, evaluation=self._optional("eval", JobEvaluation))

    def _check_name(self) -> None:
        """Refuse a file whose name cannot be that of a model, for which training makes a folder."""
        try:
            path_name("job", self._file.stem)
        except BadNameError as error:
            message = f"{self._file}: {error}; rename the file"
            raise JobError(message) from error

    def _optional(self, table: str, record: type[Record]) -> Record | None:
        if table not in self._tables:
            return None
        if not isinstance(self._tables[table], dict):
            self._fail("", table, f"{table} is a table: write [{table}]")
        return self._table(table, record, self._tables[table])

    def _table(self, table: str, record: type[Record], settings: dict[str, Any]) -> Record:
        """Convert a table to its record, checking keys and values."""
        known = {field.name: field for field in fields(record)}  # type: ignore[arg-type]
        for key, value in settings.items():
            if key not in known:
                self._fail(table, key, f"unknown key {key!r}{nearest(key, known)}")
            if f"{table}.{key}" in _TABLES and isinstance(value, dict):
                self._table(f"{table}.{key}", _TABLES[f"{table}.{key}"], value)
        missing = [name for name, field in known.items() if field.default is MISSING and name not in settings]
        if missing:
            message = f"{self._at('', table)}: [{table}] needs {' and '.join(missing)}"
            raise JobError(message)
        try:
            return convert_record(settings, record)
        except msgspec.ValidationError as error:
            # msgspec's message: "Expected `int` >= 1 - at `$.r`"
            expected, _, path = str(error).rpartition(" - at ")
            key = re.split(r"[.\[`]", path.removeprefix("`$."))[0]
            problem = f"{key} = {settings.get(key)!r}: {expected[0].lower()}{expected[1:]}".replace("`", "")
            self._fail(table, key, problem + _choices(record, key, settings.get(key)))

    def _fail(self, table: str, key: str, problem: str) -> NoReturn:
        message = f"{self._at(table, key)}: {problem}"
        raise JobError(message)

    def _at(self, table: str, key: str) -> str:
        """FILE:LINE of a key in a table, or of a table itself (a key of the table "")."""
        current = ""
        pattern = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]")
        for number, line in enumerate(self._text.splitlines(), 1):
            heading = re.match(r"\s*\[+\s*([^\]]*?)\s*\]", line)
            current = heading[1].replace('"', "").replace(" ", "") if heading else current
            if heading and not table:
                matches = current.split(".")[0] == key
            else:
                matches = current == table and bool(pattern.match(line))
            if matches:
                return f"{self._file}:{number}"
        return f"{self._file}:1"
