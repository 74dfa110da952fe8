"""Clicks through the comparison of runs in headless Chromium: ``pytest -m browser``."""

import shutil
from pathlib import Path

import pytest
from test_compare_report import two_runs
from test_report import CLASSES

from scripts import report

webdriver = pytest.importorskip("selenium.webdriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromedriver") is None, reason="needs chromium-driver"),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1280,1600", "--host-resolver-rules=MAP * ~NOTFOUND"),  # no network at all
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    assert report.main([*map(str, two_runs(root)), "--out", str(root / "page.html")]) == 0
    return root / "page.html"


@pytest.fixture
def find(driver, page):
    """Opens the page; returns what finds all elements of a selector, and fails on an error."""
    driver.get(page.as_uri())
    driver.get_log("browser")
    yield lambda selector: driver.find_elements("css selector", selector)
    assert not driver.get_log("browser")


def texts(elements) -> list[str]:
    return [element.text for element in elements]


def pixels(driver, canvas) -> str:
    return driver.execute_script("return arguments[0].toDataURL()", canvas)


def choose(find, selector: str, value: str) -> None:
    find(f'{selector} option[value="{value}"]')[0].click()


def test_a_run_is_hidden_and_shown_by_a_click(find):
    assert len(find("#curves path")) == 2
    assert len(find("#costs circle")) == 4
    find('#runs tr[data-run="first"] td')[0].click()
    assert find('#runs tr[data-run="first"]')[0].get_attribute("class") == "hidden"
    assert len(find("#curves path")) == 1
    assert len(find("#costs circle")) == 2
    assert texts(find("#confusion figcaption")) == ["second"]
    find('#runs tr[data-run="first"] td')[0].click()
    assert len(find("#curves path")) == 2


def test_a_heading_sorts_the_table(find):
    assert texts(find("#runs tbody td:first-child")) == ["first", "second"]
    find("#runs th")[0].click()
    assert texts(find("#runs tbody td:first-child")) == ["second", "first"]
    find("#runs th")[0].click()
    assert texts(find("#runs tbody td:first-child")) == ["first", "second"]


def test_another_metric_and_another_split_are_drawn(find):
    assert find("#curves svg")[0].get_attribute("aria-label") == "val_accuracy against epoch"
    choose(find, "#metric", "train_loss")
    assert find("#curves svg")[0].get_attribute("aria-label") == "train_loss against epoch"
    assert len(find("#curves circle")) == 2 * 3
    choose(find, "#split", "hard")
    assert texts(find("#confusion figcaption")) == ["first"]
    assert len(find("#costs circle")) == 2


def test_what_is_wrong_comes_first_in_the_eyes_of_a_run(find):
    assert [e.get_attribute("data-name") for e in find(".sample")][:2] == ["4", "2"]
    choose(find, "#eyes", "second")
    assert len(find(".sample.wrong")) == 1
    assert texts(find(".sample.wrong p.wrong")) == [
        f"first: {CLASSES[2]} (0.70)",
        f"second: {CLASSES[2]} (0.70)",
    ]
    choose(find, "#eyes", "first")
    assert len(find(".sample.wrong")) == 2


def test_a_cell_of_a_confusion_matrix_chooses_its_samples(find):
    assert len(find(".sample")) == 6
    find('#confusion figure[data-run="first"] td[data-cell="0,1"]')[0].click()
    assert [e.get_attribute("data-name") for e in find(".sample")] == ["2"]
    assert "1 of 6 kept samples are chair" in find("#found")[0].text
    find("#all")[0].click()
    assert len(find(".sample")) == 6


def test_a_cloud_is_turned_by_dragging_and_turned_back_by_a_double_click(driver, find):
    canvas = find(".sample canvas")[0]
    still = find(".sample canvas")[1]
    before, other = pixels(driver, canvas), pixels(driver, still)
    actions = webdriver.ActionChains(driver)
    actions.click_and_hold(canvas).move_by_offset(60, 20).release().perform()
    turned = pixels(driver, canvas)
    assert turned != before
    assert pixels(driver, still) == other
    webdriver.ActionChains(driver).move_by_offset(5, 5).perform()  # without the button
    assert pixels(driver, canvas) == turned
    webdriver.ActionChains(driver).double_click(canvas).perform()
    assert pixels(driver, canvas) == before


def test_the_wheel_and_the_arrow_keys_work_too(driver, find):
    canvas = find(".sample canvas")[0]
    before = pixels(driver, canvas)
    origin = webdriver.common.actions.wheel_input.ScrollOrigin.from_element(canvas)
    webdriver.ActionChains(driver).scroll_from_origin(origin, 0, -200).perform()
    closer = pixels(driver, canvas)
    assert closer != before
    canvas.send_keys("\ue012")  # arrow left
    assert pixels(driver, canvas) != closer


def test_names_of_classes_are_text(driver, find):
    headings = texts(find('#confusion figure[data-run="first"] th'))
    assert "<script>alert(1)</script>" in headings
    assert len(find("script")) == 2


def test_a_hint_tells_the_number_under_the_mouse(driver, find):
    find('#runs tr[data-run="second"] td')[0].click()  # its curve lies on that of the first
    webdriver.ActionChains(driver).move_to_element(find("#curves circle")[1]).perform()
    assert find("#tip")[0].text == "first, epoch 2: 75.0 % (best)"
