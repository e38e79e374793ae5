"""Names that become paths: nothing outside the folder meant is written or removed, also through symbolic links."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from helpers import Trained, query_rows, write_job

import clipstore
from clipstore.errors import BadNameError, CatalogError, is_path_name, path_name
from clipstore.store.layout import Store

Run = Callable[..., Result]


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.name != ".shards.lock")


@pytest.mark.parametrize("stem", ["..", ".hidden", "a\\b", "a\nb"])
@pytest.mark.parametrize("options", [(), ("--restart",)])
def test_a_job_whose_name_is_no_folder_is_refused(
    cli: Run, workspace: Path, store: Path, stem: str, options: tuple[str, ...]
) -> None:
    write_job("good").rename(f"jobs/{stem}.toml")
    before = files(store)
    for command in (("train", *options), ("run",)):
        words = ["--model"] * (command[0] == "train")
        assert "rename the file" in cli(*command, *words, f"jobs/{stem}.toml", code=1).stderr
    assert files(store) == before


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", ".git", "a\\b", "a\0b", "x" * 201, "é" * 101])
def test_a_name_that_could_lead_out_of_its_folder_is_refused(name: str) -> None:
    assert not is_path_name(name)
    with pytest.raises(BadNameError):
        path_name("model", name)
    with pytest.raises(BadNameError):
        Store(Path("/store")).adapter(name)


@pytest.mark.parametrize("name", ["demo", "my model (1)", "a..b", "x.base", "é", "x" * 200])
def test_a_name_within_its_folder_is_allowed(name: str) -> None:
    assert Store(Path("/store")).adapter(name) == Path("/store/adapters") / name


def test_a_model_of_an_earlier_version_with_such_a_name_can_be_removed(cli: Run, workspace: Path, store: Path) -> None:
    with Store(store).catalog.write() as session:
        session.run(
            "model/add",
            model_id=9, name="..", family="clip", base="bundled:demo", adapter=None, prompt=None, clean=False,
            exif_orientation=False, origin="job",
        )  # fmt: skip
    before = files(store)
    cli("info")
    cli("model", "list")
    cli("model", "remove", "..", "--adapter", "--yes")
    assert files(store) == before
    assert query_rows(store, "SELECT name FROM models WHERE name = '..'") == []


@pytest.mark.parametrize(
    "command", [("model", "remove", "tuned", "--adapter", "--yes"), ("train", "--model", "tuned", "--restart")]
)
def test_an_adapter_that_is_a_link_is_not_removed(
    cli: Run, trained: Trained, tmp_path: Path, command: tuple[str, ...]
) -> None:
    adapter, elsewhere = trained.store / "adapters" / "tuned", tmp_path / "elsewhere"
    adapter.rename(elsewhere)
    adapter.symlink_to(elsewhere)
    before = files(elsewhere)
    assert "remove the link yourself" in cli(*command, code=1).stderr
    assert files(elsewhere) == before
    assert query_rows(trained.store, "SELECT name FROM models WHERE name = 'tuned'")


def test_links_within_an_adapter_are_not_followed(cli: Run, trained: Trained, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    (trained.store / "adapters" / "tuned" / "link").symlink_to(elsewhere)
    cli("model", "remove", "tuned", "--adapter", "--yes")
    assert not (trained.store / "adapters" / "tuned").exists()
    assert (elsewhere / "file").exists()


@pytest.mark.parametrize("name", ["a?b", "?", "a\\b", "a\udcffb"])
def test_a_store_path_that_duckdb_reads_as_another_is_refused(cli: Run, tmp_path: Path, name: str) -> None:
    with pytest.raises(CatalogError, match="a store cannot be in"):
        clipstore.open(tmp_path / name)
    assert "a store cannot be in" in cli("info", "--store", str(tmp_path / name), code=1).stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a'b\"", "a:b;c", "*[x]", "%41", "a#b$c", "é", "a\nb"])
def test_other_store_paths_are_opened(tmp_path: Path, name: str) -> None:
    catalog = Store(tmp_path / name).catalog
    with catalog.write(create=True):
        pass
    with catalog.read() as session:
        assert session.rows("split/list") == []
    assert [folder.name for folder in tmp_path.iterdir()] == [name]


def test_an_export_removes_only_its_own_temporary_folders(cli: Run, workspace: Path, tmp_path: Path) -> None:
    mine, left = (
        tmp_path / ".out.tmp" / "file",
        tmp_path / f".out.{2**22 + 1}.tmp" / "file",
    )  # above the largest process
    for file in (mine, left):
        file.parent.mkdir()
        file.touch()
    cli("export", "vectors", "--model", "demo", "--split", "t/val", tmp_path / "out")
    assert mine.exists()
    assert not left.parent.exists()
