"""The backend in front of Ollama, LM Studio and llama-server, as each of them documents its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from mllama_demo.config.loader import load_settings
from mllama_demo.engine.base import TokenEvent
from mllama_demo.engine.remote.backend import OpenAIBackend
from mllama_demo.engine.remote.providers import LOGPROBS_ARE_MISSING, OLLAMA_TOP_K
from mllama_demo.errors import BackendUnavailable, BadRequest, PromptTooLong, cause_of
from mllama_demo.images.loading import LoadedImage, load_image
from tests.support.events import events_of
from tests.support.image_files import RED, encode
from tests.support.local_servers import LlamaServer, LMStudioServer, OllamaServer
from tests.support.paths import ROOT
from tests.support.protocol_server import Exchange, ProtocolServer
from tests.support.remote_backends import answer, request
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

Front = Callable[..., OpenAIBackend]


@pytest.fixture
def front() -> Iterator[Front]:
    """Makes started backends with a shipped configuration in front of a server. Stops the servers too."""
    backends: list[OpenAIBackend] = []
    servers: list[ProtocolServer] = []

    def make(config: str, server: ProtocolServer, *flags: str, wait: bool = True) -> OpenAIBackend:
        path = ["--config", str(ROOT / "configs" / config)] if config else ["--backend", "openai"]
        settings = load_settings([*path, "--remote-url", server.url, *flags], {})
        backend = OpenAIBackend(settings, probe_interval_s=0.1)
        backend.start()
        backends.append(backend)
        servers.append(server)
        if wait:
            wait_until(lambda: backend.status().state == "ready", lambda: f"ready; {backend.status()}")
        return backend

    yield make
    for backend in backends:
        backend.close()
    for server in servers:
        server.stop()


def without_logprobs(exchange: Exchange) -> None:
    exchange.say("Hi")
    exchange.end()


def picture() -> LoadedImage:
    return load_image(encode(Image.new("RGB", (30, 20), RED)), "red.png")


# --- the configurations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "port", "kind"),
    [("ollama.yaml", 11434, "ollama"), ("lm-studio.yaml", 1234, "lm_studio"), ("llama-server.yaml", 8080, "llama_server")],
)
def test_each_configuration_points_at_the_documented_port_and_waits_for_a_model_to_load(config, port, kind):
    settings = load_settings(["--config", str(ROOT / "configs" / config)], {})
    assert (settings.backend, settings.remote_url) == ("openai", f"http://127.0.0.1:{port}/v1")
    assert settings.remote_kind == kind
    assert settings.remote_silence_timeout_s >= 300
    assert settings.request_time_limit_s >= settings.remote_silence_timeout_s


# --- Ollama --------------------------------------------------------------------------------------------------------------


async def test_ollamas_tagged_name_is_found_and_an_image_is_answered(front):
    server = OllamaServer("llama3.2-vision:latest")
    backend = front("ollama.yaml", server)
    text, last = await answer(backend, request("What colour?", picture(), sampling={"top_k": 5, "seed": 7}))
    body = server.asked[0].body
    assert (text, last.reason) == ("Hi", "end_of_turn")
    assert body["model"] == "llama3.2-vision:latest"
    assert body["seed"] == 7
    assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert "top_k" not in body
    assert (backend.info.context_length, backend.info.slots) == (4096, 1)
    assert backend.info.ignored["top_k"] == OLLAMA_TOP_K


@pytest.mark.parametrize("pulled", [(), ("llama3.2:latest",)])
async def test_a_model_that_is_not_pulled_is_named_with_the_command_that_pulls_it(front, pulled):
    backend = front("ollama.yaml", OllamaServer(*pulled), wait=False)
    wait_until(lambda: "ollama pull llama3.2-vision" in backend.status().detail, lambda: backend.status().detail)
    with pytest.raises(BackendUnavailable, match=r"ollama pull llama3\.2-vision"):
        await answer(backend)


@pytest.mark.parametrize("name", ["llama3.2-vision", "Llama3.2-Vision", "llama3.2-vision:latest"])
async def test_a_name_that_ollama_resolves_is_taken(front, name):
    server = OllamaServer("llama3.2-vision:latest")
    backend = front("ollama.yaml", server, "--remote-model", name)
    assert (await answer(backend))[0] == "Hi"


async def test_the_context_of_ollamas_model_file_counts_while_no_model_is_loaded(front):
    parameters = 'stop                           "<|eot_id|>"\nnum_ctx                        16384\ntemperature  0.6'
    server = OllamaServer("llama3.2-vision:latest", context_length=None, parameters=parameters)
    assert front("", server).info.told_context == 16384
    server = OllamaServer("llama3.2-vision:latest", context_length=None)
    assert front("", server).info.told_context is None


async def test_a_model_that_is_deleted_while_the_page_is_up_is_a_sentence_not_a_stack_trace(front):
    server = OllamaServer("llama3.2-vision:latest")
    backend = front("ollama.yaml", server)
    server.models = []
    with pytest.raises(BackendUnavailable, match=r"llama3\.2-vision:latest' not found|ollama pull"):
        await answer(backend)


async def test_an_image_is_not_sent_to_a_model_without_vision(front):
    server = OllamaServer("llama3.2:latest", vision=False)
    backend = front("ollama.yaml", server, "--remote-model", "llama3.2")
    assert "images" not in backend.info.capabilities
    with pytest.raises(BadRequest, match=r"llama3\.2:latest cannot see images"):
        await answer(backend, request("What colour?", picture()))
    assert server.asked == []
    assert (await answer(backend))[0] == "Hi"


async def test_the_context_is_ollamas_own_once_the_model_is_loaded(front):
    server = OllamaServer("llama3.2-vision:latest", context_length=None)
    backend = front("ollama.yaml", server, "--seq-len", "3000")
    assert backend.info.context_length == 3000
    server.routes["/api/ps"] = (200, {"models": [{"model": "llama3.2-vision:latest", "context_length": 16384}]})
    wait_until(lambda: backend.info.context_length == 16384, lambda: str(backend.info))


async def test_ollamas_probabilities_are_shown_and_an_old_ollama_that_sends_none_says_so(front):
    server = OllamaServer("llama3.2-vision:latest")
    backend = front("ollama.yaml", server)
    *_, token, _ = await events_of(backend, request(trace=True))
    assert isinstance(token, TokenEvent)
    assert [(p.text, p.logprob) for p in token.logprobs] == [("Hi", -0.25)]
    server.chat = without_logprobs
    await answer(backend, request(trace=True))
    assert "logprobs" not in backend.info.capabilities
    assert backend.info.ignored["logprobs"] == LOGPROBS_ARE_MISSING


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_a_model_that_thinks_gives_signs_of_life_and_its_thoughts_are_no_part_of_the_answer(front, field):
    def think(exchange: Exchange) -> None:
        exchange.begin()
        exchange.chunk({"content": "", field: "Let me see."})
        exchange.chunk({"content": "", field: "A dog."})
        exchange.say("A dog.")
        exchange.end()

    server = OllamaServer("llama3.2-vision:latest")
    server.chat = think
    _, *tokens, _ = await events_of(front("ollama.yaml", server), request())
    assert [event.text for event in tokens if isinstance(event, TokenEvent)] == ["", "", "A dog."]


# --- LM Studio -----------------------------------------------------------------------------------------------------------


async def test_lm_studios_vision_model_is_preferred_to_the_first_in_the_list(front):
    server = LMStudioServer(
        embedder=("embeddings", "not-loaded"),
        writer=("llm", "loaded"),
        seer=("vlm", "not-loaded"),
        loaded_seer=("vlm", "loaded"),
    )
    backend = front("lm-studio.yaml", server)
    await answer(backend, request("What colour?", picture(), sampling={"top_k": 5}))
    body = server.asked[0].body
    assert (body["model"], body["top_k"], body["repeat_penalty"]) == ("loaded_seer", 5, 1.0)
    assert (backend.info.context_length, "logprobs" in backend.info.capabilities) == (8192, False)


async def test_lm_studios_refusal_of_an_image_says_that_the_model_cannot_see(front):
    server = LMStudioServer(writer=("llm", "loaded"))
    server.routes = {}  # an LM Studio before 0.3.6 does not tell the type
    backend = front("lm-studio.yaml", server)
    with pytest.raises(BadRequest, match=r"cannot see images.*Please use a model that does"):
        await answer(backend, request("What colour?", picture()))


async def test_lm_studio_without_a_model_says_what_to_do(front):
    backend = front("lm-studio.yaml", LMStudioServer(), wait=False)
    wait_until(lambda: "download it in LM Studio" in backend.status().detail, lambda: backend.status().detail)


# --- llama-server --------------------------------------------------------------------------------------------------------


async def test_llama_server_gets_no_filter_that_the_page_does_not_show(front):
    server = LlamaServer(slots=3)
    backend = front("llama-server.yaml", server)
    await answer(backend, request("What colour?", picture(), sampling={"top_k": 0, "temperature": 0.7}))
    body = server.asked[0].body
    assert (body["top_k"], body["min_p"], body["repeat_penalty"]) == (0, 0.0, 1.0)
    assert (backend.info.context_length, backend.info.slots, dict(backend.info.ignored)) == (4096, 3, {})


async def test_a_llama_server_that_loads_its_model_is_waited_for(front):
    server = LlamaServer(loading=True)
    backend = front("llama-server.yaml", server, wait=False)
    wait_until(lambda: "Loading model" in cause_of(backend.status().detail), lambda: backend.status().detail)
    assert backend.status().state == "loading"
    server.set_loading(False)
    wait_until(lambda: backend.status().state == "ready", lambda: backend.status().detail)
    assert (await answer(backend))[0] == "Hi"


async def test_a_llama_server_without_a_projector_cannot_see(front):
    server = LlamaServer(vision=False)
    backend = front("llama-server.yaml", server)
    with pytest.raises(BadRequest, match="cannot see images"):
        await answer(backend, request("What colour?", picture()))
    server.routes = {}  # builds before /props had the modalities
    wait_until(lambda: "images" in backend.info.capabilities, lambda: str(backend.info))
    with pytest.raises(BadRequest, match=r"cannot see images.*mmproj"):
        await answer(backend, request("What colour?", picture()))


# --- all of them ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "label"),
    [
        (lambda: OllamaServer("llava:latest"), "Ollama"),
        (lambda: LMStudioServer(seer=("vlm", "loaded")), "LM Studio"),
        (LlamaServer, "llama-server"),
    ],
)
def test_auto_recognises_each_program(front, server, label):
    backend = front("", server())
    assert backend.info.device.startswith(label)


TOO_LONG = "Trying to keep the first 900 tokens when context the overflows. However, the model is loaded with context length of only 512 tokens, which is not enough."  # noqa: E501


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"error": {"code": 400, "message": "request (900 tokens) exceeds the available context size (512 tokens), try …"}}),
        (
            500,
            {
                "error": {
                    "code": 500,
                    "message": "the request exceeds the available context size.",
                    "n_prompt_tokens": 900,
                    "n_ctx": 512,
                }
            },
        ),
        (400, {"error": TOO_LONG}),
        (400, {"error": "… greater than the context length (n_keep: 900>= n_ctx: 512). Try to load the model with a larger …"}),
        (400, {"error": {"message": "the input length exceeds the context length", "type": "invalid_request_error"}}),
    ],
)
async def test_each_programs_refusal_of_a_long_prompt_is_called_so(server, connect, status, error):
    server.chat = lambda exchange: exchange.refuse(status, error)
    backend = connect()
    asked = request("word " * 100)
    with pytest.raises(PromptTooLong, match="too long"):
        await answer(backend, asked)
    if "input length" not in str(error):
        assert backend.estimate.count(asked.messages) >= 900, "the server's count is remembered"


async def test_lm_studios_failure_inside_the_stream_is_recognised(server, connect):
    server.chat = lambda exchange: (exchange.begin(), exchange.event({"error": {"message": TOO_LONG}}))
    _, last = await answer(connect())
    assert "too long" in (last.error or "")
