"""The CT picture: what its page and figures hold, and what the page does in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from handmade import Cli
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from llmct_bench.ctpage import page, picture, write
from llmct_bench.ctpage.page import pack, unpack
from llmct_bench.ctpage.picture import limit
from llmct_bench.ctscan import CTScan, get_conversation
from llmct_bench.emotions import NAMES
from llmct_bench.errors import ResultError

SCORES = (*NAMES, "valence", "arousal")
HOSTILE = (
    "</script><img src=x onerror=\"document.title='hurt'\"><script>document.title='hurt'</script>",
    "<b>bold</b> &lt;i&gt; {{data}} {{script}} ]]> <!-- --> <svg/onload=alert(1)>",
    "a\u2028b\u2029c\x00\x07\n\n$\\frac{1}{2}$ " + "x" * 300,
    "\u202eשלום עולם مرحبا \U0001f600 日本語 e\u0301",
)


def handmade(
    texts: tuple[str, ...] = HOSTILE,
    points: int = 5,
    *,
    control: bool = True,
    labels: tuple[str, ...] = ("joy", "fear", "joy.assistant"),
    stages: tuple[str, ...] = ("joy", "joy", "<i>fear</i>", ""),
    title: str = "</title><script>document.title='hurt'</script> & so on",
) -> CTScan:
    """A scan with random numbers; every message is cut into tokens of up to five letters."""
    rng = np.random.default_rng(0)
    spoken = ("prompt-0", "control") if control else ("prompt-0",)
    rows = [
        (c, n, ("user", "assistant")[n % 2], (*stages, *[""] * len(texts))[n], p)
        for c in spoken
        for n in range(len(texts))
        for p in range(points)
    ]
    frame = pd.DataFrame(rows, columns=["conversation", "message", "role", "stage", "point"])
    frame[list(SCORES)] = rng.normal(size=(len(rows), len(SCORES))) * 3
    frame[[f"raw_{label}" for label in labels]] = rng.uniform(0.5, 1, (len(rows), len(labels)))
    cut = [re.findall(r"\s*\S{1,5}|\s+$", t) for t in texts]
    said = [
        ("prompt-0", n, t, text, p)
        for n, parts in enumerate(cut)
        for t, text in enumerate(parts)
        for p in range(points)
    ]
    tokens = pd.DataFrame(said, columns=["conversation", "message", "token", "text", "point"])
    tokens[list(SCORES)] = rng.normal(size=(len(said), len(SCORES))) * 5
    return CTScan(frame, labels, points // 2, tokens, "a <b>model</b>", title)


class Reader(HTMLParser):
    """Collects elements, attributes and the text of the data block."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        key = attributes.get("id") or tag
        self.inside[key] = self.inside.get(key, "") + data


def data_of(text: str) -> Any:
    """The data block of a page, as a browser finds it."""
    return json.loads(Reader(text).inside["data"])


# --- the numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", [True, False])
def test_the_page_holds_the_numbers_and_texts_of_the_scan(control: bool) -> None:
    """Rounded to its steps, for every message, point, score and reference, and for every token."""
    scan = handmade(control=control)
    data = data_of(page(picture(scan)))
    wanted = {"own": ("prompt-0", NAMES, 0.01), "raw": ("prompt-0", [f"raw_{x}" for x in scan.labels], 0.0001)}
    if control:
        wanted |= {"control": ("control", *wanted["own"][1:]), "raw_control": ("control", *wanted["raw"][1:])}
    else:
        assert (data["control"], data["raw_control"]) == (None, None)
    for key, (conversation, columns, step) in wanted.items():
        rows = scan.frame[scan.frame["conversation"] == conversation]
        found = unpack(data[key])
        assert found.shape == (4, 5, len(columns))
        for row in rows.to_dict("records"):
            expected = [row[c] for c in columns]
            np.testing.assert_allclose(found[row["message"], row["point"]], expected, atol=step / 2 + 1e-9)
    tokens = unpack(data["tokens"]).reshape(-1, len(NAMES))
    np.testing.assert_allclose(tokens, scan.tokens[list(NAMES)], atol=0.005 + 1e-9)
    assert ["".join(m["tokens"]) for m in data["messages"]] == list(HOSTILE)
    assert [m["stage"] for m in data["messages"]] == ["joy", "joy", "<i>fear</i>", ""]
    assert (data["title"], data["model"], data["point"]) == (scan.title, scan.model, 2)
    assert (data["emotions"], data["labels"]) == (list(NAMES), list(scan.labels))


def test_cosines_close_to_one_stay_apart() -> None:
    """A rogue dimension puts all of them within a few millionths of 1: the nearest reference is still the nearest."""
    scan = handmade()
    raw = [f"raw_{label}" for label in scan.labels]
    frame = scan.frame.copy()
    frame[raw] = 1 - 2e-6 * (1 - frame[raw])
    shown = picture(replace(scan, frame=frame))
    found = unpack(data_of(page(shown))["raw"])
    assert np.array_equal(found.argmax(axis=-1), shown.raw.argmax(axis=-1))
    np.testing.assert_allclose(found, shown.raw, atol=1e-8)


@given(arrays(np.float64, array_shapes(min_dims=3, max_dims=3, max_side=4), elements=st.floats(-1e6, 1e6)))
def test_packed_numbers_come_back(values: np.ndarray) -> None:
    """To half a step, which is a power of ten and no larger than needed."""
    packed = pack(values, 0.01)
    assert np.abs(unpack(packed) - values).max() <= packed["step"] / 2 * (1 + 1e-9)
    assert packed["step"] == 0.01 or np.abs(values).max() / packed["step"] > 3276


@given(st.floats(1e-6, 1e6))
def test_the_end_of_a_scale_is_a_round_number(value: float) -> None:
    """Of two digits, not below the largest value, and close to it."""
    end = limit(np.full((3, 1, 1), value))
    assert value * (1 - 1e-9) <= end <= value * 1.1 + 1e-9
    assert float(f"{end:.2g}") == end


def test_corrected_tokens_average_to_corrected_messages() -> None:
    """Where the tokens of a message average to its score."""
    scan = handmade(("We met at the lake.", "How was it?"))
    means = scan.tokens.groupby(["message", "point"])[list(SCORES)].mean().reset_index()
    own = scan.frame["conversation"] == "prompt-0"
    frame = scan.frame.copy()
    frame.loc[own, list(SCORES)] = means[list(SCORES)].to_numpy()
    shown = picture(replace(scan, frame=frame))
    for n, (a, b) in enumerate(zip(shown.starts, shown.starts[1:], strict=False)):
        np.testing.assert_allclose(shown.corrected_tokens[a:b].mean(axis=0), shown.corrected[n])
    at = replace(scan, frame=frame).table()
    np.testing.assert_allclose(shown.corrected[:, shown.point], at[list(NAMES)])


def test_a_page_of_the_shipped_conversation_is_small() -> None:
    """On a model of 36 layers, with more tokens than words."""
    talk = get_conversation("ct-scan")
    texts = tuple(m.content for m in talk.prompt[0].messages)
    labels = tuple(r.label for r in talk.reference_states)
    text = page(picture(handmade(texts, 37, labels=labels, stages=talk.stages)))
    assert len(text.encode()) < 1_000_000


# --- the text ---------------------------------------------------------------------------------------------------


def test_texts_of_others_stay_text() -> None:
    """The elements of the page are those of a harmless one, and its policy names its own style and script."""
    hostile, harmless = (Reader(page(picture(s))) for s in (handmade(), handmade(("one", "two"), title="talk")))
    assert hostile.tags == harmless.tags
    text = page(picture(handmade()))
    block = text.split('id="data">')[1].split("</script>")[0]
    assert not set(block) & set("<>&\u2028\u2029")
    policy = next(a["content"] for t, a in hostile.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not [a for _, a in hostile.tags if {"src", "href", "style"} & set(a) or any(k.startswith("on") for k in a)]


def test_the_same_scan_gives_the_same_bytes(tmp_path: Path) -> None:
    """Page and figures, written twice; hostile texts draw."""
    scan = handmade()
    first, second = (write(scan, tmp_path / name) for name in ("a", "b"))
    names = ["ct-heat-map", "ct-trajectory", "ct-raw-and-corrected", "ct-tokens"]
    assert [p.name for p in first] == ["ct-scan.html", *(f"{n}.{e}" for n in names for e in ("svg", "png"))]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_scan_without_references_and_control_has_no_raw_figure(tmp_path: Path) -> None:
    """One message, one point, nothing to hold it against."""
    written = write(handmade(("Hello.",), 1, control=False, labels=()), tmp_path)
    assert [p.stem for p in written] == ["ct-scan", *["ct-heat-map"] * 2, *["ct-trajectory"] * 2, *["ct-tokens"] * 2]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """The path is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"cannot write .*file.*ct-scan\.html") as caught:
        write(handmade(), tmp_path / "file" / "folder")
    assert "\n" not in str(caught.value)


def test_scan_writes_page_and_figures(cli: Cli, tmp_path: Path) -> None:
    """``--to`` and ``--generate``: the paths are printed, and the reply is in the page."""
    talk = tmp_path / "talk.yaml"
    talk.write_text("- {role: user, content: I am overjoyed.}\n- {role: assistant, content: I see.}\n")
    done = cli("scan", "phantom/neutral", talk, "--to", tmp_path / "out", "--generate", 3)
    assert done.code == 0, done.err
    paths = [Path(line) for line in done.out.splitlines()[-7:]]
    assert [p.parent for p in paths] == [tmp_path / "out"] * 7
    assert all(p.stat().st_size > 0 for p in paths)
    data = data_of(paths[0].read_text("utf-8"))
    assert data["generated"]
    assert [(m["role"], m["stage"]) for m in data["messages"]] == [("user", ""), ("assistant", "generated")]
    assert len(data["messages"][1]["tokens"]) == 3


def test_the_wheel_holds_template_style_and_script(tmp_path: Path) -> None:
    """What the page is made of is part of the package."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: no wheel can be built")
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"llmct_bench/ctpage/page.{e}" for e in ("html", "css", "js")} <= set(names)


# --- in a browser -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, where it and playwright are installed."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium and no google-chrome on the path")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of hostile texts."""
    place = tmp_path_factory.mktemp("page")
    (place / "ct-scan.html").write_text(page(picture(handmade())), encoding="utf-8")
    return place


@pytest.fixture
def tab(browser: Any, folder: Path) -> Iterator[Any]:
    """The page at 1280 pixels. Afterwards: nothing was logged, nothing was asked of the network, nothing ran that
    stands in the texts."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    faults: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda m: faults.append(m.text))
    opened.on("pageerror", lambda e: faults.append(str(e)))
    opened.on("dialog", lambda d: (faults.append(d.message), d.dismiss()))
    opened.on("request", lambda r: asked.append(r.url))
    opened.goto(f"file://{folder}/ct-scan.html")
    yield opened
    assert opened.title() == "CT scan: </title><script>document.title='hurt'</script> & so on"
    assert opened.locator("img, iframe, b b, main b, header b").count() == 0
    assert faults == []
    assert asked == [f"file://{folder}/ct-scan.html"]
    opened.close()


def path(tab: Any) -> str:
    """The line of the conversation in the trajectory."""
    return str(tab.locator("#own").get_attribute("d"))


def colours(tab: Any, selector: str) -> list[str]:
    """The colours of cells or tokens, as drawn."""
    name = "backgroundColor" if selector == ".token" else "fill"
    return list(tab.eval_on_selector_all(selector, f"all => all.map(e => getComputedStyle(e).{name})"))


def test_the_slider_chooses_the_layer(tab: Any) -> None:
    """Name, trajectory, tokens and table follow it, and the button leads back."""
    table = "main tbody"
    before = (path(tab), colours(tab, ".token"), tab.locator(table).text_content(), colours(tab, ".cell"))
    assert tab.locator("#layer-name").text_content() == "2 of 4 (chosen)"
    tab.locator("#layer").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#layer-name").text_content() == "3 of 4"
    assert "layer 3 of 4" in tab.locator("#curve-note").text_content().lower()
    after = (path(tab), colours(tab, ".token"), tab.locator(table).text_content(), colours(tab, ".cell"))
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, True, True, False]
    tab.locator("#back").click()
    assert (path(tab), colours(tab, ".token")) == before[:2]


def test_the_numbers_shown_are_those_of_the_scan(tab: Any) -> None:
    """In the table at a layer, and under the heat map when a cell is clicked."""
    scan = handmade()
    tab.locator("#layer").fill("4")
    table = replace(scan, point=4).table()
    rows = tab.locator("main tbody tr")
    for row in table.to_dict("records"):
        cells = rows.nth(row["message"]).locator("td").all_text_contents()
        assert (cells[0], cells[1]) == (str(row["message"]), row["role"])
        found = [float(c.replace("−", "-")) for c in cells[3:7]]
        np.testing.assert_allclose(found, [row[e] for e in NAMES], atol=0.0151)
        nearest = max(scan.labels, key=lambda label: row[f"raw_{label}"])
        assert cells[7] == f"{nearest} {row[f'raw_{nearest}']:.4f}"
    tab.locator('.cell[data-place="3 1"]').click()
    value = replace(scan, point=1).table().loc[3, "joy"]
    text = tab.locator("#readout").text_content()
    assert text.startswith("Message 3 · assistant, layer 1 of 4: joy ")
    assert abs(float(text.split()[-2].replace("−", "-")) - value) < 0.0151


def test_the_emotion_is_chosen(tab: Any) -> None:
    """Heat map, trajectory and tokens are those of another emotion."""
    before = (colours(tab, ".cell"), path(tab), colours(tab, ".token"))
    tab.get_by_text("sadness", exact=True).first.click()
    after = (colours(tab, ".cell"), path(tab), colours(tab, ".token"))
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert tab.locator("#curve-title").text_content() == "Sadness, message by message"
    tab.keyboard.press("ArrowLeft")  # radio buttons are one group for the keyboard
    assert tab.locator("#curve-title").text_content() == "Anger, message by message"


def test_raw_cosines_are_shown(tab: Any) -> None:
    """Of the reference state that is chosen; tokens keep their scores."""
    tokens = colours(tab, ".token")
    tab.get_by_text("raw cosines", exact=True).click()
    assert tab.locator("#curve-title").text_content() == "Cosine with joy, message by message"
    tab.locator("#label").select_option("fear")
    assert tab.locator("#curve-title").text_content() == "Cosine with fear, message by message"
    scan = handmade()
    at = scan.frame.query("conversation == 'prompt-0' and message == 0 and point == 2")
    assert tab.locator("#readout").text_content().endswith(f"fear {at['raw_fear'].item():.4f}")
    assert colours(tab, ".token") == tokens


def test_tokens_tell_their_scores(tab: Any) -> None:
    """On hover and by keyboard, as text: the token, and its score in every emotion."""
    tip = tab.locator("#tip")
    assert tab.locator("#strip").text_content() == HOSTILE[0]
    tab.locator(".token").first.hover()
    assert tip.is_visible()
    assert tip.text_content().startswith("“</scr”, token 0\njoy ")
    tab.mouse.move(5, 5)
    assert tip.is_hidden()
    tab.locator(".token").first.focus()
    tab.keyboard.press("ArrowRight")
    shown = picture(handmade())
    score = shown.corrected_tokens[1, shown.point]
    assert tip.text_content().startswith("“ipt><”, token 1\n")
    found = [float(line.split()[1].replace("−", "-")) for line in tip.text_content().splitlines()[1:]]
    np.testing.assert_allclose(found, score, atol=0.0151)
    tab.keyboard.press("Escape")
    assert tip.is_hidden()
    assert tab.locator('.token[tabindex="0"]').count() == 1


@pytest.mark.parametrize("message", range(len(HOSTILE)))
def test_a_message_is_shown_as_it_is(tab: Any, message: int) -> None:
    """Every hostile text, chosen by the keyboard on the heat map."""
    tab.locator("#heat svg").focus()
    for _ in range(message):
        tab.keyboard.press("ArrowRight")
    assert tab.locator("#strip").text_content() == HOSTILE[message]
    assert tab.locator("#strip *:not(.token)").count() == 0


@pytest.mark.parametrize("width", [390, 600, 1280])
def test_nothing_is_wider_than_the_window(tab: Any, width: int) -> None:
    """For every message, in both modes; pictures are drawn again for the width."""
    tab.set_viewport_size({"width": width, "height": 844})
    for mode in ("corrected scores", "raw cosines"):
        tab.get_by_text(mode, exact=True).click()
        for message in range(len(HOSTILE)):
            tab.locator("#message").select_option(str(message))
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.wait_for_function("document.querySelector('#heat svg').viewBox.baseVal.width <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_colours(browser: Any, folder: Path, scheme: str) -> None:
    """Tokens of every strength, and the texts of the page: contrast of at least 4.5 to 1."""
    opened = browser.new_page(color_scheme=scheme)
    opened.goto(f"file://{folder}/ct-scan.html")
    script = """() => {
      const pad = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const light = (colour) => {
        pad.fillStyle = colour; pad.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...pad.getImageData(0, 0, 1, 1).data].slice(0, 3).map((c) => c / 255)
          .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ratio = (a, b) => {
        const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
        return (x + 0.05) / (y + 0.05);
      };
      const paper = getComputedStyle(document.body).backgroundColor;
      const token = document.querySelector(".token");
      const tokens = [];
      for (const side of ["pos", "neg"])
        for (let n = 0; n <= 100; n++) {
          token.dataset.tone = side;
          token.style.setProperty("--t", n / 100);
          const style = getComputedStyle(token);
          tokens.push(ratio(style.color, style.backgroundColor));
        }
      const texts = [...document.querySelectorAll(".note, #about, .legend span, .keys li, footer p, summary")];
      return [Math.min(...tokens), Math.min(...texts.map((e) => ratio(getComputedStyle(e).color, paper)))];
    }"""
    tokens, texts = opened.evaluate(script)
    assert tokens > 4.5
    assert texts > 4.5
    opened.close()


def test_what_can_be_operated_has_a_name(tab: Any) -> None:
    """One first heading, a language, and a name for every control and picture."""
    assert tab.locator("h1").count() == 1
    assert tab.locator("html").get_attribute("lang") == "en"
    for role in ("slider", "radio", "combobox", "button", "listbox", "img", "option"):
        nodes = tab.get_by_role(role)
        assert nodes.count() > 0, role
        names = tab.get_by_role(role, name=re.compile(r"\S"))
        assert names.count() == nodes.count(), role
