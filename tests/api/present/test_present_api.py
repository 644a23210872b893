"""Present mode over HTTP: pages, streamed steps, recordings, rehearsals and permissions."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import preloaded
from tests.support.accounts import PASSWORD, sign_in, users
from tests.support.openai_clients import PICTURES, wait_idle
from tests.support.paths import ROOT
from tests.support.program import Program, clean_environment, free_port, running, visitor
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
SLOW_DEMO = ROOT / "tests" / "support" / "demos" / "slow_demo.py"
RUN, OTHER_RUN = "r" * 32, "s" * 32
TWO_STEPS = """title: Two steps
image: dog.png
steps:
  - prompt: What is in this image?
    parameters: {temperature: 0}
    notes: Say nothing yet.
    expect: {contains_any: [dog]}
  - prompt: What color is it?
    continues: true
    parameters: {temperature: 0}
    expect: {contains_any: [unicorn]}
"""
STORY = """  - prompt: Tell me a story about it
    parameters: {temperature: 0, max_tokens: 150}
"""
LIMITED = STORY + "    time_limit_s: 1\n"
LONG = "title: Long answers\nimage: dog.png\nsteps:\n" + STORY + LIMITED + 10 * STORY


def write_scenarios(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(PICTURES / "dog.png", folder)
    (folder / "two-steps.yaml").write_text(TWO_STEPS)
    (folder / "long.yaml").write_text(LONG)
    (folder / "broken.yaml").write_text("title: Broken\nsteps:\n  - prompt: x\n    tempo: 3\n")
    return folder


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A model that takes a tenth of a second for a token; it may never log a traceback."""
    home = tmp_path_factory.mktemp("slow")
    folder = write_scenarios(home / "scenarios")
    with running(home, "--scenarios-dir", str(folder), script=SLOW_DEMO) as program:
        program.wait_ready()
        yield program


@pytest.fixture
def no_recordings(slow: Program) -> None:
    shutil.rmtree(slow.home / "data" / "recordings", ignore_errors=True)


def get(program: Program, path: str) -> requests.Response:
    answer = program.get(f"/present{path}")
    assert answer is not None
    return answer


def post(program: Program, path: str, **options: Any) -> requests.Response:
    with visitor() as session:
        return session.post(f"{program.url}/present/{path}", timeout=120, **options)


def events(answer: requests.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.iter_lines()]


def told(program: Program, name: str = "two-steps") -> dict[str, Any]:
    return get(program, f"/{name}/scenario.json").json()


def ask(program: Program, run: str, number: int, name: str = "two-steps", **options: Any) -> requests.Response:
    """Asks a step as it is now. number: from 1."""
    fingerprint = told(program, name)["steps"][number - 1]["fingerprint"]
    return post(program, f"{name}/steps/{number}/{run}?fingerprint={fingerprint}", **options)


def running_requests(program: Program) -> int:
    return program.health()["running"]


# --- list and stage --------------------------------------------------------------------------------------------------------


def test_the_list_shows_valid_scenarios_and_the_mistakes_of_others(slow: Program, no_recordings: None):
    answer = get(slow, "")
    assert answer.status_code == 200
    assert 'href="./present/two-steps"' in answer.text
    assert "2 steps" in answer.text
    assert "Not rehearsed" in answer.text
    assert "broken.yaml, line 4: step 1 tempo is no key of a scenario" in answer.text
    assert 'href="./present/broken"' not in answer.text


def test_a_presentation_has_steps_images_static_files_and_its_own_run(slow: Program):
    first, second = get(slow, "/two-steps"), get(slow, "/two-steps")
    assert first.status_code == 200
    assert first.text != second.text, "each opening is a run of its own"
    steps = told(slow)["steps"]
    assert [step["continues"] for step in steps] == [False, True]
    assert steps[0]["notes"] == "Say nothing yet."
    assert [step["limit_s"] for step in told(slow, "long")["steps"][:2]] == [60, 1]
    picture = get(slow, f"/{steps[0]['image']}")
    assert picture.content == (PICTURES / "dog.png").read_bytes()
    assert picture.headers["content-type"] == "image/png"
    assert get(slow, "/two-steps/notes").status_code == 200
    for asset in ("stage.js", "notes.js", "rehearsal.js", "events.js", "present.css"):
        assert get(slow, f"/static/{asset}").status_code == 200


def test_every_route_reports_the_mistake_in_a_scenario(slow: Program):
    for path in ("/broken", "/broken/notes", "/broken/rehearsal"):
        answer = get(slow, path)
        assert answer.status_code == 400
        assert "broken.yaml, line 4: step 1 tempo" in answer.text
        assert str(slow.home) not in answer.text
        assert "Traceback" not in answer.text
    answers = [get(slow, "/broken/scenario.json"), get(slow, f"/broken/images/{'0' * 64}")]
    answers += [post(slow, f"broken/steps/1/{RUN}"), post(slow, "broken/rehearsal")]
    for answer in answers:
        assert answer.status_code == 400
        assert "line 4: step 1 tempo" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["nothing", "..", "%2e%2e%2fconfig", "TWO-STEPS", "a" * 300])
def test_an_unknown_scenario_is_404_with_the_known_names(slow: Program, name: str):
    page = get(slow, f"/{name}/notes")
    assert page.status_code == 404
    for answer in (get(slow, f"/{name}/scenario.json"), post(slow, f"{name}/steps/1/{RUN}"), post(slow, f"{name}/rehearsal")):
        assert answer.status_code == 404
    if "." not in name and "%" not in name:
        assert "there are: broken, long, two-steps" in page.text


def test_an_unknown_step_image_or_run_is_refused(slow: Program):
    for number in (0, 3, 99):
        answer = post(slow, f"two-steps/steps/{number}/{RUN}")
        assert (answer.status_code, "steps 1 to 2" in answer.text) == (404, True)
    assert post(slow, f"two-steps/steps/one/{RUN}").status_code == 400
    assert "reload the page" in post(slow, "two-steps/steps/1/short").json()["error"]["message"]
    assert post(slow, "two-steps/steps/1/short").status_code == 400
    assert get(slow, f"/two-steps/images/{'0' * 64}").status_code == 404
    assert get(slow, "/static/page.html.jinja").status_code == 404


@pytest.mark.parametrize("path", [f"two-steps/steps/1/{RUN}", f"two-steps/steps/1/{RUN}/question", "two-steps/rehearsal"])
@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}])
def test_cross_site_requests_to_steps_and_rehearsals_are_refused(slow: Program, path: str, headers: dict[str, str]):
    answer = post(slow, path, headers=headers)
    assert answer.status_code == 403
    assert "was sent by a page of another site" in answer.json()["error"]["message"]


# --- steps -----------------------------------------------------------------------------------------------------------------


def test_the_answer_to_a_step_is_streamed(slow: Program):
    found = events(ask(slow, RUN, 1, stream=True))
    assert found[0]["phase"] in ("waiting", "reading")
    assert "dog" in "".join(event["text"] for event in found)
    assert sum(bool(event["text"]) for event in found) > 2, "not all at once"
    assert [event for event in found if "done" in event] == found[-1:]
    assert found[-1]["done"]["tokens"] > 2


def test_a_step_continues_the_answers_of_its_own_run(slow: Program, no_recordings: None):
    run = "t" * 32
    refused = ask(slow, run, 2)
    assert refused.status_code == 400
    assert "goes on from step 1, which was not asked yet" in refused.json()["error"]["message"]
    events(ask(slow, run, 1))
    assert "done" in events(ask(slow, run, 2))[-1]
    assert ask(slow, OTHER_RUN, 2).status_code == 400


def test_closing_the_connection_frees_the_slot(slow: Program):
    wait_idle(slow)
    with closing(ask(slow, RUN, 1, "long", stream=True)) as answer:
        lines = answer.iter_lines()
        assert any(json.loads(line)["text"] for line in lines), "it streams before it is done"
        assert running_requests(slow) == 1
    wait_idle(slow)


def test_an_answer_over_the_steps_time_limit_ends_with_an_error(slow: Program):
    last = events(ask(slow, RUN, 2, "long"))[-1]
    assert last == {"error": "The answer took longer than the step's time limit.", "status": 504}


def test_a_step_that_was_replaced_in_the_file_is_refused(slow: Program):
    """A page that was opened before has the old question, under which no other answer may stand."""
    file = slow.home / "scenarios" / "changing.yaml"
    file.write_text(TWO_STEPS)
    first, second = (step["fingerprint"] for step in told(slow, "changing")["steps"])
    file.write_text(TWO_STEPS.replace("  - prompt: What color", "  - prompt: Is it alive?\n  - prompt: What color"))
    refused = [post(slow, f"changing/steps/2/{RUN}?fingerprint={second}"), post(slow, f"changing/steps/2/{RUN}")]
    assert "done" in events(post(slow, f"changing/steps/1/{RUN}?fingerprint={first}"))[-1]
    file.write_text(TWO_STEPS.partition("  - prompt: What color")[0])
    refused.append(post(slow, f"changing/steps/2/{RUN}?fingerprint={second}"))
    file.unlink()
    for answer in refused:
        assert answer.status_code == 409
        assert answer.json()["error"]["message"] == "The scenario was changed; reload the page."


# --- questions from the audience ---------------------------------------------------------------------------------------------


def ask_from_audience(program: Program, run: str, question: str, **body: Any) -> requests.Response:
    fingerprint = told(program)["steps"][0]["fingerprint"]
    return post(program, f"two-steps/steps/1/{run}/question?fingerprint={fingerprint}", json={"question": question, **body})


def test_a_question_from_the_audience_is_answered_about_the_image_of_the_step(slow: Program):
    found = events(ask_from_audience(slow, "v" * 32, "What is in this image?"))
    assert "dog" in "".join(event["text"] for event in found)
    assert "dog" in found[-1]["html"]


def test_a_question_from_the_audience_that_cannot_be_asked_is_refused_with_a_sentence(slow: Program, no_recordings: None):
    run = "w" * 32
    empty, long = ask_from_audience(slow, run, "  "), ask_from_audience(slow, run, "x" * 4001)
    early = ask_from_audience(slow, run, "And then?", continues=True)
    changed = post(slow, f"two-steps/steps/1/{run}/question?fingerprint=other", json={"question": "Why?"})
    for answer, status, words in (
        (empty, 400, "The question is empty."),
        (long, 400, "question"),
        (early, 400, "Step 1 was not asked yet"),
        (changed, 409, "reload the page"),
    ):
        assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text


# --- rehearsals ------------------------------------------------------------------------------------------------------------


def test_a_rehearsal_streams_each_result_and_saves_the_recording(slow: Program, no_recordings: None):
    found = events(post(slow, "two-steps/rehearsal"))
    assert found[0] == {"steps": [step["fingerprint"] for step in told(slow)["steps"]]}
    first, second, last = found[1:]
    assert (first["step"], first["problems"]) == (1, [])
    assert "dog" in first["answer"]
    assert first["total_s"] >= first["ttft_s"] > 0
    assert second["problems"] == ["none of unicorn is in it"]
    assert last["kept"]
    assert "1 of 2 answers were not as expected" in last["sentence"]
    recorded = [step["recorded"] for step in told(slow)["steps"]]
    assert [one["text"] for one in recorded] == [first["answer"], second["answer"]]
    assert all(one["date"] and one["model"] == "embedded" for one in recorded)
    assert "1 of 2 answers were not as expected" in get(slow, "").text
    assert "done" in events(ask(slow, "u" * 32, 2))[-1], "it goes on from the recorded answer"


def test_the_page_and_the_command_record_the_same(slow: Program, no_recordings: None, tmp_path: Path):
    events(post(slow, "two-steps/rehearsal"))
    file = tmp_path / "command.json"
    options = ["rehearse", "--scenario", str(slow.home / "scenarios" / "two-steps.yaml"), "--output", str(file)]
    options += ["--data-dir", str(tmp_path), "--device", "cpu"]
    out, err = tmp_path / "stdout", tmp_path / "stderr"
    command = preloaded.start("mllama_demo", options, tmp_path, clean_environment(tmp_path), out, err)
    assert command.wait(120) == 1, err.read_text()  # the second answer is not as expected
    ours = json.loads((slow.home / "data" / "recordings" / "two-steps.json").read_text())
    theirs = json.loads(file.read_text())
    same = ("scenario", "model", "backend", "device", "version")
    assert [ours[key] for key in same] == [theirs[key] for key in same]
    same = ("fingerprint", "prompt", "answer", "reason", "prompt_tokens", "completion_tokens", "problems")
    for number, step in ours["steps"].items():
        assert [step[key] for key in same] == [theirs["steps"][number][key] for key in same]


def test_a_second_rehearsal_is_refused_and_a_stopped_one_saves_nothing(slow: Program, no_recordings: None):
    with visitor() as session, closing(session.post(f"{slow.url}/present/long/rehearsal", stream=True)) as answer:
        lines = answer.iter_lines()
        assert len(json.loads(next(lines))["steps"]) == 12
        wait_until(lambda: running_requests(slow) == 1, "the first step is asked")
        refused = post(slow, "long/rehearsal")
        assert refused.status_code == 409
        assert "being rehearsed already" in refused.json()["error"]["message"]
    wait_idle(slow)
    assert not (slow.home / "data" / "recordings").exists()

    def begun() -> bool:
        with visitor() as session, closing(session.post(f"{slow.url}/present/long/rehearsal", stream=True)) as answer:
            return answer.status_code == 200

    wait_until(begun, "stopped, it can begin anew")
    wait_idle(slow)


def test_an_unreadable_recording_is_reported_and_not_played(slow: Program, no_recordings: None):
    (slow.home / "data" / "recordings").mkdir()
    (slow.home / "data" / "recordings" / "two-steps.json").write_text("{}")
    assert "two-steps.json cannot be read: it is no recording of this program" in get(slow, "").text
    assert [step["recorded"] for step in told(slow)["steps"]] == [None, None]


# --- who may, whose it is, and without a model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_with_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """With users, a brand, and a server with the model that nobody has started yet."""
    home = tmp_path_factory.mktemp("demo_with_users")
    folder = write_scenarios(home / "scenarios")
    options = ("--users", users("anna", "ben"), "--admins", "anna", "--title", "Fish & Chips", "--scenarios-dir", str(folder))
    brand = ("--brand-logo", str(PICTURES / "stop.png"), "--brand-color", "#0f766e", "--brand-footer", "Ask <us> at stand 7")
    remote = ("--backend", "openai", "--remote-url", f"http://127.0.0.1:{free_port()}/v1")
    with running(home, *options, *brand, *remote) as program:
        wait_until(lambda: (answer := program.get("/present")) is not None and answer.status_code == 401, "the page is there")
        yield program


def test_every_route_needs_a_sign_in(demo_with_users: Program):
    for path in ("", "/two-steps", "/two-steps/scenario.json", "/two-steps/rehearsal", "/assets/stage.js"):
        assert get(demo_with_users, path).status_code == 401
    assert post(demo_with_users, f"two-steps/steps/1/{RUN}").status_code == 401


def test_only_admins_may_rehearse_where_users_sign_in(demo_with_users: Program):
    with sign_in(demo_with_users, "ben", PASSWORD) as ben:
        assert "Rehearse" not in ben.get(f"{demo_with_users.url}/present").text
        page = ben.get(f"{demo_with_users.url}/present/two-steps/rehearsal")
        assert (page.status_code, "named in the option admins" in page.text) == (403, True)
        answer = ben.post(f"{demo_with_users.url}/present/two-steps/rehearsal")
        assert (answer.status_code, "named in the option admins" in answer.json()["error"]["message"]) == (403, True)
    with sign_in(demo_with_users, "anna", PASSWORD) as anna:
        assert 'href="./present/two-steps/rehearsal"' in anna.get(f"{demo_with_users.url}/present").text
        assert anna.get(f"{demo_with_users.url}/present/two-steps/rehearsal").status_code == 200
        answer = anna.post(f"{demo_with_users.url}/present/two-steps/rehearsal")
        assert (answer.status_code, "The model is not ready" in answer.json()["error"]["message"]) == (503, True)


def test_every_page_has_the_brand(demo_with_users: Program):
    with sign_in(demo_with_users, "anna", PASSWORD) as anna:
        for path in ("", "/two-steps", "/two-steps/notes", "/two-steps/rehearsal", "/broken", "/nothing"):
            text = anna.get(f"{demo_with_users.url}/present{path}").text
            assert "Fish &amp; Chips" in text
            assert "Ask &lt;us&gt; at stand 7" in text
            assert '<img src="data:image/png;base64,' in text or '<img class="logo" src="data:image/png;base64,' in text
            assert re.search(r"--accent: (light-dark\()?#0f766e", text)


def test_without_a_model_pages_load_and_steps_report_why_they_fail(demo_with_users: Program):
    with sign_in(demo_with_users, "ben", PASSWORD) as ben:
        assert ben.get(f"{demo_with_users.url}/present/two-steps").status_code == 200
        assert len(ben.get(f"{demo_with_users.url}/present/two-steps/scenario.json").json()["steps"]) == 2
        answer = ben.post(f"{demo_with_users.url}/present/two-steps/steps/1/{RUN}")
        assert answer.status_code == 503
        assert "cannot be reached" in answer.json()["error"]["message"]


def test_the_limits_of_a_visitor_hold_here_too(tmp_path: Path):
    folder = write_scenarios(tmp_path / "scenarios")
    with running(tmp_path, "--scenarios-dir", str(folder), "--limit-questions-per-minute", "1") as program:
        program.wait_ready()
        with visitor() as session:
            session.get(f"{program.url}/present/two-steps")  # sets the cookie; an address alone may ask ten times as much
            fingerprint = told(program)["steps"][0]["fingerprint"]
            step = f"{program.url}/present/two-steps/steps/1/{RUN}"
            assert "done" in events(session.post(f"{step}?fingerprint={fingerprint}", timeout=120))[-1]
            again = [
                session.post(f"{step}?fingerprint={fingerprint}", timeout=120),
                session.post(f"{step}/question?fingerprint={fingerprint}", json={"question": "Why?"}, timeout=120),
            ]
        assert [answer.status_code for answer in again] == [429, 429]
        assert all("You may ask 1 question a minute" in answer.json()["error"]["message"] for answer in again)
