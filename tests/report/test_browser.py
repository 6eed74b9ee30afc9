"""The page in headless Chromium: it fits, fetches nothing, can be read and worked by keys."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from graphprune.report import Report, html

pytestmark = pytest.mark.slow


def show(browser, report: Report, folder: Path, width: int = 1280, dark: bool = False) -> None:
    (folder / "report.html").write_text(html.render(report), "utf-8")
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get((folder / "report.html").as_uri())


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_a_browser_lays_it_out_without_overflow(browser, report, tmp_path, width):
    show(browser, report, tmp_path, width)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    size = "return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    across, down = browser.execute_script(size)
    assert across <= width
    assert down > 3000


def test_kernels_of_long_names_leave_room_on_a_phone(browser, report, tmp_path):
    calls = [msgspec.structs.replace(call, name="fused_" + "maximum_" * 9) for call in report.targets[0].calls]
    long = msgspec.structs.replace(report, targets=[msgspec.structs.replace(report.targets[0], calls=calls)])
    show(browser, long, tmp_path, 360)
    computes, table = browser.execute_script(
        """document.querySelectorAll("details").forEach(d => { d.open = true });
        const table = document.querySelector(".kernels");
        return [table.rows[1].cells[1].offsetWidth, table.offsetWidth]"""
    )
    assert table <= 360
    assert computes > table / 3


def test_layers_and_kernels_are_printed_whole(browser, report, tmp_path):
    show(browser, report, tmp_path)
    tall = 'return [...document.querySelectorAll(".printed")].map(details => details.offsetHeight)'
    shown = browser.execute_script(tall)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    printed = browser.execute_script(tall)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert len(printed) == 2
    assert all(p > 2 * s for p, s in zip(printed, shown, strict=True))


def test_a_browser_fetches_nothing_and_has_nothing_to_complain_of(browser, report, tmp_path):
    browser.get_log("browser"), browser.get_log("performance")
    show(browser, report, tmp_path)
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    page = (tmp_path / "report.html").as_uri()  # a browser that starts slowly may still be fetching its own first page
    assert [r["request"]["url"] for r in requests if r["documentURL"] == page] == [page]
    assert browser.get_log("browser") == []


def test_pictures_zoom_by_button_and_key_and_a_link_opens_its_group(browser, report, tmp_path):
    from selenium.webdriver.common.by import By

    show(browser, report, tmp_path)
    view = browser.find_element(By.CSS_SELECTOR, ".view")
    drawing = view.find_element(By.TAG_NAME, "svg")
    first = drawing.rect["width"]
    for button, factor in (("+", 1.25), ("-", 1.0), ("-", 0.8)):
        browser.find_element(By.CSS_SELECTOR, f".zoom button[value='{button}']").click()
        assert drawing.rect["width"] == pytest.approx(first * factor, rel=0.02)
    view.send_keys("+")
    assert drawing.rect["width"] == pytest.approx(first, rel=0.02)
    for _ in range(3):
        view.send_keys("+")
    assert browser.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", view)
    view.send_keys("0")
    assert drawing.rect["width"] <= view.rect["width"]
    group = browser.find_element(By.ID, "g3")
    assert group.get_attribute("open") is None
    view.find_elements(By.CSS_SELECTOR, "a")[2].click()
    assert group.get_attribute("open") is not None


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(browser, report, tmp_path, dark):
    """Contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    show(browser, report, tmp_path, dark=dark)
    pairs = browser.execute_script(
        """const style = (element) => getComputedStyle(element);
        const paper = style(document.documentElement).backgroundColor, found = [];
        for (const text of document.querySelectorAll("p, td, th, h1, h2, summary span, dt, dd, text, code")) {
          let behind = text;
          while (behind && style(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
          const box = text.matches(".view g > rect ~ text") && text.parentElement.querySelector("rect");
          const color = text.tagName === "text" ? style(text).fill : style(text).color;
          found.push([color, box ? style(box).fill : behind ? style(behind).backgroundColor : paper]);
        }
        return found"""
    )
    assert len(pairs) > 100
    worst = min({tuple(pair) for pair in pairs}, key=lambda pair: contrast(*pair))
    assert contrast(*worst) >= 4.5, worst


def contrast(a: str, b: str) -> float:
    def luminance(color: str) -> float:
        channels = [int(c) / 255 for c in color[color.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
