"""The page in headless Chromium, as people use it."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.serve.conftest import jpeg

from normface.data.synthetic import face, photograph
from normface.embed import Embedder
from normface.gallery import Enrolments, open_gallery
from normface.serve import new_key
from normface.types import Estimate, Result

BAD = '<img src=x onerror="document.title=1"><script>document.title=1</script>'
REPORT = f"""<!doctype html><html><head><title>R</title><style>h1 {{ color: rgb(1, 2, 3) }}</style>
<meta http-equiv="refresh" content="0; url=http://127.0.0.1:9/"></head>
<body><h1>Found</h1><script>document.body.textContent = "ran"</script>{BAD}<a href="javascript:1">l</a></body></html>"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(chromium):
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def files(tmp_path):
    for person in range(2):
        for picture in range(2):
            path = tmp_path / f"{person}{picture}.jpg"
            path.write_bytes(jpeg(photograph(0, person, picture, strength=0.4)))
    return tmp_path


@pytest.fixture
def opened(browser):
    """Open the page at a URL; at the end nothing failed, and nothing was asked of anybody else."""
    pages, faults, hosts = [], [], set()

    def open_page(url, **options):
        page = browser.new_page(**options)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "://" in request.url else None)
        page.set_default_timeout(600_000)
        page.goto(url)
        page.wait_for_selector("#about:not(:empty)")
        pages.append(page)
        return page

    open_page.faults = faults
    yield open_page
    assert hosts <= {page.url.split("/")[2] for page in pages}
    for page in pages:
        page.close()


def press(page, form):
    page.click(f"{form} .row > button:not(photo-input button)")


def test_compare(opened, listening, files):
    page = opened(listening())
    page.set_input_files("#photo-a-verify-form", files / "00.jpg")
    page.set_input_files("#photo-b-verify-form", files / "00.jpg")
    press(page, "#verify-form")
    assert page.text_content(".answer") == "The same person"
    assert page.get_attribute(".scale", "aria-label") == "Cosine 1.000 between −1 and 1; threshold 0.900"
    # llr 4, within the ends of PAV's steps: 1/(1+exp(−4)) is 982 of 1,000
    assert "Of 100 pairs with such a cosine, 98 show one person" in page.text_content("#verdict")
    page.wait_for_selector(".crop circle")
    assert page.locator(".crop circle.light").count() == 10
    assert not page.is_visible("#people-link")
    page.click("summary")
    assert "at least 0.9000, chosen for a false accept rate of 1.000 % on drawn faces" in page.text_content(
        "#certificate"
    )
    assert "0.80 % of 500 pairs of different people (95 %: 0.20 % to 2.00 %)" in page.text_content("#certificate")
    text = page.text_content("#certificate")
    mean = (
        "In the mean over 30 people it accepted 90.00 % (95 %: 80.00 % to 95.00 %) of a person's own pairs, and 0.60 %"
    )
    assert text.index(mean) < text.index("There it accepted")  # five people hold half of the genuine pairs
    page.set_input_files("#photo-b-verify-form", {"name": "x.png", "mimeType": "image/png", "buffer": b"no image"})
    press(page, "#verify-form")
    page.wait_for_selector("[role=alert]")
    assert "Expected photograph b to be an image" in page.text_content("[role=alert]")
    assert [each for each in opened.faults if "422" not in each] == []


def test_people_with_scripts_for_names_and_a_key(opened, listening, files, tmp_path):
    key = new_key(tmp_path / "keys", ("admin",))
    page = opened(listening(gallery=f"file:{tmp_path / 'people.db'}", keys=tmp_path / "keys"))
    page.fill("#key", key)
    page.press("#key", "Tab")
    page.click("#people-link")
    for name, person in ((BAD, 0), ("Łukasz 李", 1)):
        page.set_input_files("#photo-photographs-enrol-form", [files / f"{person}0.jpg", files / f"{person}1.jpg"])
        page.fill("#person", name)
        page.fill("#consent", "form 12")
        if person:
            press(page, "#enrol-form")
            page.locator("#enrolled", has_text="a face unlike the other photographs").wait_for()
            page.check("#enrol-same")
        press(page, "#enrol-form")
        page.locator("#enrolled", has_text=f"{name}: 2 added.").wait_for()
    assert sorted(page.locator("#list tbody th").all_text_contents()) == sorted([BAD, "Łukasz 李"])
    page.set_input_files("#photo-photograph-search-form", files / "01.jpg")
    press(page, "#search-form")
    page.wait_for_selector("#ranking table")
    assert page.locator("#ranking th[scope=row]").all_text_contents() == [BAD, "Łukasz 李"]
    assert page.locator("#ranking tbody tr").first.locator("td").all_text_contents()[1:] == ["1.000", "accepted"]
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#list tr", has_text="onerror").get_by_role("button").click()
    assert page.text_content("#sure-head") == f"Forget {BAD}?"
    page.keyboard.press("Enter")  # the safe answer has the focus
    assert page.locator("#list tbody tr").count() == 2
    page.locator("#list tr", has_text="onerror").get_by_role("button").click()
    page.click("#sure button[value=yes]")
    page.locator("#enrolled", has_text="is forgotten").wait_for()
    page.locator("#count", has_text="(1)").wait_for()
    assert page.title() == "normface"
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
    assert [each for each in opened.faults if "401" not in each and "409" not in each] == []


def test_many_people_below_a_path(opened, listening, model, tmp_path):
    """Shown as the page scrolls, found by the beginning of a name; all addresses are relative."""
    names = [f"{'Xenia' if number % 100 == 0 else 'Ann'} {number:03}" for number in range(450)]
    people = f"file:{tmp_path / 'people.db'}"
    with open_gallery(people, model=Embedder.load(model).sha256) as gallery:
        gallery.enrol_many(Enrolments(names, np.random.default_rng(0).normal(size=(len(names), 192))))
    page = opened(f"{listening(gallery=people, root_path='/faces')}/faces/#people")
    rows = page.locator("#list tbody th")
    page.locator("#count", has_text="(200 shown)").wait_for()
    assert rows.count() == 200
    for told in ("(400 shown)", "(450)"):
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.locator("#count", has_text=told).wait_for()
    assert sorted(rows.all_text_contents()) == sorted(names)
    page.fill("#filter", "xEN")
    page.locator("#count", has_text="(5)").wait_for()
    assert rows.all_text_contents() == [name for name in names if name.startswith("Xenia")]
    assert opened.faults == []


def test_a_report_from_disk_is_shown_and_runs_nothing(opened, listening_url, tmp_path):
    page = opened(f"{listening_url}#report")
    (tmp_path / "report.html").write_text(REPORT)
    page.set_input_files("#report-file", tmp_path / "report.html")
    frame = page.frame_locator("iframe")
    frame.locator("h1").wait_for()
    assert frame.locator("h1").text_content() == "Found"
    assert frame.locator("h1").evaluate("e => getComputedStyle(e).color") == "rgb(1, 2, 3)"
    assert page.title() == "normface"
    assert frame.locator("body").evaluate("() => document.title") != "1"
    result = Result("lfw", {"<b>": Estimate(0.9, 0.8, 0.95, 6000)}, facts={"folds": 10})
    (tmp_path / "result.json").write_text(result.to_json())
    page.set_input_files("#report-file", tmp_path / "result.json")
    page.wait_for_selector("#report-view td")
    cells = page.locator("#report-view tbody tr").first
    assert cells.locator("th").text_content() == "<b>"
    assert cells.locator("td").all_text_contents() == ["90.00 %", "80.00 % to 95.00 %", "6,000"]
    (tmp_path / "bad.json").write_text("{")
    page.set_input_files("#report-file", tmp_path / "bad.json")
    page.wait_for_selector("#report-view [role=alert]")
    assert page.text_content("#report-view [role=alert]") == "bad.json is no JSON."


@pytest.fixture
def listening_url(listening):
    return listening()


def test_by_keyboard_and_camera_on_a_phone_in_the_dark(opened, listening_url):
    page = opened(listening_url, viewport={"width": 360, "height": 700}, color_scheme="dark")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    names = []
    for _ in range(8):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate("document.activeElement.labels?.[0]?.textContent || document.activeElement.textContent")
        )
    assert names[:6] == ["Compare", "Report", "Choose First photograph", "Camera for First photograph",
                         "Choose Second photograph", "Camera for Second photograph"]  # fmt: skip
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 27)"
    page.locator("photo-input[name=a] button").focus()
    page.keyboard.press("Enter")
    page.locator("button:focus", has_text="Take photograph").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_selector("photo-input[name=a] .thumbs img")
    assert "camera.jpg" in page.text_content("photo-input[name=a]")
    assert page.locator("video").count() == 0


def test_everything_that_is_pressed_or_filled_has_a_name(opened, listening, tmp_path):
    page = opened(listening(gallery=f"file:{tmp_path / 'people.db'}"))
    page.click("#people-link")
    told = page.locator("body").aria_snapshot()
    assert not re.search(r"^\s*- (button|textbox|combobox|link|checkbox|img)\s*$", told, re.MULTILINE), told
    for part in ('link "People"', 'button "Enrol"', 'textbox "Name"', 'heading "People" [level=2]', "table"):
        assert part in told, told


@pytest.fixture
def ort_web():
    """The folder dist of onnxruntime-web, which is no Python package: named by NORMFACE_ORT_WEB."""
    folder = os.environ.get("NORMFACE_ORT_WEB")
    if folder is None:
        pytest.skip("NORMFACE_ORT_WEB names no folder of onnxruntime-web (npm pack onnxruntime-web)")
    return Path(folder)


def test_embedded_in_the_browser_as_by_the_service(ort_web, opened, listening, model, tmp_path):
    url = listening(ort_web=ort_web)
    page = opened(url)
    crops = [face(0, person, 0, strength=0.4) for person in range(2)]
    for name, crop in zip("ab", crops, strict=True):
        Image.fromarray(crop).save(tmp_path / f"{name}.png")
        page.set_input_files(f"#photo-{name}-verify-form", tmp_path / f"{name}.png")
    asked = []
    page.on("request", lambda request: asked.append(request.method))
    page.check("#browser")
    press(page, "#verify-form")
    page.locator("#verdict", has_text="Embedded in this browser").wait_for()
    assert set(asked) == {"GET"}
    score = Embedder.load(model).verify(*crops, aligned=True).score
    assert f"cosine {score:.3f}" in page.text_content("#verdict")
    page.set_input_files(
        "#photo-a-verify-form", {"name": "p.jpg", "mimeType": "image/jpeg", "buffer": jpeg(photograph(0, 0, 0))}
    )
    press(page, "#verify-form")
    page.wait_for_selector("#verdict [role=alert]")
    assert "Expected an aligned crop of 112×112, got 250×250" in page.text_content("#verdict")
    assert opened.faults == []
