"""Failures during a presentation: the page shows the recorded answer with its label, or says what to do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser.accessibility import obstacles
from tests.support.browser.browsers import Browsers
from tests.support.browser.chat_page import take_screenshots
from tests.support.paths import DEMOS, EXAMPLE_IMAGES
from tests.support.program import Program, free_port, running, visitor
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
FAILING_DEMO = DEMOS / "failing_demo.py"
LABEL = re.compile(r"^Recorded on \d{1,2} [A-Z][a-z]+ \d{4} · embedded$")
STEP = """  - prompt: {}
    image: {}
    parameters: {{temperature: 0}}
    time_limit_s: 30
"""
# Each with a picture of its own, so that the second is shown for the first time when something has failed already.
RECORDED = (("Tell me a story about it", "dog.png"), ("Describe this image", "shapes.png"))
SCENARIO = "title: On stage\nsteps:\n" + "".join(STEP.format(*step) for step in RECORDED)
# Every moment at which words of an answer could be seen, with the label beside them.
WATCH = """() => {
  window.seen = [];
  const look = () => {
    const words = document.querySelector("#answer").textContent;
    if (words) window.seen.push([words, document.querySelector("#recorded:not([hidden])")?.textContent ?? ""]);
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
}"""


def with_scenario(home: Path) -> Path:
    folder = home / "scenarios"
    folder.mkdir(parents=True)
    for _, picture in RECORDED:
        shutil.copy(EXAMPLE_IMAGES / picture, folder)
    (folder / "on-stage.yaml").write_text(SCENARIO)
    return folder


def rehearse(program: Program) -> None:
    """Records two steps; then the scenario gets a third one, which has no recording."""
    with visitor() as session:
        told = session.post(f"{program.url}/present/on-stage/rehearsal", timeout=60).text
    assert '"kept": true' in told, told
    script = program.home / "scenarios" / "on-stage.yaml"
    script.write_text(SCENARIO + STEP.format("What color is it?", "dog.png"))


def start(home: Path, *options: str) -> Iterator[Program]:
    options = ("--scenarios-dir", str(with_scenario(home)), *options)
    with running(home, *options, script=FAILING_DEMO, tracebacks=True) as program:
        program.wait_ready()
        rehearse(program)
        yield program
        for name in ("hang", "fail", "down"):
            (home / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Rehearsed, and fails as the test likes."""
    yield from start(tmp_path_factory.mktemp("failing"))


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Program]:
    """The same, for a test that takes it down for good."""
    yield from start(tmp_path, "--max-restarts", "0")


def open_stage(browsers: Browsers, program: Program) -> Page:
    """The stage, once it has all that it needs."""
    browsers.expect_complaint("net::ERR_|status of 50")
    page = browsers.open(program)
    page.goto("/present/on-stage")
    expect(page.locator("body")).to_have_attribute("data-held", "all")  # a page that says "starting" makes place by itself
    return page


def recorded_of(page: Page, step: int) -> str:
    return page.evaluate(
        """async (step) => (await (await fetch("on-stage/scenario.json")).json()).steps[step].recorded.text""", step
    )


def expect_recorded(page: Page, text: str) -> None:
    expect(page.locator("#recorded")).to_have_text(LABEL)
    expect(page.locator("#answer")).to_have_text(text)
    expect(page.locator("body")).to_have_attribute("data-phase", "done")
    expect(page.locator("#trouble")).to_be_hidden()


def open_notes(page: Page) -> Page:
    with page.expect_popup() as opened:
        page.keyboard.press("n")
    expect(opened.value.locator("#place")).not_to_be_empty()
    page.bring_to_front()
    return opened.value


def expect_no_recording(page: Page, notes: Page, words: str, why: str) -> None:
    """The audience reads the words, and the presenter the reason."""
    expect(page.locator("#trouble")).to_have_text(words)
    expect(page.locator("#figures")).to_have_text("r asks again · → goes on · n shows why")
    expect(page.locator("#recorded")).to_be_hidden()
    expect(notes.locator("#details")).to_contain_text(why)
    expect(notes.locator("#details")).to_contain_text("This step has no recorded answer. A rehearsal records")


@pytest.mark.parametrize("how", ["fail", "hang"])
def test_a_failed_or_stalled_answer_is_replaced_by_the_recorded_one(browsers: Browsers, failing: Program, how: str):
    page = open_stage(browsers, failing)
    story = recorded_of(page, 0)
    page.evaluate(WATCH)
    (failing.home / how).touch()
    page.keyboard.press("PageDown")
    expect_recorded(page, story)
    live = [words for words, label in page.evaluate("window.seen") if not label]
    assert live, "the answer had begun"
    assert all(story.startswith(words.strip()) and len(words) < len(story) for words in live)
    (failing.home / how).unlink()
    page.keyboard.press("r")
    expect(page.locator("#figures")).to_contain_text("tokens/s")
    expect(page.locator("#answer")).to_have_text(story)
    expect(page.locator("#recorded")).to_be_hidden()


def test_a_step_that_changed_after_the_page_was_opened_is_not_answered(browsers: Browsers, failing: Program):
    browsers.expect_complaint("status of 409")
    page = open_stage(browsers, failing)
    file = failing.home / "scenarios" / "on-stage.yaml"
    before = file.read_text()
    first, _, rest = before.partition(STEP.format(*RECORDED[1]))
    file.write_text(first + STEP.format("What color is it?", "dog.png") + STEP.format(*RECORDED[1]) + rest)
    page.keyboard.press("PageDown")
    expect(page.locator("#figures")).to_contain_text("tokens/s")
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    expect(page.locator("#trouble")).to_have_text("The scenario was changed; reload the page.")
    expect(page.locator("#prompt")).to_have_text(RECORDED[1][0])
    expect(page.locator("#answer")).to_be_empty()
    expect(page.locator("#recorded")).to_be_hidden()
    page.reload()
    expect(page.locator("#prompt")).to_have_text("What color is it?")
    page.keyboard.press("PageDown")
    expect(page.locator("#figures")).to_contain_text("tokens/s")
    file.write_text(before)


def test_a_scenario_that_changed_after_the_rehearsal_page_was_opened_is_not_rehearsed(browsers: Browsers, failing: Program):
    page = browsers.open(failing)
    page.goto("/present/on-stage/rehearsal")
    file = failing.home / "scenarios" / "on-stage.yaml"
    before = file.read_text()
    file.write_text(before.replace(RECORDED[1][0], "What color is it?"))
    page.get_by_role("button", name="Rehearse").click()
    expect(page.locator("#said")).to_contain_text("the scenario was changed meanwhile; reload this page.")
    expect(page.locator("#steps .answer").first).to_be_empty()
    file.write_text(before)
    wait_until(lambda: failing.health()["running"] == 0, "nothing is asked any more")


def test_a_failed_answer_without_recording_keeps_its_beginning_and_reports_why(browsers: Browsers, failing: Program):
    page = open_stage(browsers, failing)
    page.goto("/present/on-stage#3")
    page.reload()
    expect(page.locator("#place")).to_have_text("3 / 3")
    notes = open_notes(page)
    (failing.home / "fail").touch()
    page.keyboard.press("PageDown")
    expect_no_recording(page, notes, "The answer broke off.", "the device said no")
    expect(page.locator("#answer")).not_to_be_empty()
    (failing.home / "fail").unlink()
    page.keyboard.press("r")
    expect(page.locator("#figures")).to_contain_text("tokens")
    expect(page.locator("#trouble")).to_be_hidden()


def test_a_long_answer_gets_a_smaller_font_until_it_fits(browsers: Browsers, failing: Program):
    file = failing.home / "data" / "recordings" / "on-stage.json"
    recording = json.loads(before := file.read_text())
    long = recording["steps"]["0"]["answer"] = " ".join(f"Word number {number} of it." for number in range(45))
    file.write_text(json.dumps(recording))
    page = open_stage(browsers, failing)
    file.write_text(before)
    (failing.home / "fail").touch()
    page.keyboard.press("PageDown")
    expect_recorded(page, long)
    fit = "parseFloat(document.querySelector('#answer').style.getPropertyValue('--fit'))"
    fits = "(box => box.scrollHeight <= box.clientHeight + 1)(document.querySelector('#answer'))"
    assert page.evaluate(fits)
    usual = page.evaluate(fit)
    page.set_viewport_size({"width": 1900, "height": 800})  # where the font of the page is larger
    page.wait_for_function(f"() => {fit} < {usual}")
    page.set_viewport_size({"width": 1280, "height": 800})
    page.wait_for_function(f"() => {fits} && {fit} === {usual}")
    (failing.home / "fail").unlink()
    page.keyboard.press("r")
    expect(page.locator("#figures")).to_contain_text("tokens/s")
    assert page.evaluate(fit) == 1


def test_recorded_answers_are_shown_after_the_model_went_down(browsers: Browsers, doomed: Program):
    page = open_stage(browsers, doomed)
    answers = [recorded_of(page, step) for step in (0, 1)]
    notes = open_notes(page)
    (doomed.home / "down").touch()
    page.keyboard.press("PageDown")
    expect_recorded(page, answers[0])
    expect(page.locator("#state")).to_have_text("Not ready; 2 of 3 answers are recorded")
    expect(notes.locator("#details")).to_contain_text("Not ready: The model is down.")
    page.keyboard.press("PageDown")
    page.evaluate(WATCH)
    page.keyboard.press("PageDown")
    expect_recorded(page, answers[1])
    assert all(LABEL.match(label) for _, label in page.evaluate("window.seen"))
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    words = "The model cannot be reached right now."
    expect_no_recording(page, notes, words, "the device is gone")


def test_the_page_plays_to_the_end_without_the_server(browsers: Browsers, doomed: Program):
    page = open_stage(browsers, doomed)
    answers = [recorded_of(page, step) for step in (0, 1)]
    page.evaluate(WATCH)
    notes = open_notes(page)
    doomed.kill()
    page.keyboard.press("PageDown")
    expect_recorded(page, answers[0])
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    expect_recorded(page, answers[1])
    page.wait_for_function("document.querySelector('#picture').complete")
    assert page.evaluate("document.querySelector('#picture').naturalWidth") > 0
    assert {LABEL.match(label) is not None for _, label in page.evaluate("window.seen")} == {True}
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    expect_no_recording(page, notes, "The connection to the model is lost.", "the server cannot be reached.")
    expect(page.locator("#state")).to_have_text("Not ready; 2 of 3 answers are recorded")


def test_the_recorded_answer_is_shown_when_the_network_drops_during_an_answer(browsers: Browsers, failing: Program):
    page = open_stage(browsers, failing)
    story = recorded_of(page, 0)
    (failing.home / "hang").touch()
    page.keyboard.press("PageDown")
    expect(page.locator("#answer")).not_to_be_empty()
    page.context.set_offline(True)
    expect_recorded(page, story)
    (failing.home / "hang").unlink()


def test_recorded_answers_are_shown_when_the_model_never_was_ready(browsers: Browsers, failing: Program, tmp_path: Path):
    """A server of the OpenAI protocol that nobody has started yet: loading, for as long as it takes."""
    shutil.copytree(failing.home / "data" / "recordings", tmp_path / "data" / "recordings")
    remote = ("--backend", "openai", "--remote-url", f"http://127.0.0.1:{free_port()}/v1")
    with running(tmp_path, "--scenarios-dir", str(failing.home / "scenarios"), *remote) as program:
        wait_until(lambda: program.get("/version"), "somebody listens")
        page = open_stage(browsers, program)
        expect(page.locator("#state")).to_have_text("Not ready; 2 of 3 answers are recorded")
        expect(page.locator("#reason")).to_have_text("The server that runs the model cannot be reached.")
        expect(page.locator("#rehearsed")).to_contain_text("which model answers now is not known yet")
        story = recorded_of(page, 0)
        page.evaluate(WATCH)
        page.keyboard.press("PageDown")
        expect_recorded(page, story)
        assert all(LABEL.match(label) for _, label in page.evaluate("window.seen"))
        expect(page.locator("#reason")).to_be_hidden()
        assert "127.0.0.1" not in page.locator("body").inner_text(), "the audience sees no address"


RICH = """Three fish:

| fish | kg |
|---|---|
| cod | 4 |
| *ling* | 11 |

1. Weigh it: $m = \\rho V$.
2. Write it down:

```python
kg = {"cod": 4}
```"""
JSON_ANSWER = '{"total": 47.5, "items": [{"name": "coffee", "price": 3.5}]}'


def test_a_key_plays_the_recorded_answer_with_its_table_code_formula_and_json(browsers: Browsers, failing: Program):
    file = failing.home / "data" / "recordings" / "on-stage.json"
    recording = json.loads(before := file.read_text())
    recording["steps"]["0"]["answer"], recording["steps"]["1"]["answer"] = RICH, JSON_ANSWER
    file.write_text(json.dumps(recording))
    page = browsers.open(failing)
    page.goto("/present/on-stage")
    expect(page.locator("body")).to_have_attribute("data-held", "all")
    file.write_text(before)
    page.evaluate(WATCH)
    page.keyboard.press("p")
    expect(page.locator("body")).to_have_attribute("data-phase", "done")
    expect(page.locator("#recorded")).to_have_text(LABEL)
    answer = page.locator("#answer")
    expect(answer.locator("tr")).to_have_count(3)
    expect(answer.locator("td em")).to_have_text("ling")
    expect(answer.locator("li math")).to_be_visible()
    expect(answer.locator("figure.code code")).to_have_text('kg = {"cod": 4}')
    assert failing.health()["running"] == 0, "nothing was asked"
    seen = [words for words, label in page.evaluate("window.seen")]
    assert len(seen) > 10
    assert all(LABEL.match(label) for _, label in page.evaluate("window.seen"))
    assert not obstacles(page)
    take_screenshots(page, "stage-recorded")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("p")
    expect(page.locator("body")).to_have_attribute("data-phase", "done")
    code = answer.locator("figure.code code").inner_text()
    assert json.loads(code) == json.loads(JSON_ANSWER)
    assert code.count("\n") == 8
    take_screenshots(page, "stage-json")
    page.keyboard.press("ArrowRight")
    notes = open_notes(page)
    page.keyboard.press("p")
    expect(notes.locator("#details")).to_have_text("This step has no recorded answer.")
    expect(page.locator("body")).to_have_attribute("data-phase", "new")


def test_a_model_that_hangs_is_noticed_and_the_presenter_reads_for_how_long(browsers: Browsers, failing: Program):
    page = open_stage(browsers, failing)
    page.goto("/present/on-stage#3")
    page.reload()
    expect(page.locator("#place")).to_have_text("3 / 3")
    notes = open_notes(page)
    (failing.home / "hang").touch()
    page.keyboard.press("PageDown")
    expect(page.locator("#waiting")).to_have_text("The model gives no sign")
    expect(notes.locator("#details")).to_contain_text(re.compile(r"No sign from the model for [5-9] s"))
    (failing.home / "hang").unlink()
    expect(page.locator("#figures")).to_contain_text("tokens/s")
    expect(page.locator("#waiting")).to_be_hidden()
    expect(notes.locator("#details")).to_be_hidden()
