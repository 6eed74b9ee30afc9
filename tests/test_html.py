"""The page shows the report's figures, escapes every name, stands alone, and stays small."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

import graphprune
from graphprune import html
from graphprune.cost import Cost
from graphprune.latency import Timing
from graphprune.report import GroupReport, PinReport, Ratios, Report, StepReport, TargetReport, size_text

ROOT = Path(__file__).parents[1]
RESNET = ROOT / "models" / "fashion_resnet20.onnx"
EMPTY = Report("m", "", {}, Cost(0, 0, 0), Cost(0, 0, 0), Ratios(1, 1, 1), [], [], [], {})
TIMINGS = {
    "original, onnxruntime": Timing(4.0, 3.5, 5.0, 1.0, 1234, 1),
    "compiled, x86-64": Timing(1.0, 0.9, 1.5, 0.25, 1234, 1),
}
TARGET = TargetReport("x86-64", 2.5e-7, 1e-4, {"lower": 0.25, "link": 0.125}, 603_959, {"ours": 22, "fallback": 1})
EVIL = '<script>alert("1")</script>&amp;\'"><img src=http://example.com/x>{{ 7 * 7 }}'

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, and the text as it is read; fails on tags that do not pair up."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def stands_alone(page: Page) -> bool:
    """Whether the page refers to nothing but its own anchors."""
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    for tag, attrs in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "img", "image", "use", "base", "form"}
        assert not {name for name in attrs if name.startswith("on")}
        assert not {"src", "srcset", "data", "xlink:href", "action"} & set(attrs)
        if "href" in attrs:
            assert attrs["href"][0] == "#"
            assert attrs["href"][1:] in ids
    return True


@pytest.fixture(scope="module")
def report() -> Report:
    found = graphprune.prune(RESNET, ratio=0.5, preset="magnitude", exclude=r"^5\.first", command="a command").report
    return msgspec.structs.replace(found, targets=[TARGET], latency=TIMINGS)


def test_figures_are_the_reports(report):
    text = html.render(report)
    page = Page(text)
    assert stands_alone(page)
    for cost in (report.before, report.after):
        for value in (cost.channels, cost.parameters, cost.macs):
            assert f"{value:,}" in page.text
    for share in (report.kept.channels, report.kept.parameters, report.kept.macs):
        assert f"{share:.1%}" in page.text
    assert "cut against zeroing, at the outputs " + html._power(report.law_error).replace("\xa0", " ") in page.text
    assert "x86-64 library against onnxruntime 2.5 × 10⁻⁷ 10⁻⁴" in page.text
    assert "latency is ×0.25 (compiled, x86-64) that of original, onnxruntime." in page.text
    assert "1.00 ms ×0.25" in page.text
    assert "1,234 rounds" in page.text
    assert "604 kB in its folder; 23 kernels: 22 ours, 1 fallback" in page.text
    assert "a command" in page.text
    assert "1 × 1 × 28 × 28" in page.text
    for package, version in report.versions.items():
        assert f"{package} {version}" in page.text
    for step in report.steps:
        assert step.step in page.text


def test_latencies_start_with_the_baseline_and_show_the_spread(report):
    text = html.render(report)
    assert "original, onnxruntime: median 4.00 ms, quartiles 3.50 and 5.00 ms" in text
    assert 'width="80.00%"' in text  # 4 of 5 ms
    assert 'x1="18.00%" x2="30.00%"' in text  # 0.9 to 1.5 of 5 ms
    assert text.index("original, onnxruntime: median") < text.index("compiled, x86-64: median")


def test_every_group_has_a_bar_and_its_axes(report):
    text = html.render(report)
    page = Page(text)
    for number, group in enumerate(report.groups, 1):
        assert f"<title>{number}. {group.name}: {group.kept} of {group.units} units kept</title>" in text
        assert all(axis in page.words for axis in group.axes)
    assert page.count("title") == 1 + len(report.groups) + len(report.latency)
    assert 'y="50.00%" width="70%" height="50.00%"' in text


def test_every_pin_is_listed_under_its_reason_with_what_would_free_it(report):
    page = Page(html.render(report))
    reasons = {p.reason for p in report.pinned}
    left_out = {r for r in reasons if r.endswith(html.LEFT_OUT)}
    assert left_out
    assert reasons - left_out == {"graph input", "graph output", "Conv depends on every position of this axis"}
    assert page.count("details") == 3 + 1 + len(report.groups)
    assert "group is left out by --include or --exclude As asked" in page.text
    assert "graph output The interface of the model" in page.text
    for pin in report.pinned:
        assert f"{pin.tensor}[{pin.axis}] of {pin.size}" in page.text
        assert pin.node in page.text


def test_reasons_left_out_on_request_are_one():
    pins = [PinReport(f"w{k}", 0, 8, "", "", f"group w{k}[0] {html.LEFT_OUT}") for k in range(3)]
    page = Page(html.render(msgspec.structs.replace(EMPTY, pinned=pins)))
    assert page.count("details") == 1
    assert "w2[0] of 8, group w2[0] is left out" in page.text


def test_advice_speaks_of_reasons_that_exist():
    files = [ROOT / "graphprune" / "coupling.py", ROOT / "graphprune" / "report.py"]
    source = "".join(f.read_text() for f in [*files, *(ROOT / "graphprune" / "rules").glob("*.py")])
    said = source.replace("graph {kind}", "graph input, graph output")
    for phrase in html.ADVICE:
        assert phrase in said


@pytest.mark.parametrize("many", [False, True])
def test_names_can_contain_anything(many):
    report = Report(
        EVIL,
        EVIL,
        {EVIL: (1, 2)},
        Cost(4, 4, 4, 4),
        Cost(2, 2, 2, 2),
        Ratios(0.5, 0.5, 0.5),
        [StepReport(EVIL, 0.5, 3, 1e-6, 1e-5, True, 1e-7), StepReport(EVIL, 0.0, 3, 0.25)],
        [GroupReport(EVIL, 4, 2, [EVIL] * (5000 if many else 1))],
        [PinReport(EVIL, 0, 4, EVIL, EVIL, EVIL, EVIL)] * (5000 if many else 1),
        {EVIL: EVIL},
        [msgspec.structs.replace(TARGET, name=EVIL, seconds={EVIL: 1.0}, kernels={EVIL: 1})],
        {EVIL: TIMINGS["original, onnxruntime"], EVIL + "2": TIMINGS["compiled, x86-64"]},
        {EVIL: 1.0},
    )
    text = html.render(report)
    page = Page(text)
    assert stands_alone(page)
    assert "<script" not in text
    assert "49" not in page.words
    shown = page.text.replace("\xa0", " ")
    assert shown.count(" ".join(EVIL.split())) >= 15
    assert ("and 3,000 more, in the JSON report" in shown) == many


@pytest.mark.parametrize("count", [0, 1, 5, 31, 500])
def test_any_number_of_groups(count):
    groups = [GroupReport(f"w{k}[0]", 8 * (k % 7 + 1), 8, [f"w{k}[0]"]) for k in range(count)]
    page = Page(html.render(msgspec.structs.replace(EMPTY, groups=groups)))
    assert stands_alone(page)
    assert sum(attrs.get("class") == "group" for _, attrs in page.elements) == count
    assert ("Units kept" in page.text) == bool(count)
    assert ("there is nothing to choose from" in page.text) == (not count)


def test_without_cut_latency_targets_or_steps(report):
    page = Page(html.render(EMPTY))
    assert "Nothing was removed" in page.text
    assert "Latency" not in page.words
    assert "Proofs" not in page.words
    assert "Nothing is pinned." in page.text
    assert "No pass was run." in page.text
    page = Page(html.render(msgspec.structs.replace(report, latency={}, targets=[])))
    assert "Latency" not in page.words
    assert "kernels" not in page.words
    assert "latency is" not in page.text


@pytest.mark.parametrize(
    ("outputs", "inner", "said"),
    [
        (0.0, 8.1e-7, "to 8.1 × 10⁻⁷ of a tensor’s largest value"),
        (3e-7, None, "to 3.0 × 10⁻⁷ of a tensor’s largest value"),
        (0.0, 0.0, "exactly"),
    ],
)
def test_the_lead_gives_the_largest_error_of_the_law(outputs, inner, said):
    steps = [StepReport("cut", 0.1, 5, outputs, 1e-5, True, inner)]
    page = Page(html.render(msgspec.structs.replace(EMPTY, steps=steps)))
    assert f"the cut equals zeroing {said}." in page.text


def test_a_change_on_purpose_is_measured_not_bounded():
    steps = [StepReport("calibrate", 1.0, 5, 0.25, None)]
    page = Page(html.render(msgspec.structs.replace(EMPTY, steps=steps)))
    assert "calibrate, which changes outputs on purpose 2.5 × 10⁻¹ –" in page.text


def test_equal_reports_give_equal_pages(report):
    again = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    assert html.render(again) == html.render(report)


def test_a_large_model_gives_a_page_of_less_than_two_megabytes():
    name = "/model/backbone/stages.3/blocks.17/a_long_module_name/conv2/Conv_output_0"
    groups = [GroupReport(f"{name}{k}[0]", 512, 256, [f"{name}{k}_{j}[1]" for j in range(40)]) for k in range(500)]
    pins = [PinReport(f"{name}{k}", 1, 512, name, "Conv", f"reason {k % 9}", f"{name}[1]") for k in range(20_000)]
    text = html.render(msgspec.structs.replace(EMPTY, groups=groups, pinned=pins))
    assert len(text.encode()) < 2e6
    page = Page(text)
    assert "20,000 axes" in page.text
    assert "and 36 more, in the JSON report" in page.text
    assert "and 2,001 more, in the JSON report" in page.text


def test_figures_are_readable():
    assert [html._power(v) for v in (0, 1e-5, 9.86e-8, 0.25)] == [
        "0",
        "10⁻⁵",
        "9.9\xa0×\xa010⁻⁸",
        "2.5\xa0×\xa010⁻¹",
    ]
    assert [size_text(n) for n in (0, 999, 603_959, 1_094_632, 98_000_000_000)] == [
        "0 B",
        "999 B",
        "604 kB",
        "1.09 MB",
        "98 GB",
    ]
    assert html._percent(1, 0) == "0.00%"


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_lays_it_out_without_overflow(report, tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium on the PATH")
    (tmp_path / "report.html").write_text(html.render(report).replace("<details", "<details open"), "utf-8")
    # A frame, since a headless window cannot be as narrow as a phone; the page itself forbids scripts.
    (tmp_path / "frame.html").write_text(
        f'<iframe src="report.html" style="width: {width}px; height: 800px; border: 0"></iframe>'
        "<script>onload = () => { const page = document.querySelector('iframe').contentDocument.documentElement;"
        "document.title = `${page.scrollWidth} ${page.scrollHeight}` }</script>"
    )
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", "--disable-quic", "--allow-file-access-from-files"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,900", "--dump-dom"]
    command = [browser, *options, (tmp_path / "frame.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    across, down = map(int, dom.partition("<title>")[2].partition("</title>")[0].split())
    assert across <= width
    assert down > 2000
