# pyright: reportArgumentType=false
"""The Explore page in a real browser: a grid with an image, its tokens, what if, and what differs between two answers."""

from __future__ import annotations

import pytest
from PIL import Image
from playwright.sync_api import Page, Request, ViewportSize, expect
from prometheus_client.parser import text_string_to_metric_families

from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import DESKTOP, PHONE, Browsers
from tests.support.browser.explore_page import (
    branch,
    cell,
    compare,
    exported,
    fill,
    open_answer,
    open_explore,
    open_tokens,
    press,
    run_and_wait,
    text_of,
    token_ids,
    wait_token,
)
from tests.support.image_files import encode
from tests.support.paths import EXAMPLE_IMAGES
from tests.support.program import Program

pytestmark = pytest.mark.timeout(400)
# True when the text of each element is in one line.
ONE_LINE = """(all) => all.every((element) => {
  const range = document.createRange();
  range.selectNodeContents(element);
  return new Set([...range.getClientRects()].map((box) => box.top)).size === 1;
})"""


def requests_answered(server: Program) -> float:
    """The number of requests that the backend has finished."""
    page = server.get("/metrics")
    assert page is not None
    families = text_string_to_metric_families(page.text)
    return sum(s.value for f in families for s in f.samples if s.name == "vllm:request_success_total")


def test_a_grid_with_an_image_is_a_matrix_of_its_axes(page: Page):
    """Five temperatures, five top-p and two seeds fit the window; equal answers are merged and counted."""
    open_explore(page)
    fill(page, temperature="0, 0.5, 1, 1.5, 2", top_p="0.3, 0.5, 0.7, 0.9, 1", seed="1, 2", max_tokens="12")
    page.get_by_role("button", name="dog").click()
    run_and_wait(page, 50)
    run = exported(page)
    assert run["image"]["name"] == "dog.png"
    assert all(token["trace"] for made in run["cells"] for token in made["tokens"])
    texts = [made["text"] for made in run["cells"]]
    expect(page.locator("#fixed-values")).to_have_text(
        f"{len(set(texts))} different answers in 50 cells. The same for all: top-k 0."
    )
    expect(page.locator("#grid thead th[scope=colgroup]")).to_have_text(["seed 1", "seed 2"])
    expect(page.locator("#grid thead th[scope=col]")).to_have_text(["0.3", "0.5", "0.7", "0.9", "1"] * 2)
    expect(page.locator("#grid tbody th")).to_have_text(["0", "0.5", "1", "1.5", "2"])
    # Greedy answers are the same whatever top-p and the seed are: one element for each seed, with the count of both.
    expect(cell(page, 0)).to_have_attribute("data-cells", "0 2 4 6 8")
    expect(cell(page, 0).locator(".same")).to_have_text(f"A ×{texts.count(texts[0])}")
    expect(cell(page, 1).locator(".same")).to_have_text(f"A ×{texts.count(texts[0])}")
    expect(page.locator("#grid-panel")).to_be_in_viewport()
    box = page.locator("#grid").bounding_box()
    assert box is not None
    assert 0 <= box["y"] <= 800 - box["height"], "the whole matrix is in sight"
    page.locator("#axis-rows").select_option("seed")
    expect(page.locator("#grid tbody th")).to_have_text(["1", "2"] * 3)  # five groups, two abreast


def test_equal_answers_of_a_grid_are_counted_as_one(page: Page):
    open_explore(page)
    fill(page, temperature="0", top_p="1", seed="1, 2, 3", max_tokens="8")
    run_and_wait(page, 3)
    expect(page.locator("#fixed-values")).to_have_text(
        "One answer in 3 cells. The same for all: temperature 0 · top-p 1 · top-k 0."
    )


@pytest.mark.parametrize(("viewport", "least_height"), [(DESKTOP, 20), (PHONE, 40)], ids=["desktop", "phone"])
def test_the_controls_of_a_run_keep_a_distance_and_are_high_enough_to_touch(
    browsers: Browsers, viewport: ViewportSize, least_height: int
):
    page = browsers.open(viewport=viewport)
    open_explore(page)
    fill(page, temperature="0, 2", top_p="0.5, 1", seed="1", max_tokens="8")
    run_and_wait(page, 4)
    actions, axes = page.locator("#run-actions").bounding_box(), page.locator("#axes").bounding_box()
    assert actions is not None
    assert axes is not None
    assert axes["y"] - actions["y"] - actions["height"] >= 4
    heights = page.locator("#axes select").evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().height)")
    assert len(heights) == 2
    assert min(heights) >= least_height
    assert page.locator("#measures-panel .scroll th", has_text="-").evaluate_all(ONE_LINE), "no name is broken at its hyphen"


def test_an_answer_opens_under_its_row_and_closes(page: Page):
    open_explore(page)
    fill(page, temperature="0, 2", top_p="0.5, 1", seed="1", max_tokens="24")
    run_and_wait(page, 4)
    made = exported(page)["cells"]
    detail = open_answer(page, 0)
    assert text_of(page, 0) == made[0]["text"].strip()
    rows = [row.evaluate("row => row.className") for row in page.locator("#grid > .matrix > table > tbody > tr").all()]
    assert rows == ["", "detail-row", ""], "between its row and the next one"
    expect(detail).to_be_in_viewport()
    assert text_of(page, 3) == made[3]["text"].strip()
    expect(page.locator(".detail")).to_have_count(1)
    page.keyboard.press("Escape")
    cell(page, 3).click()
    expect(page.locator(".detail")).to_have_count(0)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator(".detail")).to_be_focused()
    expect(page.locator(".detail h3")).to_have_text("Cell 1" if cell(page, 1).get_attribute("data-cells") == "0 1" else "Cell 2")


def test_an_uploaded_image_is_used(page: Page):
    open_explore(page)
    fill(page, temperature="0", top_p="1", max_tokens="8")
    page.locator("#file").set_input_files(EXAMPLE_IMAGES / "stop.png")
    expect(page.locator("#thumbnails .upload")).to_have_attribute("aria-pressed", "true")
    run_and_wait(page, 1)
    assert exported(page)["image"]["width"] > 0
    page.get_by_role("button", name="None").click()
    run_and_wait(page, 1)
    assert exported(page)["image"] is None


def test_an_image_that_the_browser_cannot_draw_is_named_and_later_shown(page: Page):
    open_explore(page)
    fill(page, temperature="0", top_p="1", max_tokens="8")
    photo = encode(Image.open(EXAMPLE_IMAGES / "stop.png").convert("RGB"), "TIFF")
    page.locator("#file").set_input_files({"name": "photo.tif", "mimeType": "image/tiff", "buffer": photo})
    expect(page.locator("#thumbnails .upload")).to_have_text("photo.tif")
    run_and_wait(page, 1)
    page.reload()
    thumbnail = page.locator("#thumbnails .upload img")
    assert thumbnail.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0


def test_an_uploaded_image_keeps_the_name_of_its_file(page: Page):
    open_explore(page)
    fill(page, temperature="0", top_p="1", max_tokens="8")
    picture = (EXAMPLE_IMAGES / "stop.png").read_bytes()
    page.locator("#file").set_input_files({"name": "my sign.png", "mimeType": "image/png", "buffer": picture})
    run_and_wait(page, 1)
    assert exported(page)["image"]["name"] == "my sign.png"


@pytest.mark.parametrize("type", ["text/plain", "image/png"])
def test_a_file_that_is_no_image_is_refused_by_its_name_whatever_the_browser_calls_it(page: Page, browsers: Browsers, type: str):
    browsers.expect_complaint("status of 400")
    open_explore(page)
    page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": type, "buffer": b"These are notes."})
    page.locator("#run").click()
    expect(page.get_by_role("alert").filter(has_text="notes.txt")).to_contain_text(
        'The image "notes.txt" is not an image that can be read'
    )


def test_tokens_are_selected_by_mouse_and_keyboard(page: Page):
    open_explore(page)
    fill(page, temperature="2", top_p="0.9", seed="2", max_tokens="12")
    run_and_wait(page, 1)
    open_tokens(page, 0)
    page.locator("#token-3").click()
    wait_token(page, 4)
    tokens = page.locator("#tokens")
    for key, number in (("ArrowRight", 5), ("ArrowLeft", 4), ("Home", 1), ("ArrowLeft", 1), ("End", 12), ("ArrowRight", 12)):
        tokens.press(key)
        wait_token(page, number)
        expect(page.locator(f"#token-{number - 1}")).to_have_attribute("aria-selected", "true")
        expect(page.locator('.token[aria-selected="true"]')).to_have_count(1)
    expect(page.locator(".candidates .chosen")).to_contain_text("drawn: 0.")
    expect(page.locator(".candidates .unrecorded")).to_be_visible()
    expect(page.locator(".candidates thead")).to_contain_text("temperature 2top-k offtop-p 0.9")
    trace = exported(page)["cells"][0]["tokens"][11]["trace"]
    expect(page.locator("#candidates")).to_contain_text(f"top-p 0.9 left {trace['after_top_p']:,} candidate")
    expect(page.locator(".candidates .chosen")).to_contain_text(f"{trace['draw']:.4f}")
    page.get_by_label("Colour by").select_option("entropy")
    expect(page.locator("#legend-high")).to_have_text("undecided")


def test_what_if_updates_the_tokens_without_generation(page: Page, server: Program):
    open_explore(page)
    fill(page, temperature="2", top_p="1", top_k="0", seed="1", max_tokens="24")
    run_and_wait(page, 1)
    open_tokens(page, 0)
    before = requests_answered(server)
    posted: list[str] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            posted.append(request.url.rpartition("/")[2])

    page.on("request", note)
    rows = page.locator(".candidates tbody tr")
    drawn, explanation = page.locator(".candidates .chosen"), page.locator("#explanation").inner_text()
    handles = [row.element_handle() for row in rows.all()]
    page.evaluate("document.querySelector('.candidates .chosen').id = 'drawn'")
    before_bar = drawn.locator("td").nth(3).inner_text()
    page.locator("#whatif-top_k").fill("3")
    expect(page.locator(".candidates thead")).to_contain_text("top-k 3")
    expect(rows.nth(3)).to_have_text("top-k 3 cuts here")
    expect(rows.nth(4)).to_contain_text("cut by top-k")
    expect(drawn).to_contain_text("drawn: 0.")
    expect(drawn.locator("td").nth(3)).not_to_have_text(before_bar)
    page.locator("#whatif-top_k").fill("5")
    expect(rows.nth(5)).to_have_text("top-k 5 cuts here")
    expect(rows.nth(3)).not_to_contain_text("cuts here")
    expect(page.locator("#drawn.chosen")).to_have_count(1)
    assert all(handle.evaluate("row => row.isConnected") for handle in handles), "the rows stay, the bars move"
    assert page.locator("#explanation").inner_text() == explanation
    page.locator("#whatif-top_k").fill("1")
    expect(rows.nth(1)).to_have_text("greedy cuts here")
    expect(page.locator("#whatif-result")).to_contain_text("could not have been drawn")
    expect(page.locator(".token.impossible").first).to_be_visible()
    expect(page.locator(".token.differs")).to_have_count(1)
    page.get_by_role("button", name="As it was").click()
    expect(page.locator("#whatif-result")).to_contain_text("would choose this very answer")
    expect(page.locator(".token.impossible")).to_have_count(0)
    expect(page.locator(".cut-line")).to_have_count(0)
    expect(drawn.locator("td").nth(3)).to_have_text(before_bar)
    page.locator("#whatif-temperature").fill("0.2")
    expect(page.locator("#whatif-result")).to_contain_text("Chance of this whole answer: 1 in")
    assert set(posted) == {"whatif"}
    assert requests_answered(server) == before


def test_two_answers_are_compared_at_the_first_token_that_differs(page: Page):
    open_explore(page)
    fill(page, temperature="2", top_p="1", seed="1, 2", max_tokens="24")
    run_and_wait(page, 2)
    compare(page, 0, 1)
    a, b = token_ids(exported(page))
    divergence = next(at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other)
    expect(page.locator("#divergence")).to_contain_text(f"They part at token {divergence + 1}.")
    expect(page.locator("#compare-panel mark").first).to_be_visible()
    expect(page.locator("#comparing")).to_be_hidden()
    page.locator(".detail").get_by_role("button", name="Close").click()
    expect(page.locator("#divergence")).to_have_count(0)


def test_an_invalid_value_is_reported_before_a_run(page: Page, browsers: Browsers):
    browsers.expect_complaint("400")
    open_explore(page)
    fill(page, temperature="0.5, 9")
    expect(page.locator("#estimate")).to_contain_text("Temperature must be a number from 0 to 2")
    expect(page.locator("#run")).to_be_disabled()
    fill(page, temperature="0.5, warm")
    expect(page.locator("#estimate")).to_contain_text("“warm” is no number")


@pytest.mark.parametrize("viewport", [None, PHONE], ids=["desktop", "phone"])
def test_the_full_page_fits_the_window_and_has_no_accessibility_violation(browsers: Browsers, viewport: dict[str, int] | None):
    page = browsers.open(**({"viewport": viewport} if viewport else {}))
    open_explore(page)
    found = obstacles(page)
    fill(page, temperature="1, 2", top_p="0.5, 1", seed="3", max_tokens="16")
    run_and_wait(page, 4)
    open_tokens(page, 3)
    page.locator("#whatif-top_k").fill("1")
    expect(page.locator("#whatif-result")).to_contain_text("could not")
    branch(page)
    expect(cell(page, 4)).to_be_visible()
    compare(page, 0, 4)
    expect(page.locator("#divergence")).to_be_visible()
    expect(page.locator("#heat-map td[style]").first).to_be_visible()
    page.get_by_text("What these measure").click()
    found += obstacles(page)
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1], "the page itself is not to be scrolled sideways"
    press(page, 0, "Code")
    expect(page.locator("dialog pre").first).to_be_visible()
    found += obstacles(page)
    assert not found, "\n".join(found)
