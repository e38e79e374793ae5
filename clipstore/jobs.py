"""Job files: one TOML file that names a model, where its weights come from, what it trains on and is measured on.

# jobs/mine.toml; the model's name is the file's
[model]
family = "clip"
base = "openai/clip-vit-base-patch32"     # a hub id, a local folder, or "bundled:demo"
adapter = "adapters/mine"                 # optional: a PEFT folder; not for a job that trains
prompt = "a photo of {}"                  # optional: what the text tower reads; {} is the caption
clean = true                              # optional: lower-case and strip captions before the prompt
exif_orientation = true                   # optional: turn images as their EXIF data says; CLIP does not

[train]                                   # optional; the keys are the fields of records.Training
split = "mine/train"
validation = "mine/val"
learning_rate = 2e-5

[train.lora]                              # records.Lora
towers = ["text"]

[eval]                                    # optional; records.JobEvaluation: what `clipstore run` measures
splits = ["mine/val"]
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import msgspec

from clipstore.errors import JobError, NotFoundError, nearest
from clipstore.files import read_regular
from clipstore.records import Job, JobEvaluation, Lora, Model, Training
from clipstore.resources import packaged_folder

FAMILIES = ("clip",)

_TABLES: dict[str, Any] = {"model": Model, "train": Training, "train.lora": Lora, "eval": JobEvaluation}

Record = TypeVar("Record")


def job_files() -> dict[str, Path]:
    """Every job that can be named, with its file: those in ./jobs, then the packaged ones."""
    found: dict[str, Path] = {}
    for place in (Path("jobs"), packaged_folder("jobs")):
        for file in sorted(place.glob("*.toml")):
            found.setdefault(file.stem, file)
    return found


def is_path(word: str) -> bool:
    """Whether a word can only be the path of a job file, and not a name."""
    return "/" in word or word.endswith(".toml")


def is_packaged(file: Path) -> bool:
    """Whether a job file is one that ships with clipstore."""
    return file.parent == packaged_folder("jobs")


def job_file(word: str) -> Path:
    """The file of a job given by name or by path: ./jobs/NAME.toml for a name, else the packaged job.

    The path jobs/NAME.toml is the packaged job of that name where there is no such file here.

    Raises:
        NotFoundError: there is no such job; with the nearest one.
    """
    jobs, file = job_files(), Path(word)
    if word in jobs:
        return jobs[word]
    if not is_path(word):
        raise NotFoundError.of("job", word, jobs, otherwise="a job is a file jobs/NAME.toml, or the path of one")
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
    """What a job file says.

    Raises:
        JobError: the file cannot be read, or a key is unknown, missing, of the wrong type or out of range; with its
            line.
    """
    return _Reader(file).job()


def checked_model(*, name: str, where: str, base: str = "", family: str = "clip", **options: Any) -> Model:
    """A model of these values.

    Raises:
        JobError: a value is out of range; `where` says whose it is.
    """
    if not base:
        message = f"{where}: a model needs a base: a hub id, a local folder, or bundled:demo"
        raise JobError(message)
    if family not in FAMILIES:
        message = f"{where}: unknown family {family!r}{nearest(family, FAMILIES)}"
        raise JobError(message)
    prompt = options.get("prompt")
    if prompt is not None and "{}" not in prompt:
        message = f"{where}: the prompt {prompt!r} has no {{}} for the caption to stand in"
        raise JobError(message)
    return Model(name=name, family=family, base=base, **options)


def _choices(record: Any, key: str, value: Any) -> str:
    """What a key may be, where it is one of a few words."""
    words = get_args(get_type_hints(record).get(key))
    few = words and isinstance(value, str) and all(isinstance(word, str) for word in words)
    return nearest(value, words) if few else ""


class _Reader:
    """One job file, read table by table; every complaint names its line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._text = read_regular(file).decode("utf-8")
            self._told = tomllib.loads(self._text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            message = f"cannot read the job {file}: {error}"
            raise JobError(message) from error

    def job(self) -> Job:
        tables = [name for name in _TABLES if "." not in name]
        for name in self._told:
            if name not in tables:
                self._fail("", name, f"unknown table {name!r}{nearest(name, tables)}")
        if not isinstance(self._told.get("model"), dict):
            message = f"{self._file}: a job needs a table [model] with at least a base"
            raise JobError(message)
        told = self._told["model"]
        if "name" in told:
            self._fail("model", "name", f"unknown key 'name': the name is the file's, {self._file.stem}")
        read = self._table("model", Model, {"family": "clip", "base": ""} | told | {"name": self._file.stem})
        model = checked_model(where=str(self._file), **asdict(read))
        training = self._optional("train", Training)
        if training and model.adapter:
            self._fail("model", "adapter", "a job that trains begins with its base alone: leave the adapter out")
        if training and not training.lora.towers:
            self._fail("train.lora", "towers", 'a LoRA sits on a tower: towers = ["text"], or with "vision"')
        return Job(file=self._file, model=model, training=training, evaluation=self._optional("eval", JobEvaluation))

    def _optional(self, table: str, record: type[Record]) -> Record | None:
        if table not in self._told:
            return None
        if not isinstance(self._told[table], dict):
            self._fail("", table, f"{table} is a table: write [{table}]")
        return self._table(table, record, self._told[table])

    def _table(self, table: str, record: type[Record], told: dict[str, Any]) -> Record:
        """A table as its record, its keys and values checked."""
        known = {field.name: field for field in fields(record)}  # type: ignore[arg-type]
        for key, value in told.items():
            if key not in known:
                self._fail(table, key, f"unknown key {key!r}{nearest(key, known)}")
            if f"{table}.{key}" in _TABLES and isinstance(value, dict):
                self._table(f"{table}.{key}", _TABLES[f"{table}.{key}"], value)
        needed = [name for name, field in known.items() if field.default is MISSING and name not in told]
        if needed:
            message = f"{self._at('', table)}: [{table}] needs {' and '.join(needed)}"
            raise JobError(message)
        try:
            return msgspec.convert(told, record)
        except msgspec.ValidationError as error:
            # msgspec's words: "Expected `int` >= 1 - at `$.r`"
            what, _, place = str(error).rpartition(" - at ")
            key = re.split(r"[.\[`]", place.removeprefix("`$."))[0]
            problem = f"{key} = {told.get(key)!r}: {what[0].lower()}{what[1:]}".replace("`", "")
            self._fail(table, key, problem + _choices(record, key, told.get(key)))

    def _fail(self, table: str, key: str, problem: str) -> NoReturn:
        message = f"{self._at(table, key)}: {problem}"
        raise JobError(message)

    def _at(self, table: str, key: str) -> str:
        """FILE:LINE of a key of a table, or of a table itself (the key of the table "")."""
        here = ""
        pattern = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]")
        for number, line in enumerate(self._text.splitlines(), 1):
            heading = re.match(r"\s*\[+\s*([^\]]*?)\s*\]", line)
            here = heading[1].replace('"', "").replace(" ", "") if heading else here
            found = here.split(".")[0] == key if heading and not table else here == table and pattern.match(line)
            if found:
                return f"{self._file}:{number}"
        return f"{self._file}:1"
