"""Servers with real sockets that answer as Ollama, LM Studio and llama-server document it, and refuse as their source does."""

from __future__ import annotations

from typing import Any

from tests.support.protocol_server import Exchange, ProtocolServer


class OllamaServer(ProtocolServer):
    """Ollama 0.12 to 0.32 (docs/api/openai-compatibility.mdx, openai/openai.go, server/routes.go).

    vision: whether the pulled model reads images. context_length: of the loaded model, in /api/ps; None: no model is loaded yet.
    parameters: of the model's file, as /api/show prints them. Names are resolved as Ollama does: without a tag, and in any case.
    """

    def __init__(
        self, *pulled: str, vision: bool = True, context_length: int | None = 4096, parameters: str | None = None
    ) -> None:
        super().__init__()
        self.models = [{"id": name, "object": "model", "created": 1, "owned_by": "library"} for name in pulled]
        self.health = self.unknown_route = (404, b"404 page not found")
        self.chat = self._chat
        self._shown: dict[str, Any] = {"details": {"family": "mllama"}}
        self._shown["capabilities"] = ["completion", "vision"] if vision else ["completion", "tools"]
        if parameters is not None:
            self._shown["parameters"] = parameters
        running = [{"name": name, "model": name, "context_length": context_length} for name in pulled if context_length]
        self.routes = {
            "/api/version": (200, {"version": "0.32.1"}),
            "/api/show": self._show,
            "/api/ps": (200, {"models": running}),
        }

    def _has(self, name: str) -> bool:
        return {name.lower(), f"{name.lower()}:latest"} & {model["id"].lower() for model in self.models} != set()

    def _show(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["model"]
        return (200, self._shown) if self._has(name) else (404, {"error": f"model '{name}' not found"})

    def _chat(self, exchange: Exchange) -> None:
        name = exchange.body["model"]
        if not self._has(name):
            message = f"model '{name}' not found"
            error = {"message": message, "type": "not_found_error", "param": None, "code": None}
            exchange.refuse(404, {"error": error})
            return
        if exchange.body.get("logprobs"):
            exchange.begin()
            entry = {"token": "Hi", "logprob": -0.25, "bytes": [72, 105]}
            exchange.chunk({"content": "Hi"}, logprobs={"content": [{**entry, "top_logprobs": [entry]}]})
        else:
            exchange.say("Hi")
        exchange.end()


class LMStudioServer(ProtocolServer):
    """LM Studio 0.3.6 and later (its pages "Chat Completions" and "REST API v0"). Unknown routes are answered with status 200.

    models: names, each with the type "vlm", "llm" or "embeddings" and the state "loaded" or "not-loaded".
    """

    def __init__(self, **models: tuple[str, str]) -> None:
        super().__init__()
        self.models = [{"id": name, "object": "model", "owned_by": "organization_owner"} for name in models]
        self.health = self.unknown_route = (200, {"error": "Unexpected endpoint or method. (GET /health)"})
        self.types = {name: kind for name, (kind, _) in models.items()}
        self.chat = self._chat
        listed: list[dict[str, Any]] = []
        for name, (kind, state) in models.items():
            loaded = {"loaded_context_length": 8192} if state == "loaded" else {}
            listed.append({"id": name, "object": "model", "type": kind, "state": state, "max_context_length": 131072, **loaded})
        self.routes = {"/api/v0/models": (200, {"object": "list", "data": listed})}

    def _chat(self, exchange: Exchange) -> None:
        pictures = any(isinstance(message["content"], list) for message in exchange.body["messages"])
        if pictures and self.types[exchange.body["model"]] != "vlm":
            exchange.refuse(400, {"error": "Model does not support images. Please use a model that does."})
            return
        exchange.say("Hi")
        exchange.end()


class LlamaServer(ProtocolServer):
    """llama-server (tools/server/README.md). loading: the model is being loaded, and every route but /models says so."""

    def __init__(self, vision: bool = True, slots: int = 2, loading: bool = False) -> None:
        super().__init__()
        name = "ggml-org/gemma-3-4b-it-GGUF"
        self.models = [{"id": name, "object": "model", "created": 1, "owned_by": "llamacpp", "meta": {"n_ctx_train": 131072}}]
        self.unknown_route = (404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}})
        self.vision = vision
        self.chat = self._chat
        properties = {
            "default_generation_settings": {"n_ctx": 4096, "params": {"top_k": 40, "min_p": 0.05}},
            "total_slots": slots,
            "modalities": {"vision": vision, "audio": False},
        }
        self.routes = {"/props": (200, properties)}
        self.set_loading(loading)

    def set_loading(self, loading: bool) -> None:
        error = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
        self.health = (503, error) if loading else (200, {"status": "ok"})

    def _chat(self, exchange: Exchange) -> None:
        if not self.vision and any(isinstance(message["content"], list) for message in exchange.body["messages"]):
            message = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
            exchange.refuse(500, {"error": {"code": 500, "message": message, "type": "server_error"}})
            return
        exchange.say("Hi")
        exchange.end()
