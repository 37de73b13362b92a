"""What was changed in stored results or their pages is found and named; what was not is not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from handmade import Cli, card, trait

from llmct_bench.benchmark import run
from llmct_bench.errors import ResultError
from llmct_bench.results import ResultStore
from llmct_bench.results.sums import broken_sums, write_sums
from llmct_bench.suites import get_suite
from llmct_bench.verify import verify

pytest_plugins = ("stored_run",)


def shock(output: Path) -> Path:
    """The folder of one result that has estimates."""
    (place,) = output.glob("results/phantom--absorbing/*/shock*")
    return place


def seal(place: Path) -> None:
    """New checksums, as of someone who knows of them."""
    (place / "SHA256SUMS").unlink()
    write_sums(place, {})


def change_card(place: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a card as an editor would."""
    data = json.loads((place / "card.json").read_text(encoding="utf-8"))
    change(data)
    (place / "card.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def test_untouched_results_and_reports_pass(cli: Cli, stored: Path) -> None:
    """Exit code 0 and a count: six results of two models."""
    done = cli("verify", "--output", stored)
    assert (done.code, done.err) == (0, "")
    assert done.out == "6 results and their reports: no findings\n"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_checksums_are_those_of_the_system(stored: Path) -> None:
    """``sha256sum --check`` reads the file and agrees, and every other file of the folder is in it."""
    for place in ResultStore(stored / "results").places():
        done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0
        assert {line.split(":")[0] for line in done.stdout.splitlines()} == {p.name for p in place.iterdir()} - {
            "SHA256SUMS"
        }


NUMBERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "dampening": lambda c: c["traits"][0].update(estimate=c["traits"][0]["estimate"] * (1 + 3e-9)),
    "dampening.se": lambda c: c["traits"][0].update(se=c["traits"][0]["se"] * 0.9),
    "shock_absorption.per_cluster": lambda c: c["traits"][1]["per_cluster"].update(
        dict.fromkeys(list(c["traits"][1]["per_cluster"])[:1], 0.25)
    ),
    "shock_absorption.valid": lambda c: c["traits"][1].update(valid=not c["traits"][1]["valid"]),
    "raw.backbone.joy": lambda c: c["raw"]["backbone"].update(joy=0.999),
    "shock_absorption": lambda c: c["traits"].pop(1),
    "n_readouts": lambda c: c.update(n_readouts=c["n_readouts"] + 1),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_changed_number_of_a_card_is_found(name: str, copied: Path) -> None:
    """By the checksum, and without it by computing the number again: one line that names it."""
    place = shock(copied)
    change_card(place, NUMBERS[name])
    first, second = (str(f) for f in verify(copied))
    assert first == f"{place / 'card.json'}: is not the file that was saved (sha256)"
    seal(place)
    (found,) = verify(copied)
    assert str(found) == second
    assert second.startswith(f"{place / 'card.json'}: {name}")
    assert "the stored scores give" in second


def test_a_rounding_difference_is_none(copied: Path) -> None:
    """Another machine may compute the last digits in another way."""
    place = shock(copied)
    change_card(place, lambda c: c["traits"][0].update(estimate=c["traits"][0]["estimate"] * (1 + 1e-11)))
    seal(place)
    assert verify(copied) == []


@pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("name", ["scores.parquet", "versions.safetensors"])
def test_a_changed_byte_is_found(name: str, where: float, copied: Path, cli: Cli) -> None:
    """Wherever it is; exit code 1 with one line, also as JSON."""
    path = shock(copied) / name
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    shutil.rmtree(copied / "reports")
    done = cli("verify", "--output", copied)
    assert done.code == 1
    assert done.out.splitlines()[:-1] == [f"{path}: is not the file that was saved (sha256)"]
    problem = {"place": str(path), "problem": "is not the file that was saved (sha256)"}
    assert cli("verify", "--output", copied, "--json").json == [problem]


def test_changed_scores_are_found_without_checksums(copied: Path) -> None:
    """The scores of one readout are raised by a tenth; what was computed from the old ones is named."""
    place = shock(copied)
    frame = pd.read_parquet(place / "scores.parquet")
    point = json.loads((place / "card.json").read_text())["fit"]["layer"]["point"]
    rows = np.flatnonzero((frame["point"] == point) & (frame["intensity"] == 3))[:1]
    frame.loc[rows, ["joy", "anger", "sadness", "calm"]] += 0.1
    frame.to_parquet(place / "scores.parquet", index=False)
    seal(place)
    problems = [f.problem for f in verify(copied)]
    assert problems
    assert all("the stored scores give" in p for p in problems)


def test_scores_that_cannot_be_read_are_one_finding(copied: Path) -> None:
    """Half a file with a checksum of its own."""
    path = shock(copied) / "scores.parquet"
    path.write_bytes(path.read_bytes()[:2000])
    seal(path.parent)
    (finding,) = verify(copied)
    assert f"{path} cannot be read" in finding.problem
    path.unlink()
    assert {f.place.name for f in verify(copied)} == {"scores.parquet"}


@pytest.mark.parametrize("value", [None, 7, "x", [], {}], ids=str)
def test_nonsense_in_a_card_is_a_finding(value: Any, copied: Path) -> None:
    """Whatever lies in a field, and whoever made the checksums: a finding, never an error of the program."""
    place = shock(copied)
    for other in {*ResultStore(copied / "results").places()} - {place}:
        if not other.name.startswith("reference@") or other.parent != place.parent:
            shutil.rmtree(other)
    assert verify(copied) == []
    before = (place / "card.json").read_text(encoding="utf-8")
    for name in ("model", "commit", "suite", "fit", "traits", "raw", "n_readouts", "design"):
        change_card(place, lambda c, name=name: c.update({name: value}))  # type: ignore[misc]
        seal(place)
        assert verify(copied), name
        (place / "card.json").write_text(before, encoding="utf-8")


def test_lost_files_broken_cards_and_wrong_places_are_found(copied: Path) -> None:
    """Each is named with what is wrong."""
    places = ResultStore(copied / "results").places()
    (places[0] / "SHA256SUMS").unlink()
    (places[1] / "card.json").write_text("{")
    (places[2] / "extra.txt").write_text("?")
    moved = places[3].rename(places[3].with_name("shock@9.9.9"))
    (places[4] / "SHA256SUMS").write_text("0  ../../card.json\n")
    found = {str(f.place): f.problem for f in verify(copied)}
    assert found.pop(str(places[0] / "SHA256SUMS")).startswith("is missing")
    assert found.pop(str(places[1] / "card.json")).startswith("cannot be read: not a result card")
    assert found.pop(str(places[2] / "extra.txt")) == "is not in SHA256SUMS"
    assert found.pop(str(moved)) == f"the result in it belongs into {places[3]}"
    assert found.pop(str(places[4] / "SHA256SUMS")) == "is no list of checksums"
    assert found == {}


def certificate(place: Path) -> Path:
    """The certificate of the model of a result."""
    (path,) = place.parent.glob("certificate-*.json")
    return path


def test_a_lost_or_changed_certificate_is_found(copied: Path) -> None:
    """The file that the cards of a model name: missing, with another error, of another subject."""
    path = certificate(shock(copied))
    text = path.read_text(encoding="utf-8")
    data = json.loads(text)
    path.unlink()
    (finding,) = {str(f.place): f for f in verify(copied)}.values()
    assert finding.place == path
    assert "is missing or broken" in finding.problem
    data["checks"][0]["error"] = 0.5 * (data["checks"][0]["error"] or 1.0)
    path.write_text(json.dumps(data), encoding="utf-8")
    problems = {f.problem for f in verify(copied)}
    assert problems == {f"is not the certificate that the card of {p.name} holds" for p in path.parent.glob("*@*")}
    path.write_text(text.replace('"dtype": "float32"', '"dtype": "bfloat16"'), encoding="utf-8")
    assert all("is missing or broken" in f.problem for f in verify(copied))
    path.write_text(text, encoding="utf-8")
    assert verify(copied) == []


def test_a_lost_or_foreign_fit_is_found(copied: Path) -> None:
    """The fit must lie with the reference that the cards name, and be the one that they tell of."""
    place = shock(copied)
    (reference,) = place.parent.glob("reference@*")
    (other,) = (p for p in copied.glob("results/*/*/reference@*") if p.parent != place.parent)
    shutil.copy(other / "fit.safetensors", reference / "fit.safetensors")
    assert next(str(f) for f in verify(copied)) == (
        f"{reference / 'fit.safetensors'}: is not the file that was saved (sha256)"
    )
    seal(reference)
    assert {f.place for f in verify(copied)} == {p / "card.json" for p in place.parent.glob("*@*")}
    (reference / "fit.safetensors").unlink()
    seal(reference)
    (finding,) = verify(copied)
    assert finding.place == reference / "fit.safetensors"
    assert "was scored on it" in finding.problem
    shutil.rmtree(reference)
    assert [f.place for f in verify(copied)] == [reference / "fit.safetensors"]


def test_a_reference_of_another_version_is_found(copied: Path) -> None:
    """A card that names another content of the reference than the one that lies there."""
    place = shock(copied)
    change_card(place, lambda c: c["fit"].update(reference_hash="0" * 16))
    seal(place)
    (finding,) = verify(copied)
    assert finding.place == place / "card.json"
    assert "another version of reference@" in finding.problem


def test_a_run_of_some_models_shows_all_results_of_its_folder(copied: Path, stored: Path) -> None:
    """One of two models is run again, of which nothing is measured: the reports are those of both, to the byte, and
    there is no finding."""
    suites = [get_suite("reference"), get_suite("shock").limited(8), get_suite("circumplex").limited(4)]
    shutil.rmtree(copied / "reports")
    board = run(["phantom/neutral"], suites, copied)
    assert {r.model["name"] for r in board.results} == {"phantom/neutral", "phantom/absorbing"}
    assert verify(copied, copied / "reports") == []
    for path in (stored / "reports").rglob("*.*"):
        assert (copied / path.relative_to(stored)).read_bytes() == path.read_bytes()


def test_changed_reports_are_found(copied: Path) -> None:
    """One digit of the page, one byte of a figure, a lost file: each named with its line."""
    reports = copied / "reports"
    page = reports / "leaderboard.md"
    text = page.read_text(encoding="utf-8")
    digit = re.search(r"\| phantom/absorbing *\| (\d)", text)
    assert digit is not None
    new = str((int(digit[1]) + 1) % 10)
    page.write_text(text[: digit.start(1)] + new + text[digit.end(1) :], encoding="utf-8")
    line = text[: digit.start(1)].count("\n") + 1
    figure, lost = sorted((reports / "figures").glob("*.png"))[:2]
    data = bytearray(figure.read_bytes())
    data[-20] ^= 1
    figure.write_bytes(data)
    lost.unlink()
    found = {f.place: f.problem for f in verify(copied, reports)}
    assert found.keys() == {page, figure, lost}
    assert f"from line {line} on" in found[page]
    assert found[lost] == "cannot be read: No such file or directory"


def test_a_page_of_another_title_is_held_against_its_own(copied: Path, cli: Cli) -> None:
    """What `report --title` wrote is verified with the same title."""
    there = copied / "there"
    assert cli("report", "--output", copied, "--to", there, "--title", "Mine").code == 0
    assert cli("verify", "--output", copied, "--reports", there, "--title", "Mine").code == 0
    done = cli("verify", "--output", copied, "--reports", there)
    assert done.code == 1
    assert {Path(line.split(": ")[0]).name for line in done.out.splitlines()[:-1]} == {
        "leaderboard.md",
        "leaderboard.html",
    }


def test_without_results_there_is_nothing_to_verify(tmp_path: Path, cli: Cli) -> None:
    """One line, exit code 1."""
    with pytest.raises(ResultError, match="no results under"):
        verify(tmp_path)
    assert cli("verify", "--output", tmp_path).code == 1


def test_checksums_are_written_with_every_save(tmp_path: Path) -> None:
    """Also where a result is replaced, and where there are no scores."""
    store = ResultStore(tmp_path)
    for value in (0.5, 0.7):
        place = store.save(card("m", trait(value=value)), None)
        assert broken_sums(place) == {}
        assert (place / "SHA256SUMS").read_text().split()[1] == "card.json"
