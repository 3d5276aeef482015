"""The demo in headless Chromium: clicks, strokes, bad values, two visitors, a narrow screen, and no other host."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import ElementNotInteractableException, StaleElementReferenceException

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.seeding import keyed_generator

STARTUP_SECONDS, ANSWER_SECONDS = 120, 20
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1280,1000"),
)


@pytest.fixture(scope="module")
def programs() -> tuple[str, str]:
    """The browser and its driver."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    beside = Path(os.environ.get("CHROMEWEBDRIVER", "/usr/bin")) / "chromedriver"
    driver = shutil.which("chromedriver") or (str(beside) if beside.is_file() else None)
    if not (chromium and driver):
        stop = pytest.fail if os.environ.get("DEMO_NEEDS_BROWSER") else pytest.skip
        stop("there is no Chromium with its driver: apt-get install chromium chromium-driver")
    return chromium, driver


@pytest.fixture(scope="module")
def address(programs):
    """The demo, served by the command on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mnist_guided_pipeline", "demo", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    printed: list[str] = []
    ready = threading.Event()

    def listen() -> None:
        for line in server.stdout:
            printed.append(line)
            if line.startswith("The demo is at"):
                ready.set()
        ready.set()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        assert ready.wait(STARTUP_SECONDS) and server.poll() is None, "".join(printed)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)
        listener.join()
        server.stdout.close()
    assert "Traceback" not in "".join(printed), "".join(printed)


class Page:
    """A browser at the demo's page."""

    def __init__(self, driver, address: str):
        self.driver, self.address = driver, address

    def open(self, width: int = 1280, height: int = 1000) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(self.address)
        self.until(lambda: self.all("#generate-button"))

    def until(self, condition):
        """Wait for something to be true, and return it; elements may come and go meanwhile."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            try:
                if value := condition():
                    return value
            except (ElementNotInteractableException, StaleElementReferenceException):
                pass
            time.sleep(0.05)
        raise AssertionError(f"waited {ANSWER_SECONDS} s in vain; the page says: {self.one('body').text[:800]}")

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        element = self.one(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def fill(self, selector: str, text: str) -> None:
        self.one(selector).send_keys(webdriver.Keys.CONTROL, "a")
        self.one(selector).send_keys(webdriver.Keys.DELETE, text, webdriver.Keys.TAB)

    def tab(self, name: str) -> None:
        next(tab for tab in self.all("button[role=tab]") if tab.text == name).click()

    def pictures(self, selector: str) -> list[str]:
        """The addresses of the images inside an element."""
        script = "return [...document.querySelectorAll(arguments[0] + ' img')].map((image) => image.src)"
        return self.driver.execute_script(script, selector)

    def generated(self, count: int, before: list[str] | None = None) -> list[str]:
        """The gallery's images, once there are as many, and other ones than before."""

        def done():
            shown = self.pictures("#generate-gallery")
            return shown if len(shown) == count and shown != before else None

        return self.until(done)

    def fits(self) -> bool:
        """Whether nothing is wider than the screen."""
        return self.driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    def stroke(self, *moves: tuple[int, int]) -> None:
        """Draw on the canvas, from a little above its middle on the left."""
        canvas = self.one("#draw-canvas canvas")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        actions = webdriver.ActionChains(self.driver, duration=20)
        actions.move_to_element_with_offset(canvas, -60, -90).click_and_hold()
        for move in moves:
            actions.move_by_offset(*move)
        actions.release().perform()


@pytest.fixture(scope="module")
def page(programs, address, tmp_path_factory):
    chromium, driver = programs
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Page(browser, address)
    finally:
        browser.quit()


def picture(url: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(url.split(",", 1)[1])))


SEVEN = ((60, 0), (60, 5), (-30, 80), (-30, 100))


def test_a_click_generates_what_the_pipeline_generates(page):
    page.open()
    page.click("#generate-button")
    shown = page.generated(8)
    pipe = mgp.load_default()
    expected = pipe("3", 8, generator=[keyed_generator(0, 0, i) for i in range(8)]).images
    for url, image in zip(shown, expected, strict=True):
        difference = max(abs(a - b) for a, b in zip(picture(url).tobytes(), image.tobytes(), strict=True))
        assert difference <= 1  # the server may use another number of threads
    assert "8 of 8" in page.until(lambda: page.one("#generate-verdict").text)
    assert all("judge: 3" in caption.text for caption in page.all("#generate-gallery figcaption"))
    page.until(lambda: len(page.pictures("#generate-path")) == 2 * pipe.sampling_defaults["num_inference_steps"])
    page.until(lambda: page.pictures("#generate-beliefs"))
    first = page.pictures("#generate-path")
    page.click("#generate-gallery button[data-index='4']")
    page.until(lambda: page.pictures("#generate-path") != first)
    assert page.one("#generate-chosen").text.startswith("Image 5 of 8")
    assert page.one("#generate-gallery button[data-index='4']").get_attribute("aria-pressed") == "true"


def test_a_bad_value_is_reported_and_the_page_still_answers(page):
    page.open()
    page.fill("#generate-count input", "99")
    page.click("#generate-button")
    words = "Images of each must be a whole number from 1 to 16, got 99"
    assert page.until(lambda: any(words in box.text for box in page.all(".toast-body")))  # which fades in and out
    assert "Traceback" not in page.one("body").text
    page.fill("#generate-count input", "2")
    page.click("#generate-button")
    page.generated(2)


def test_a_drawn_digit_is_read(page):
    page.tab("Draw a digit")
    page.stroke(*SEVEN)
    verdict = page.until(lambda: [text for text in [page.one("#draw-verdict").text] if "judge reads" in text])[0]
    assert "The judge reads 7" in verdict
    assert len(page.pictures("#draw-pictures")) == 3  # the drawing, its reconstruction, the latent vector as bars
    assert "the latent, 32 numbers" in page.one("#draw-pictures").text
    page.until(lambda: len(page.pictures("#draw-strip")) == 7 and page.pictures("#draw-beliefs"))
    page.click("#draw-clear")
    page.until(lambda: page.one("#draw-verdict").text == "Nothing drawn yet.")
    page.click("#draw-example")
    page.until(lambda: "judge reads" in page.one("#draw-verdict").text)


def test_a_narrow_screen_needs_no_sideways_scrolling(page):
    page.open(375, 800)
    assert page.fits()
    page.click("#generate-button")
    page.generated(8)
    page.until(lambda: page.pictures("#generate-beliefs"))
    assert page.fits()
    page.tab("Compare")
    page.click("#compare-button")
    page.until(lambda: len(page.pictures("#compare-gallery-b")) == 8)
    page.until(lambda: page.pictures("#compare-beliefs"))
    assert page.pictures("#compare-gallery-a") != page.pictures("#compare-gallery-b")
    assert page.fits()
    page.tab("Draw a digit")
    page.stroke(*SEVEN)
    page.until(lambda: page.pictures("#draw-beliefs"))
    assert page.fits()


def test_no_other_host_is_asked_and_the_console_is_clean(page):
    page.open()
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith(page.address) for url in asked)
    own = (page.address, "data:", "blob:", "about:", "chrome:", "chrome-untrusted:")  # the last two are the browser
    assert [url for url in asked if not url.startswith(own)] == []
    severe = [entry["message"] for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
