"""From the JSON of runs to reports/performance.md: `python -m benchmarks.page JSON... PAGE`.

The first JSON is the run that the page is about; further ones add what it did not measure: a run with the model
``0.5b`` the bars of that shape, any other the benchmarks that it holds."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tabulate import tabulate

Facts = dict[str, Any]

_LABELS = {
    "ours": "**ours, end to end** (plan, passes, copies to the host)",
    "capture": "ours, the passes alone",
    "bare, same batches": "the bare body over the same batches as ours",
    "bare, same batches, again": "those passes once more (null control)",
    "bare, budget 256": "the bare body, at most 256 tokens a batch",
    "bare, budget 1024": "the bare body, at most 1024 tokens a batch",
    "without sharing": "the bare body, every readout a row of its own in batches of at most 512 tokens",
    "hidden states": "`output_hidden_states=True`, every readout a row of its own, everything kept",
    "body": "the bare body, one prefill a readout",
    "head": "`model()` with its head, one prefill a readout",
    "seed, residual": "seed system, residual stream only, without its files",
    "seed, defaults": "seed system, default settings, without its files",
    "seed, defaults, files": "seed system, default settings, with its files",
}
_SERIES = {"items": "prompts", "turns": "messages a conversation", "layers": "layers read, from the first on"}
_PEERS = {
    "transformer_lens": ("TransformerLens", "TransformerLens run_with_cache"),
    "nnsight": ("nnsight", "nnsight trace, all saved"),
}
_BUDGETS = ("bare, budget 256", "bare, same batches", "bare, budget 1024")


@dataclass(frozen=True)
class Bar:
    """What was asked of a number (``≤ limit`` or ``≥ limit``), and the number; None where it was not measured, for a
    reason."""

    of: str
    what: str
    sign: str
    limit: float
    value: float | None
    form: str = ""
    reason: str = "not run"

    def row(self) -> list[str]:
        """Cells of the table."""
        asked = f"{self.sign} {self._show(self.limit)}"
        if self.value is None:
            return [self.of, self.what, asked, "–", f"not measured: {self.reason}"]
        met = self.value <= self.limit if self.sign == "≤" else self.value >= self.limit
        return [self.of, self.what, asked, self._show(self.value), "met" if met else "**missed**"]

    def _show(self, value: float) -> str:
        return self.form.format(value) if self.form else _number(value)


class Run:
    """One run of the benchmarks."""

    def __init__(self, data: Facts) -> None:
        found = [b["extra_info"] for b in data["benchmarks"]]
        self.setting: Facts = data["setting"]
        self.machine: Facts = data["machine_info"]
        self.skipped: dict[str, str] = data["skipped"]
        self.work: dict[str, Facts] = {f["workload"]: f for f in found if "workload" in f}
        self.series: dict[str, Facts] = {f["series"]: f for f in found if "series" in f}
        self.peers: dict[str, Facts] = {f["peer"]: f for f in found if "peer" in f}
        self.memory: Facts = next((f for f in found if "memory" in f), {})
        self.statistics: Facts = next((f for f in found if "statistics" in f), {})
        self.leaderboard: Facts = next((f for f in found if "leaderboard" in f), {})
        #: the same workloads on another model
        self.large: Run | None = None

    def ratios(self, work: str, job: str, reference: str) -> list[float]:
        """job / reference, round by round, samples scaled up."""
        facts = self.work[work]
        factor = facts["factors"].get(job, 1.0) / facts["factors"].get(reference, 1.0)
        return [factor * t for t in _over(facts["seconds"], job, reference)]

    def ratio(self, work: str, job: str, reference: str) -> float | None:
        """Its median; None where the workload was not run."""
        return median(self.ratios(work, job, reference)) if work in self.work else None

    def paired(self, name: str) -> float | None:
        """Passes of A against bare ones, batch by batch."""
        pairs = self.work.get("A", {}).get("pairs")
        return median(_over(pairs, name, "bare")) if pairs else None

    def count(self, work: str, above: str, below: str) -> float | None:
        """A ratio of exact counts."""
        return self.work[work]["counts"][above] / self.work[work]["counts"][below] if work in self.work else None

    def rate(self, work: str) -> float | None:
        """The rate of ours (FLOPs of the body over the fewest possible tokens) / the rate of the matrix products."""
        if work not in self.work:
            return None
        facts = self.work[work]
        share = facts["counts"]["minimum"] / facts["rate_tokens"]
        return share * median(_over(facts["seconds"], "matrix products", "ours"))

    def peaks(self, above: str, below: str) -> float | None:
        """A ratio of peaks above the model; where only projections are kept, without these results."""
        if not self.memory:
            return None
        kept = ("project", "quarter")
        peaks = {n: m["peak"] - (m["results"] if n in kept else 0) for n, m in self.memory["memory"].items()}
        return float(peaks[above] / peaks[below])

    def resampling_seconds(self) -> float | None:
        """Seconds of ours."""
        return median(self.statistics["seconds"]["ours"]) if self.statistics else None

    def leaderboard_seconds(self) -> float | None:
        """Seconds from results in memory to both pages, without their figures."""
        if not self.leaderboard:
            return None
        return sum(median(self.leaderboard["seconds"][job]) for job in ("ranks, ties, tables", "pages"))

    def resampling(self, job: str) -> float | None:
        """How many times as long another way of resampling takes."""
        if not self.statistics:
            return None
        return float(self.statistics["factors"][job] * median(_over(self.statistics["seconds"], job, "ours")))

    def peer(self, name: str) -> tuple[float | None, str]:
        """How many times as long a peer takes with its defaults, or why that is not known."""
        if name not in self.peers:
            return None, self.skipped.get(f"test_peer[{name}]", "not run")
        facts = self.peers[name]
        return facts["factor"] * median(_over(facts["seconds"], _PEERS[name][1], "ours")), ""


def _over(seconds: dict[str, list[float]], job: str, reference: str) -> list[float]:
    return [a / b for a, b in zip(seconds[job], seconds[reference], strict=True)]


def bars(run: Run) -> list[Bar]:
    """Every bar, in the order of the workloads."""
    return [*_bars_single(run), *_bars_shared(run), *_bars_machine(run)]


def _bars_single(run: Run) -> list[Bar]:
    hooks = run.ratio("A", "hooks", "capture")
    passes, control = (run.paired(name) for name in ("hooks", "bare again"))
    null = "" if control is None else f" (bare against bare: {control:.3f})"
    bare = [j for j in run.work.get("A", {}).get("seconds", {}) if j in _BUDGETS]
    best = max((run.ratio("A", "ours", job) or 0.0 for job in bare), default=None)
    padding = run.count("A", "padded", "run")
    files = run.ratio("A", "seed, defaults, files", "ours")
    found = [
        Bar("A", "time inside the hooks / the passes", "≤", 0.01, hooks, "{:.1%}"),
        Bar("A", f"passes / the bare body, batch by batch{null}", "≤", 1.05, passes, "{:.3f}"),
        Bar("A", "end to end / the bare body at its best budget", "≤", 1.10, best),
        Bar("A", "padding", "≤", 0.05, None if padding is None else padding - 1, "{:.1%}"),
    ]
    for name, (title, job) in _PEERS.items():
        value, reason = run.peer(name)
        found.append(Bar("A", f"{title} (`{job}`) / ours", "≥", 3, value, reason=reason))
    return [
        *found,
        Bar("A", "seed system, defaults and files / ours", "≥", 12, files),
        Bar("A", "peak memory / keeping all hidden states", "≤", 0.3, run.peaks("keep", "hidden")),
    ]


def _bars_shared(run: Run) -> list[Bar]:
    seed = run.ratio("B", "seed, residual", "ours")
    large = run.large.ratio("B", "seed, residual", "ours") if run.large else None
    what = "seed system without files, residual stream only (its cheapest way) / ours"
    error, unshared = run.work.get("B", {}).get("error"), run.ratio("C", "without sharing", "ours")
    return [
        Bar("B", "tokens run / the fewest possible", "≤", 1.05, run.count("B", "padded", "minimum")),
        Bar("B", "end to end / one bare pass a conversation", "≤", 1.12, run.ratio("B", "ours", "bare")),
        Bar("B", f"{what}, small model", "≥", 30, seed),
        Bar("B", f"{what}, Qwen2.5-0.5B's shape", "≥", 20, large),
        Bar("B", "relative error against separate prefills", "≤", 1e-5, error, "{:.1e}"),
        Bar("C", "tokens run / the fewest possible", "≤", 1.10, run.count("C", "padded", "minimum")),
        Bar("C", "end to end / the bare body over the unique tokens", "≤", 1.05, run.ratio("C", "ours", "bare")),
        Bar("C", "batches without sharing / ours", "≥", 5, unshared),
    ]


def _bars_machine(run: Run) -> list[Bar]:
    return [
        *(Bar("rate", f"share of the matrix rate, workload {w}", "≥", 0.8, run.rate(w), "{:.0%}") for w in "ABC"),
        Bar("memory", "peak without results, all prompts / a quarter", "≤", 1.1, run.peaks("project", "quarter")),
        Bar("statistics", "bootstrap and sign flips, seconds", "≤", 1, run.resampling_seconds()),
        Bar(
            "statistics",
            "a loop of scipy calls over cells, on the items / ours",
            "≥",
            300,
            run.resampling("scipy, items"),
        ),
        Bar("leaderboard", "500 models × 12 traits, estimates to pages, seconds", "≤", 5, run.leaderboard_seconds()),
        Bar("leaderboard", "its HTML without figures, MB", "≤", 3, run.leaderboard.get("megabytes", {}).get("html")),
    ]


def page(run: Run) -> str:
    """The whole page."""
    parts = [
        "# Performance",
        _intro(run),
        "## Bars",
        _table(["", "what", "asked", "measured", "verdict"], [bar.row() for bar in bars(run)]),
        "The bar on memory is read like this: the peak beyond the model, without the results, grows by at most a tenth "
        "where there are four times the prompts. What reading adds to the bare passes stands under memory.",
        "## Tokens, counted exactly",
        _tokens(run),
        *(part for name in run.work for part in _workload(run, name)),
        "## Share of the matrix rate",
        "FLOPs are 2 × the body's matrix weights × the fewest possible tokens: attention, padding and everything run "
        "twice count against us. The rate is that of the body's own matrices at 1024 rows.",
        _rates(run),
        "## How cost grows",
        *(_growth(facts) for facts in run.series.values()),
        "## Other programs",
        "Single prompts of workload A, one after the other with each program's own defaults (inference mode), what is "
        "read being the mean over the content and the last token at every block.",
        _others(run),
        "## Memory above the model",
        _memory(run),
        "## Resampling",
        _statistics(run),
        "## Leaderboards of many models",
        _leaderboard(run),
        *(_large(run.large) if run.large else []),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _intro(run: Run) -> str:
    m, s = run.machine, run.setting
    body = next((f"{facts['parameters'] / 1e6:.1f} M" for facts in run.work.values()), "?")
    trial = (
        ""
        if s["model"] in ("full", "0.5b") and s["scale"] == 1.0
        else f"\n\n**A trial run** (model {s['model']}, workloads at {s['scale']:g} of their size): "
        "its verdicts mean nothing."
    )
    return (
        f"Ratios of times measured side by side in one process, one thread, float32, on a random Qwen2 with "
        f"{body} parameters in its body: in each of {s['rounds']} rounds every variant runs once, in "
        "turn; the median over rounds of the paired ratio is reported. Made by: `tox run -e perf`.\n\n"
        f"{m['cpu']}, {m['cores']} cores (one used), {m['system']} · python {m['python']}, torch {m['torch']}, "
        f"transformers {m['transformers']}, numpy {m['numpy']}" + trial
    )


def _tokens(run: Run) -> str:
    header = ["workload", "readouts", "separate prefills", "fewest possible", "run", "run with padding", "/ fewest"]
    rows = []
    for name, facts in run.work.items():
        c = facts["counts"]
        shown = [_thousands(c[k]) for k in ("readouts", "separate", "minimum", "run", "padded")]
        rows.append([f"{name}: {facts['title']}", *shown, f"{c['padded'] / c['minimum']:.3f}"])
    return _table(
        [*header, "passes"], [[*r, str(f["counts"]["passes"])] for r, f in zip(rows, run.work.values(), strict=True)]
    )


def _workload(run: Run, name: str) -> list[str]:
    facts = run.work[name]
    reference = "bare" if "bare" in facts["seconds"] else "bare, same batches"
    labels = {**_LABELS, "bare": facts["bare_title"]}
    if "without sharing" not in facts["seconds"]:
        labels["hidden states"] = "`output_hidden_states=True` over the same batches, everything kept"
    rows = []
    for job in sorted(set(facts["seconds"]) & set(labels), key=list(labels).index):
        each = run.ratios(name, job, reference)
        factor = facts["factors"].get(job)
        note = f"a sample, scaled up {factor:.1f} ×" if factor else ""
        rows.append([labels[job], _number(median(each)), f"{_number(min(each))} – {_number(max(each))}", note])
    rows.sort(key=lambda row: float(row[1]))
    text = (
        f"Planning takes {run.ratio(name, 'plan', 'ours') or 0:.2%} of ours, the hooks "
        f"{run.ratio(name, 'hooks', 'capture') or 0:.2%} of the passes. Relative error against separate prefills: "
        f"{facts['error']:.1e}."
    )
    return [
        f"## Workload {name}: {facts['title']}",
        _table(["variant", f"time / {labels[reference]}", "range over rounds", ""], rows),
        text,
        *([_SAMPLES] if name == "A" else []),
    ]


_SAMPLES = (
    "What takes minutes is run on a sample, evenly spread over the lengths, and scaled up by the exact number of "
    "tokens. The seed system is Activation Lab (https://github.com/cstefanache/llmct); its capture was written anew "
    "after its source: one prefill a readout at batch 1, head, eager attention, no cache. By default it copies "
    "everything at every token in half precision (states, queries, keys, values, attention weights, the stages of the "
    "feed-forward, logits) and writes one compressed .npz file a readout (here removed again at once). The clock "
    "inside the hooks is a part of the times of ours."
)


def _rates(run: Run) -> str:
    rows = []
    for name, facts in run.work.items():
        flops = 2 * facts["parameters"] / 1e9
        machine = flops * facts["rate_tokens"] / median(facts["seconds"]["matrix products"])
        ours = flops * facts["counts"]["minimum"] / median(facts["seconds"]["ours"])
        tokens = facts["counts"]["minimum"] / median(facts["seconds"]["ours"])
        rows.append([name, f"{machine:.0f}", f"{ours:.0f}", f"{run.rate(name) or 0:.0%}", _thousands(round(tokens))])
    header = ["workload", "matrix products, GFLOP/s", "ours, GFLOP/s", "share", "ours, unique tokens a second"]
    return _table(header, rows)


def _growth(facts: Facts) -> str:
    seconds, values = facts["seconds"], facts["values"]
    rows = [
        [
            str(n),
            f"{median(_over(seconds, f'ours {n}', f'bare {n}')):.3f}",
            f"{median(_over(seconds, f'ours {n}', f'ours {values[0]}')):.2f}",
        ]
        for n in values
    ]
    return _table([_SERIES[facts["series"]], f"ours / {facts['bare_title']}", f"ours / ours at {values[0]}"], rows)


def _others(run: Run) -> str:
    rows = []
    for name, (title, _) in _PEERS.items():
        if name not in run.peers:
            rows.append([title, "–", "–", run.peer(name)[1]])
            continue
        facts = run.peers[name]
        for job in facts["seconds"]:
            if job not in ("ours", "plan", "capture", "hooks"):
                each = [facts["factor"] * t for t in _over(facts["seconds"], job, "ours")]
                spread = f"{min(each):.3g} – {max(each):.3g}"
                rows.append(
                    [
                        job,
                        f"{median(each):.3g}",
                        spread,
                        f"version {facts['version']}, a sample, scaled up {facts['factor']:.1f} ×",
                    ]
                )
    return _table(["program", "time / ours", "range over rounds", ""], rows)


def _memory(run: Run) -> str:
    if not run.memory:
        return "Not measured."
    n = run.memory["prompts"]
    titles = {
        "bare": f"the bare body, {n} prompts of A",
        "keep": f"ours, states kept, {n} prompts",
        "hidden": f"all hidden states kept, {n} prompts",
        "project": f"ours, projections kept, {n} prompts",
        "quarter": f"ours, projections kept, {n // 4} prompts",
    }
    memory = run.memory["memory"]
    rows = [
        [title, f"{memory[m]['peak'] / 2**20:.1f}", f"{memory[m]['results'] / 2**20:.1f}"]
        for m, title in titles.items()
    ]
    return _table(["what", "peak, MiB", "of it results, MiB"], rows)


def _statistics(run: Run) -> str:
    if not run.statistics:
        return "Not measured."
    s = run.statistics["statistics"]
    titles = {
        "scipy, items": "`scipy.stats.bootstrap` (BCa) and `permutation_test`, cell by cell, on the items",
        "scipy, cluster means": "the same on cluster means",
        "loop over draws": "numpy over the whole map, draw by draw, on cluster means",
    }
    rows = [["**ours**, from the items on", "1", ""]]
    for job, title in titles.items():
        each = [run.statistics["factors"][job] * t for t in _over(run.statistics["seconds"], job, "ours")]
        rows.append([title, f"{median(each):.0f}", f"{min(each):.0f} – {max(each):.0f}"])
    text = (
        f"{s['draws']} draws of the cluster bootstrap-t and {s['draws']} sign flips with max-T over "
        f"{s['items']} items in {s['clusters']} clusters × {s['layers']} layers × {s['emotions']} emotions, one core: "
        f"{run.resampling_seconds():.2f} s (the first call of a process {run.statistics['first']:.2f} s). "
        "The others ran on a sample, scaled up; scipy knows no clusters, so on items its test is another one."
    )
    return text + "\n\n" + _table(["variant", "time / ours", "range over rounds"], rows)


def _leaderboard(run: Run) -> str:
    if not run.leaderboard:
        return "Not measured."
    size, seconds = run.leaderboard["leaderboard"], run.leaderboard["seconds"]
    rows = [[job, f"{median(t):.2f}", f"{min(t):.2f} – {max(t):.2f}"] for job, t in seconds.items()]
    text = (
        f"{size['models']} models × {size['traits']} ranked traits over {size['scenarios']} scenarios, one core. "
        "Rank intervals and ties compare all pairs of models; figures of so many models show a selection."
    )
    return text + "\n\n" + _table(["step", "seconds", "range over rounds"], rows)


def _large(run: Run) -> list[str]:
    facts = next(iter(run.work.values()))
    s = run.setting
    return [
        f"## Qwen2.5-0.5B's shape ({facts['parameters'] / 1e6:.0f} M parameters in the body)",
        f"Random weights, workloads at {s['scale']:g} of their size, {s['rounds']} rounds.",
        _tokens(run),
        *(part.replace("## Workload", "### Workload") for name in run.work for part in _workload(run, name)),
        _rates(run),
    ]


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _thousands(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _table(header: list[str], rows: list[list[str]]) -> str:
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def read(paths: list[Path]) -> Run:
    """The run of the first JSON, with what the others add."""
    first, *others = (json.loads(path.read_text("utf-8")) for path in paths)
    large = None
    for other in others:
        if other["setting"]["model"] == "0.5b" != first["setting"]["model"]:
            large = Run(other)
        else:
            again = {b["fullname"] for b in other["benchmarks"]}
            kept = [b for b in first["benchmarks"] if b["fullname"] not in again]
            first["benchmarks"] = [*kept, *other["benchmarks"]]
            ran = {b["name"] for b in other["benchmarks"]}
            first["skipped"] = {n: r for n, r in (first["skipped"] | other["skipped"]).items() if n not in ran}
    run = Run(first)
    run.large = large
    return run


if __name__ == "__main__":
    *sources, target = map(Path, sys.argv[1:])
    target.write_text(page(read(sources)), "utf-8")
