"""Suites that are sampled from the data sets of others, through the real `datasets` against a Hub on loopback. Run as a
user runs it, in processes of their own, because `datasets` reads its environment once, at import."""

from __future__ import annotations

import csv
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub import Hub
from test_hub import errors, python

from llmct_bench import evaluate, get_suite, load, wrap
from llmct_bench.emotions import NEUTRAL
from llmct_bench.suites import Suite, SuiteCard, get_card, list_suites, shipped_root
from llmct_bench.suites.sample import sample

REPO, CLOSED = "someone/feelings", "someone/closed"
#: of the 28 labels of the data set those that are mapped, and two that are not
NAMES = {2: "anger", 17: "joy", 25: "sadness", 27: "neutral"}
OTHERS = (0, 13)
FILE_COMMIT = "76666d251f147cf518071bef4f8415dab6b96115"
Rows = list[dict[str, Any]]


def phantom_texts(emotion: str, n: int = 12) -> list[str]:
    """Texts of the shipped suite, whose words phantoms know."""
    found = [i for i in get_suite("circumplex").items if i.keyworded and i.emotion == emotion]
    strong = [i for i in found if i.intensity in (0, 3)]
    return [i.messages[0].content for i in strong[:n]]


def feelings() -> Rows:
    """Rows as GoEmotions has them: twelve texts of each mapped label, and rows that must not be drawn."""
    rows = [{"text": t, "labels": [k]} for k, name in NAMES.items() for t in phantom_texts(name)]
    rows += [{"text": f"this row has two of the feelings, number {k}", "labels": [2, 17]} for k in range(9)]
    rows += [{"text": f"this row has another feeling, number {k}", "labels": [k % 2 and 13]} for k in range(9)]
    rows += [{"text": f"short {k}", "labels": [17]} for k in range(9)]
    return [{**row, "id": f"e{n:04d}"} for n, row in enumerate(rows[::-1])]


def save_feelings(folder: Path) -> None:
    """A data set with two configurations, label names in its card alone, and parquet files."""
    rows = feelings()
    label = {"class_label": {"names": {str(k): NAMES.get(k, f"other {k}") for k in range(28)}}}
    features = [{"name": "text", "dtype": "string"}, {"name": "labels", "sequence": label}]
    features.append({"name": "id", "dtype": "string"})
    schema = pa.schema([("text", pa.string()), ("labels", pa.list_(pa.int64())), ("id", pa.string())])
    infos, configs = [], []
    for name in ("simplified", "raw"):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / name / "train-00000-of-00001.parquet")
        split = {"name": "train", "num_examples": len(rows), "num_bytes": 1}
        infos.append({"config_name": name, "features": features, "splits": [split]})
        configs.append({"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train-*"}]})
    card = yaml.safe_dump({"dataset_info": infos, "configs": configs}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{card}---\n")


def source(commit: str, **changes: Any) -> dict[str, Any]:
    """The source of a suite that is sampled from the data set."""
    facts: dict[str, Any] = {"repo": REPO, "revision": commit, "configuration": "simplified", "split": "train"}
    facts |= {"columns": {"text": "text", "label": "labels", "cluster": "id"}, "labels": dict(NAMES), "words": [5, 60]}
    return {**facts, "sample": {"blocks": 10, "seed": 0}, **changes}


def save_suite(folder: Path, source: dict[str, Any], **changes: Any) -> Path:
    """A suite folder that holds nothing but a card."""
    folder.mkdir(parents=True)
    card = {"name": folder.name, "version": "1.0.0", "design": "circumplex", "summary": "Feelings.", "licence": "MIT"}
    (folder / "suite.yaml").write_text(json.dumps({**card, "citation": "A test.", "source": source, **changes}))
    return folder


READ = """
import json, sys
from llmct_bench import evaluate, get_suite, load, wrap
from llmct_bench.errors import SuiteError
for name in sys.argv[1:]:
    try:
        suite = get_suite(name)
        rows = [[i.emotion, i.messages[0].content, i.valence, i.arousal] for i in suite.items]
        print(json.dumps({"hash": suite.content_hash, "rows": rows}))
    except SuiteError as error:
        print(json.dumps({"error": str(error)}))
"""
OFFLINE = "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n"


def read(*folders: Path, hub: Hub, home: Path, offline: bool = False) -> list[dict[str, Any]]:
    """What becomes of suites in a process of its own: hash and rows, or the error, each."""
    names = [f"./{f.relative_to(home.parent).as_posix()}" for f in folders]
    done = python("-c", OFFLINE * offline + READ, *names, endpoint=hub.url, home=home)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Hub holds."""
    root = tmp_path_factory.mktemp("repositories")
    for name in (REPO, CLOSED):
        save_feelings(root / "datasets" / name)
    return root


# --- data sets on the Hub ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(repositories: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hub, list[dict[str, Any]]]:
    """A first run with the Hub, which is gone afterwards: the suite's folder, the Hub, and what was read."""
    top = tmp_path_factory.mktemp("first")
    with Hub(repositories) as hub:
        folder = save_suite(top / "feelings", source(hub.commit("datasets", REPO)))
        found = read(folder, hub=hub, home=top / "home")
    return folder, hub, found


def test_the_items_are_rows_of_the_data_set(first: tuple) -> None:
    """Ten blocks of the mapped labels: every text has the one label that its emotion stands for."""
    rows = first[2][0]["rows"]
    by_text = {" ".join(r["text"].split()): r["labels"] for r in feelings()}
    assert [[NAMES[k] for k in by_text[text]] for _, text, _, _ in rows] == [[emotion] for emotion, *_ in rows]
    assert {e: sum(r[0] == e for r in rows) for e in NAMES.values()} == dict.fromkeys(NAMES.values(), 10)


def test_a_data_set_is_downloaded_once(first: tuple) -> None:
    """One file of the configuration that the card names is fetched, at the commit, none of the other one."""
    folder, hub, _ = first
    commit = json.loads((folder / "suite.yaml").read_text())["source"]["revision"]
    fetched = [r for r in hub.requests if r.startswith("GET /") and r.endswith(".parquet")]
    assert fetched == [f"GET /datasets/{REPO}/resolve/{commit}/simplified/train-00000-of-00001.parquet"]


def test_offline_from_the_cache_gives_the_same_items(first: tuple) -> None:
    """The Hub is gone, the content hash stays; nobody is asked."""
    folder, hub, found = first
    asked = len(hub.requests)
    assert read(folder, hub=hub, home=folder.parent / "home", offline=True) == found
    assert len(hub.requests) == asked


def test_another_commit_is_not_taken_from_the_cache(first: tuple) -> None:
    """Offline, a card that pins a commit which is not in the cache is refused, not given what is there."""
    folder, hub, _ = first
    other = save_suite(folder.parent / "other", source("f" * 40))
    (found,) = read(other, hub=hub, home=folder.parent / "home", offline=True)
    assert "error" in found


def test_offline_without_cache_is_one_line(repositories: Path, tmp_path: Path) -> None:
    """The command says what is missing, exits with 1, and asks nobody."""
    with Hub(repositories) as hub:
        save_suite(tmp_path / "feelings", source(hub.commit("datasets", REPO)))
        arguments = ["run", "--models", "phantom/neutral", "--suites", "./feelings", "--offline", "--output", "out"]
        done = python("-m", "llmct_bench.cli", *arguments, endpoint=hub.url, home=tmp_path / "home")
    (error,) = errors(done)
    assert error.startswith(f"{REPO}: not in the cache")
    assert [line[:6] for line in done.stderr.splitlines() if line.strip()] == ["error:"]
    assert (done.stdout, hub.requests) == ("", [])
    assert not (tmp_path / "out").exists()


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "revision": ({"revision": "f" * 40}, (REPO, "revision")),
    "absent": ({"repo": "someone/absent"}, ("someone/absent", "on the Hub")),
    "gated": ({"repo": CLOSED}, (CLOSED, "gated")),
    "configuration": ({"configuration": "simple"}, (REPO, "'simple' not found", "simplified")),
    "split": ({"split": "test"}, (REPO, '"test"', "train")),
    "column": (
        {"columns": {"text": "comment", "label": "labels"}},
        (REPO, "no column 'comment'; there are text, labels"),
    ),
    "labels": ({"labels": {"17": "joy", "5": "fear"}}, (REPO, "no text of fear")),
}


@pytest.fixture(scope="module")
def refused(repositories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What becomes of cards that ask for what the Hub does not give, one after the other in one process."""
    top = tmp_path_factory.mktemp("refused")
    with Hub(repositories, gated=(CLOSED,)) as hub:
        commit = hub.commit("datasets", REPO)
        folders = [save_suite(top / name, source(commit, **change)) for name, (change, _) in REFUSED.items()]
        return dict(zip(REFUSED, read(*folders, hub=hub, home=top / "home"), strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "revision",
        *list(REFUSED)[1:],
    ],
)
def test_what_the_hub_refuses_is_one_line(refused: dict[str, dict[str, Any]], name: str) -> None:
    """The line names the data set and what was wrong: revision, repository, terms, configuration, split or column."""
    error = refused[name]["error"]
    assert [says for says in REFUSED[name][1] if says not in error] == [], error
    assert "\n" not in error


def test_streaming_gives_the_same_items(repositories: Path, first: tuple, tmp_path: Path) -> None:
    """Rows that are read on the way, and labels by name, make the same suite; nothing is stored as a data set."""
    with Hub(repositories) as hub:
        commit = hub.commit("datasets", REPO)
        by_name = {name: name for name in NAMES.values()}
        folders = [
            save_suite(tmp_path / "streamed", source(commit, streaming=True)),
            save_suite(tmp_path / "named", source(commit, streaming=True, labels=by_name)),
        ]
        found = read(*folders, hub=hub, home=tmp_path / "home")
    assert [f["hash"] for f in found] == [first[2][0]["hash"]] * 2
    assert not list((tmp_path / "home").rglob("*.arrow"))


# --- files at addresses -----------------------------------------------------------------------------------------

#: ratings from 1 to 5 of texts in the corners and in the middle; the margin of the card is a tenth of the way
RATED = [(4.2, 3.4, "joy"), (1.8, 4.0, "anger"), (2.0, 2.6, "sadness"), (3.9, 2.1, "calm"), (3.05, 2.95, NEUTRAL)]
PLUTCHIK = {1: "anger", 3: "disgust", 4: "fear", 5: "joy", 6: "sadness"}


def rated_csv() -> str:
    """As EmoBank: a row of names, quoted texts, ratings, and one line with a column too many."""
    lines = ["id,split,V,A,D,text"]
    for v, a, emotion in RATED:
        for k, text in enumerate(phantom_texts(emotion, 6)):
            lines.append(f'{emotion}_{k},train,{v},{a},3.0,"{text} ""And so,"" he said."')
    lines.insert(3, 'stray,train,3.0,3.0,3.0,"too many columns here, surely",7')
    lines.insert(9, 'between,train,3.4,3.1,3.0,"neither clear nor in the middle of it all"')
    return "\n".join(lines) + "\n"


def labelled_tsv() -> str:
    """As XED: text and labels without a row of names, quotes that mean nothing, stray lines."""
    lines = []
    for label, emotion in PLUTCHIK.items():
        lines += [f'"This is line {k} of {emotion}, he said.\t{label}' for k in range(7)]
        lines += [f"This line {k} has {emotion} and surprise.\t{label}, 7" for k in range(3)]
    lines.insert(5, "This line has a tab\tin the middle\t5")
    lines.insert(8, "This line has no label at all")
    lines.insert(9, "- All\ufffd right, this line\t\t")
    lines.insert(12, "This line has two labels of ours\t1, 3")
    return "\n".join(lines) + "\n"


def file_source(address: str, name: str, **changes: Any) -> dict[str, Any]:
    """The source of a suite that is sampled from one of the two files."""
    facts: dict[str, Any] = {"files": [address], "sample": {"blocks": 5}, "words": [4, 60]}
    if name == "rated":
        facts |= {"format": "csv", "columns": {"text": "text", "valence": "V", "arousal": "A"}}
        return {**facts, "ratings": {"low": 1, "high": 5, "margin": 0.1}, **changes}
    facts |= {"format": "tsv", "header": ["text", "labels"], "labels": dict(PLUTCHIK)}
    return {**facts, "columns": {"text": "text", "label": "labels", "separator": ","}, **changes}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Both files read whole and streamed while they are served, and offline when they are gone."""
    top = tmp_path_factory.mktemp("served")
    raw = top / "raw" / FILE_COMMIT
    raw.mkdir(parents=True)
    (raw / "rated.csv").write_text(rated_csv(), encoding="utf-8")
    (raw / "labelled.tsv").write_text(labelled_tsv(), encoding="utf-8")
    (raw / "front.tsv").write_text("A stray line\tright\tin front\n" + labelled_tsv(), encoding="utf-8")
    with Hub(top) as hub, Hub(top) as elsewhere:  # `datasets` takes addresses on the Hub itself for repositories
        address = f"{elsewhere.url}/raw/{FILE_COMMIT}"
        sources = {name: (f"{address}/{name}.{kind}", name) for name, kind in (("rated", "csv"), ("labelled", "tsv"))}
        plain = [save_suite(top / name, file_source(*s)) for name, s in sources.items()]
        streamed = [save_suite(top / f"{n}-s", file_source(*s, streaming=True)) for n, s in sources.items()]
        front = save_suite(top / "front", file_source(f"{address}/front.tsv", "labelled"))
        gone = save_suite(top / "gone", file_source(f"{address}/absent.csv", "rated"))
        found = read(*plain, *streamed, front, gone, hub=hub, home=top / "home")
    again = read(*plain, hub=hub, home=top / "home", offline=True)
    names = ["rated", "labelled", "rated-s", "labelled-s", "front", "gone"]
    return top, dict(zip(names, found, strict=True)), dict(zip(names, again, strict=False))


def test_ratings_of_a_csv_at_an_address(served: tuple) -> None:
    """Corners become quadrants, the middle neutral; quotes are read as csv has them; stray lines are passed over."""
    rows = served[1]["rated"]["rows"]
    assert {e: sum(r[0] == e for r in rows) for *_, e in RATED} == {e: 5 for *_, e in RATED}
    for emotion, text, valence, arousal in rows:
        v, a, _ = next(r for r in RATED if r[2] == emotion)
        assert (valence, arousal) == pytest.approx(((v - 3) / 2, (a - 3) / 2))
        assert text.removesuffix(' "And so," he said.') in phantom_texts(emotion, 6)


def test_labels_of_a_tsv_without_names(served: tuple) -> None:
    """Lines with one mapped label are drawn, whatever quotes they hold; those with others, and stray ones, are not."""
    rows = served[1]["labelled"]["rows"]
    assert {e: sum(r[0] == e for r in rows) for e in PLUTCHIK.values()} == dict.fromkeys(PLUTCHIK.values(), 5)
    assert [text for emotion, text, *_ in rows if not text.startswith('"This is line') or emotion not in text] == []


def test_a_stray_line_in_front_is_passed_over(served: tuple) -> None:
    """Wherever stray lines stand, they leave the others alone."""
    assert served[1]["front"]["hash"] == served[1]["labelled"]["hash"]


def test_streamed_files_give_the_same_items(served: tuple) -> None:
    """csv and tsv, whole and on the way."""
    for name in ("rated", "labelled"):
        assert served[1][f"{name}-s"]["hash"] == served[1][name]["hash"]


def test_files_come_from_the_cache_when_offline(served: tuple) -> None:
    """What was read once is there without a network."""
    assert served[2] == {name: served[1][name] for name in ("rated", "labelled")}


def test_a_file_that_is_not_there_is_one_line(served: tuple) -> None:
    """The address is named."""
    error = served[1]["gone"]["error"]
    assert "absent.csv" in error
    assert "\n" not in error


# --- end to end -------------------------------------------------------------------------------------------------

LACKING = {"feelings": {}, "tweets": {27: "neutral"}, "two": {2: "anger", 25: "sadness"}}


def test_traits_without_the_texts_they_need_say_so() -> None:
    """A model is measured on samples of these rows: what can be estimated is, the rest is invalid with a reason."""
    phantom = load("phantom/neutral")
    model = wrap(phantom.module, phantom.tokenizer, "copy")  # no phantom by name: all items count
    suites = []
    for name, lacking in LACKING.items():
        labels = {k: v for k, v in NAMES.items() if k not in lacking}
        facts = {"name": name, "version": "1.0.0", "design": "circumplex", "summary": "s", "licence": "MIT"}
        card = SuiteCard.model_validate({**facts, "source": source("f" * 40, labels=labels)})
        assert card.source is not None
        suites.append(Suite(card, tuple(sample(feelings(), card.source))).limited(8))
    found = {c.suite: {t.trait: t for t in c.traits} for c in evaluate(model, suites)[1:]}
    assert list(found) == [f"{name}@1.0.0~limit8" for name in LACKING]
    feel, tweets, two = found.values()
    valid = ["separability", "joy_bias", "joy_output", "neutral_offset", "selectivity"]
    assert [t for t in feel if feel[t].valid] == valid
    assert [t for t in tweets if tweets[t].valid] == ["separability", "joy_bias", "selectivity"]
    assert [t for t in two if two[t].valid] == ["joy_output"]  # it asks for neutral text only
    assert {t.n_clusters for traits in found.values() for t in traits.values() if t.valid} == {8}
    assert "neutral" in tweets["joy_output"].reason
    assert "neutral items" in tweets["neutral_offset"].reason
    assert two["joy_bias"].reason.endswith("there are: joy")
    assert two["separability"].reason == "two core emotions are needed"


def test_a_phantom_runs_on_a_sampled_suite(repositories: Path, tmp_path: Path) -> None:
    """The command measures and reports: a result of eight blocks, every trait of it with a number or a reason."""
    with Hub(repositories) as hub:
        save_suite(tmp_path / "feelings", source(hub.commit("datasets", REPO)))
        arguments = ["--models", "phantom/neutral", "--suites", "./feelings", "--limit", "8", "--output", "out"]
        done = python("-m", "llmct_bench.cli", "run", *arguments, endpoint=hub.url, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out" / "results").rglob("feelings@1.0.0~limit8/card.json")
    card = json.loads(path.read_text())
    assert (card["n_scenarios"], card["n_readouts"], card["left_out"]) == (8, 32, [])
    assert card["traits"]
    assert all(t["valid"] or t["reason"] for t in card["traits"])
    assert (tmp_path / "out" / "reports" / "leaderboard.md").is_file()


# --- the real data sets -----------------------------------------------------------------------------------------

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data sets of others lie beside the repository, not in it")
#: every suite that is sampled from files, with the file that lies here
FILES = {
    name: DATA / name.split("-")[0] / Path(get_card(name).source.files[0]).name
    for name in list_suites()
    if get_card(name).source and get_card(name).source.files
}

COUNT = """
import json, sys
from llmct_bench.suites import get_card
from llmct_bench.suites.hub import read_source
from llmct_bench.suites.sample import sample
for name, path in json.loads(sys.argv[1]).items():
    source = get_card(name).source.model_copy(update={"files": (path,)})
    found, _, names = read_source(source)
    rows = list(found)
    drawn = [[i.emotion, i.messages[0].content] for i in sample(rows, source, names)]
    every = source.model_copy(update={"sample": source.sample.model_copy(update={"blocks": 10**6})})
    counts = {}
    for emotion in dict.fromkeys(source.labels.values()):
        labels = {k: v for k, v in source.labels.items() if v == emotion}
        counts[emotion] = len(sample(rows, every.model_copy(update={"labels": labels}), names))
    print(json.dumps({"rows": len(rows), "drawn": drawn, "counts": counts, "all": len(sample(rows, every, names))}))
"""


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the package makes of the files, read by the sources of the shipped cards."""
    home = tmp_path_factory.mktemp("counted") / "home"
    files = json.dumps({name: str(path) for name, path in FILES.items()})
    done = python("-c", OFFLINE + COUNT, files, endpoint="http://127.0.0.1:9", home=home)
    assert done.returncode == 0, done.stderr
    return dict(zip(FILES, map(json.loads, done.stdout.splitlines()), strict=True))


def plain(text: str) -> str:
    """A text as texts are compared."""
    return " ".join(text.split()).lower()


def usable(text: str, limits: list[int]) -> bool:
    """Whether a text has a number of words between the limits."""
    return limits[0] <= len(text.split()) <= limits[1]


def balanced(drawn: list[list[str]], rarest: int, blocks: int) -> bool:
    """Every emotion as often as asked for, or as the rarest can be."""
    counts = Counter(emotion for emotion, _ in drawn)
    return set(counts.values()) == {min(rarest, blocks)}


@real_data
@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("xed")])
def test_xed_cards_fit_their_files(counted: dict[str, Any], name: str) -> None:
    """Texts of every emotion are as many as lines with two fields say whose labels all mean it."""
    card = yaml.safe_load((shipped_root() / name / "suite.yaml").read_text("utf-8"))["source"]
    texts: dict[str, set[str]] = {e: set() for e in card["labels"].values()}
    for line in FILES[name].read_text("utf-8").split("\n"):
        fields = line.rstrip("\r").split("\t")
        if len(fields) != 2 or not usable(fields[0], card["words"]):
            continue
        emotions = {card["labels"].get(int(k)) for k in fields[1].split(",")}
        if len(emotions) == 1 and None not in emotions:
            texts[emotions.pop()].add(plain(fields[0]))
    assert counted[name]["counts"] == {e: len(found) for e, found in texts.items()}
    drawn = counted[name]["drawn"]
    assert balanced(drawn, min(map(len, texts.values())), card["sample"]["blocks"])
    assert [text for emotion, text in drawn if plain(text) not in texts[emotion]] == []


@real_data
def test_the_emobank_card_fits_its_file(counted: dict[str, Any]) -> None:
    """Quadrants by exact fractions: the rarest has as many texts as can be drawn, and every drawn text lies in its
    own."""
    card = yaml.safe_load((shipped_root() / "emobank" / "suite.yaml").read_text("utf-8"))["source"]
    low, high, margin = (Fraction(str(card["ratings"][k])) for k in ("low", "high", "margin"))
    with FILES["emobank"].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts: dict[str, set[str]] = {}
    for row in rows:
        v, a = (2 * (Fraction(row[k]) - low) / (high - low) - 1 for k in ("V", "A"))
        corners = {(True, True): "joy", (False, True): "anger", (False, False): "sadness", (True, False): "calm"}
        emotion = corners[v > 0, a > 0] if min(abs(v), abs(a)) >= margin else ""
        emotion = NEUTRAL if max(abs(v), abs(a)) < margin / 2 else emotion
        if emotion and usable(row["text"], card["words"]):
            texts.setdefault(emotion, set()).add(plain(row["text"]))
    found = counted["emobank"]
    assert found["rows"] == len(rows) > 10_000
    assert [text for emotion, text in found["drawn"] if plain(text) not in texts[emotion]] == []
    assert balanced(found["drawn"], min(map(len, texts.values())), card["sample"]["blocks"])
    assert found["all"] == 5 * min(map(len, texts.values()))


@real_data
def test_the_goemotions_card_fits_its_labels() -> None:
    """The numbers of the card are those of the data set, and every label has the texts that a plain count gives."""
    source = get_card("goemotions").source
    names = (DATA / "goemotions" / "labels.txt").read_text().split()
    assert {names[int(k)]: v for k, v in source.labels.items()} == {v: v for v in source.labels.values()}
    with (DATA / "goemotions" / "train.tsv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [{"text": t, "labels": [int(k) for k in labels.split(",")], "id": i} for t, labels, i in lines]
    texts: dict[str, set[str]] = {e: set() for e in source.labels.values()}
    for text, labels, _ in lines:
        emotions = {names[int(k)] for k in labels.split(",")}
        if len(emotions) == 1 and emotions <= set(texts) and usable(text, source.words):
            texts[emotions.pop()].add(plain(text))
    for emotion, found in texts.items():
        labels = {k: v for k, v in source.labels.items() if v == emotion}
        every = source.model_copy(
            update={"labels": labels, "sample": source.sample.model_copy(update={"blocks": 10**6})}
        )
        assert len(sample(rows, every)) == len(found), emotion
    drawn = [[i.emotion, i.messages[0].content] for i in sample(rows, source)]
    assert balanced(drawn, min(map(len, texts.values())), source.sample.blocks)
