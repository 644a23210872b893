"""Every option of the demo, once: its default, its bounds and its meaning. loader.py finds the values that are given for them.

Does not know what the options do, and imports no torch, transformers, gradio or SQLAlchemy.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from mllama_demo.config.neuron import InstanceType, NeuronOptions, OnDeviceSampling, default_buckets
from mllama_demo.config.option_types import (
    ArtifactsPlace,
    HomePath,
    Host,
    HostName,
    Key,
    Name,
    Origin,
    Proxy,
    RemoteURL,
    RootPath,
    Site,
    Users,
    parse_value,
)
from mllama_demo.images.loading import ImageLimits
from mllama_demo.runtime.logs import LogFormat
from mllama_demo.sampling import BOUNDS, SamplingParams

_PACKAGE = Path(__file__).resolve().parents[1]
DEFAULT_PORT = 7860
SCENARIOS = _PACKAGE / "present" / "scenarios"
EMBEDDED_CHECKPOINT = _PACKAGE / "embedded"
_DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"
_LENGTHS = "lengths in tokens, ascending (in YAML a list)"
_ADDRESS = "an address such as http://127.0.0.1:8000/v1, without user name and query"
_KEY = "printable ASCII without spaces"
_ON_DEVICE = (
    "none, or a mapping of global_topk (a whole number from 1), dynamic (true) and deterministic (true or false; a "
    "mapping is JSON outside of YAML)"
)


def _option(group: str, default: Any, meaning: str, allowed: str | None = None, **constraints: Any) -> Any:
    """A field of Settings.

    Args:
        group: the heading of the option in --help.
        default: its default.
        meaning: its help text.
        allowed: what it takes, in words; None where option_texts.allowed_values derives them from the type and the bounds.
        constraints: those of pydantic, such as ge and le.
    """
    return Field(default, description=meaning, json_schema_extra={"group": group, "allowed": allowed}, **constraints)


def _sampling_option(name: str) -> Any:
    bound = BOUNDS[name]
    default = int(bound.default) if bound.step >= 1 else bound.default
    return _option("Answers", default, f"{bound.label} to start with: {bound.help}.", ge=bound.minimum, le=bound.maximum)


class Settings(BaseModel):
    """The checked options of one deployment. load_settings makes them; a test may make them from keywords."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    host: str = _option("Server", "127.0.0.1", "Address to listen on; 0.0.0.0 for every interface.", min_length=1, max_length=255)
    port: int = _option("Server", DEFAULT_PORT, "Port to listen on.", ge=1, le=65535)
    root_path: RootPath = _option(
        "Server", "", "Path below which a proxy serves the demo, whether the proxy strips it or not.", "a path such as /demo"
    )
    trusted_proxies: list[Proxy] | None = _option(
        "Server",
        None,
        "Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; not set: those on this machine.",
        "IP addresses or networks such as 10.0.0.0/8, or * (in YAML a list)",
    )
    allowed_frame_ancestors: list[Site] | None = _option(
        "Server",
        None,
        "Other sites whose pages may show the demo in a frame.",
        "addresses such as https://intranet.example (in YAML a list)",
    )
    title: str = _option("Server", "Llama 3.2 Vision", "Title of the page.", min_length=1, max_length=120)
    data_dir: HomePath = _option("Server", Path("data"), "Folder where conversations are kept.")
    log_format: LogFormat = _option(
        "Server", "text", "Lines of the log, on standard error: text for people, or a JSON object a line for programs."
    )
    database_url: str | None = _option(
        "Server", None, "Database for conversations, instead of an SQLite file in data_dir.", "a SQLAlchemy URL", repr=False
    )
    allowed_hosts: list[HostName] | None = _option(
        "Server",
        None,
        "Names in the header Host that are answered, such as demo.example.com or *.example.com; not set: every name.",
        "host names without port (in YAML a list)",
        min_length=1,
    )
    idle_reminder_minutes: int = _option(
        "Server",
        0,
        "Minutes without a request after which the log is reminded that the machine still costs money; 0: never.",
        ge=0,
        le=10**5,
    )
    request_memory_mb: int = _option(
        "Server", 512, "MiB that the bodies of all requests may take together; more are refused with status 503.", ge=16, le=2**20
    )

    model_path: HomePath = _option(
        "Model",
        EMBEDDED_CHECKPOINT,
        "Folder of the checkpoint, in the Hugging Face layout, or the id of a repository that is in the cache of the hub.",
    )
    backend: Literal["torch", "neuron", "vllm", "openai", "ray"] = _option(
        "Model",
        "torch",
        "What runs the model: PyTorch on a CPU or GPU (torch), an AWS Neuron instance, vLLM on a Neuron instance, the server "
        "at remote_url (openai), or replicas on a Ray cluster (ray).",
    )
    device: str = _option("Model", "auto", "auto takes a GPU if there is one.", "auto, cpu, cuda or cuda:N", pattern=_DEVICE)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _option(
        "Model",
        "auto",
        "Number format of the weights. auto is bfloat16, but float32 on a CPU, unless the checkpoint is in bfloat16 and the CPU "
        "computes with it.",
    )
    quantization: Literal["none", "int8", "int4"] = _option(
        "Model",
        "none",
        "Bits of the text model's weights, which are rounded while they are loaded: int8 takes about half as much memory as "
        "bfloat16, int4 about a third. Backend torch only.",
    )
    threads: int = _option("Model", 0, "CPU threads for the model; 0 measures which number is the fastest.", ge=0, le=1024)
    batch_size: int = _option("Model", 4, "Slots: how many requests are answered at the same time.", ge=1, le=64)
    seq_len: int = _option("Model", 2048, "Context length in tokens, prompt and answer together.", ge=128, le=131072)
    vision_cache_size: int = _option("Model", 16, "Encoded images kept for follow-up questions.", ge=0, le=10000)
    prefix_cache_mb: int = _option(
        "Model",
        512,
        "MiB for what the model has read of earlier prompts, beside the slots; 0 reads every prompt from its beginning. For the "
        "backend torch.",
        ge=0,
        le=2**20,
    )
    prefix_cache_answers: bool = _option(
        "Model",
        False,
        "Do not read answers again with the next question. For large models on slow machines, because answers then differ by "
        "rounding.",
    )

    instance_type: InstanceType = _option("Neuron", "trn1.32xlarge", "The instance that the model is compiled for.")
    tensor_parallel_size: int = _option("Neuron", 32, "NeuronCores that share the model.", ge=1, le=128)
    context_encoding_buckets: list[int] | None = _option(
        "Neuron", None, "Prompt lengths to compile for; not set: 1024, 2048 and seq_len.", _LENGTHS
    )
    token_generation_buckets: list[int] | None = _option(
        "Neuron", None, "Lengths of prompt and answer to compile for; not set: 1024, 2048 and seq_len.", _LENGTHS
    )
    sequence_parallel_enabled: bool = _option("Neuron", False, "Divide long prompts among the cores; useful from 2000 tokens.")
    fused_qkv: bool = _option(
        "Neuron", False, "Compute queries, keys and values in one step; needs NxD Inference 0.4 (SDK 2.24) or later."
    )
    is_continuous_batching: bool = _option("Neuron", True, "Start a new request while others are being answered.")
    on_device_sampling_config: OnDeviceSampling | None = _option(
        "Neuron", OnDeviceSampling(), "Sample on the device: fast, without probabilities; none: on the host.", _ON_DEVICE
    )
    compiled_artifacts: ArtifactsPlace | None = _option(
        "Neuron",
        None,
        "Folder of compiled models; not set: neuron-compiled-artifacts in model_path. A folder in S3 is looked into before "
        "anything is compiled, and gets what is compiled here.",
        "a path or s3://BUCKET/FOLDER",
    )

    remote_url: RemoteURL = _option(
        "Remote server", "http://127.0.0.1:8000/v1", "Server of the OpenAI protocol that runs the model.", _ADDRESS
    )
    remote_api_key: str | None = _option(
        "Remote server", None, "Key of the remote server; best given by the environment.", _KEY, pattern=r"^[!-~]+$", repr=False
    )
    remote_model: str | None = _option(
        "Remote server", None, "Model of the remote server; not set: the first that it lists.", "a name"
    )
    remote_kind: Literal["auto", "vllm_neuron", "vllm", "mllama_demo", "ollama", "lm_studio", "llama_server", "other"] = _option(
        "Remote server",
        "auto",
        "Program of the remote server, since each ignores other sampling values; auto does not detect the Neuron fork of vLLM.",
    )
    remote_concurrency: int = _option(
        "Remote server", 0, "Requests sent to the remote server at the same time; 0 chooses by remote_kind.", ge=0, le=1024
    )
    remote_connect_timeout_s: float = _option("Remote server", 5.0, "Seconds to wait for a connection.", ge=0.1, le=600)
    remote_silence_timeout_s: float = _option(
        "Remote server", 60.0, "Seconds to wait for the first token, and from one token to the next.", ge=1, le=86400
    )

    ray_address: str | None = _option(
        "Ray cluster", None, "The cluster; not set: RAY_ADDRESS, or that of this machine.", "host:port of its head"
    )
    ray_application: str = _option(
        "Ray cluster", "mllama-demo", "Application of Ray Serve with the replicas.", min_length=1, max_length=64
    )
    ray_replicas: int = _option("Ray cluster", 1, "Replicas that ray-deploy starts, the fewest.", ge=1, le=10000)
    ray_max_replicas: int | None = _option(
        "Ray cluster", None, "The most, started while questions wait; not set: ray_replicas.", "a whole number", ge=1, le=10000
    )
    ray_replica_cpus: float = _option("Ray cluster", 1.0, "CPUs of a replica, as Ray counts them.", ge=0, le=1024)
    ray_replica_gpus: float = _option("Ray cluster", 0.0, "GPUs of a replica, as Ray counts them.", ge=0, le=64)
    ray_upscale_delay_s: float = _option("Ray cluster", 30.0, "Seconds of waiting that start a replica.", ge=0, le=86400)
    ray_downscale_delay_s: float = _option("Ray cluster", 600.0, "Seconds of idle slots that end one.", ge=0, le=86400)

    max_waiting: int = _option("Queue", 64, "How many requests may wait for a slot; more are refused.", ge=0, le=10000)
    request_time_limit_s: float = _option("Queue", 120.0, "Seconds from sending a request to its last token.", ge=1, le=86400)

    limit_questions_per_minute: int = _option(
        "Limits",
        0,
        "Questions that a visitor may ask within a minute, on the pages and over the API; 0 for no limit.",
        ge=0,
        le=10**6,
    )
    limit_tokens_per_day: int = _option(
        "Limits", 0, "Tokens of prompts and answers that a visitor may use in 24 hours; 0 for no limit.", ge=0, le=10**9
    )
    limit_image_mb_per_day: int = _option(
        "Limits", 0, "MiB of images that a visitor may send in 24 hours; 0 for no limit.", ge=0, le=10**6
    )
    limit_address_factor: int = _option(
        "Limits", 10, "How many times as much all visitors of one address together may use.", ge=1, le=10**6
    )
    limits_storage: str = _option(
        "Limits",
        "memory://",
        "Where use is counted: memory:// in this process, or a Redis that several processes share.",
        "memory:// or redis://HOST:PORT",
        pattern=r"^(memory://|rediss?://\S+)$",
        repr=False,
    )

    engine_process: bool = _option(
        "Recovery",
        True,
        "Run the model in a process of its own, which is started again when it fails; false for debugging. Without effect for "
        "backend openai.",
    )
    step_time_limit_s: float | None = _option(
        "Recovery",
        None,
        "Seconds after which a step of the model counts as failed, with engine_process; not set: request_time_limit_s.",
        "a number from 1 to 86400",
        ge=1,
        le=86400,
    )
    max_restarts: int = _option(
        "Recovery", 5, "How often in a row the process of the model is started again after a failure.", ge=0, le=1000
    )
    drain_time_limit_s: float = _option(
        "Recovery",
        20.0,
        "Seconds that running answers may go on after SIGTERM, while new requests are refused; then they end with an error.",
        ge=0,
        le=86400,
    )

    allowed_media_hosts: list[Host] | None = _option(
        "Images", None, "Hosts to fetch images from; not set: any public host; empty: no host.", "host names (in YAML a list)"
    )
    max_image_bytes: int = _option("Images", ImageLimits.max_bytes, "Largest image file.", ge=1024, le=2**30)
    max_image_pixels: int = _option("Images", ImageLimits.max_pixels, "Largest width times height.", ge=1024, le=10**9)
    max_image_aspect_ratio: float = _option("Images", ImageLimits.max_aspect_ratio, "Long side over short side.", ge=1, le=10000)
    image_memory_mb: int = _option(
        "Images",
        ImageLimits.max_memory // 2**20,
        "MiB that the images of all requests may take together; an image of 50 megapixels takes 0.9 GiB while it is decoded.",
        ge=128,
        le=2**20,
    )

    api_only: bool = _option("API", False, "Serve the API without the page.")
    ignore_tools: bool = _option(
        "API", True, "Answer requests with tools in text, as most front ends send tools with every question; off: refuse them."
    )
    ignore_json_mode: bool = _option(
        "API", False, "Answer requests with the response_format json_object in text, which may be no JSON; off: refuse them."
    )
    served_model_name: list[Name] | None = _option(
        "API", None, "Names of the model in the API; not set: that of its folder.", "names (in YAML a list)", min_length=1
    )
    api_keys: list[Key] | None = _option(
        "API",
        None,
        "Keys of the API. A request must bring one of them; not set: no key is needed.",
        "words of 8 to 200 visible ASCII characters without commas (in YAML a list)",
        min_length=1,
        repr=False,
    )
    allowed_origins: list[Origin] | None = _option(
        "API",
        None,
        "Sites whose pages may use the API from a browser, without the visitor's cookies; not set: none.",
        "origins such as https://chat.example.com (in YAML a list)",
        min_length=1,
    )
    max_request_bytes: int = _option("API", 64 * 2**20, "Largest request to the API.", ge=1024, le=2**30)

    scenarios_dir: HomePath = _option("Demos", SCENARIOS, "Folder of the scripted demos.", "a path")
    kiosk: bool = _option(
        "Demos", False, "For a public screen: no settings, and a new conversation when nobody touches the screen."
    )
    kiosk_idle_s: float = _option(
        "Demos", 90.0, "Seconds without a touch until a kiosk starts a new conversation.", ge=5, le=86400
    )
    kiosk_messages_per_hour: int = _option(
        "Demos", 30, "Questions that a visitor of a kiosk may ask within an hour.", ge=1, le=10000
    )
    max_kept_runs: int = _option(
        "Demos", 200, "Runs of the Explore page kept for each visitor; the oldest are deleted.", ge=1, le=10000
    )

    users: Users = _option(
        "Accounts",
        None,
        "Users who may sign in and use the page; not set: everybody may use it.",
        "entries as hash-password prints them, each name once (in YAML a list)",
        min_length=1,
        repr=False,
    )
    admins: list[Name] | None = _option(
        "Accounts", None, "Users who may open the page /admin.", "names out of users (in YAML a list)"
    )
    admin_key: Key | None = _option(
        "Accounts",
        None,
        "Key that opens the page /admin without users; best given by the environment.",
        "8 to 200 visible ASCII characters without commas",
        repr=False,
    )

    brand_logo: HomePath | None = _option(
        "Branding", None, "Logo beside the title.", "the path of a PNG, JPEG, WebP or SVG file of at most 256 KiB"
    )
    brand_color: str | None = _option(
        "Branding", None, "Accent colour; darkened or lightened for text, where needed.", "a colour such as #c2410c",
        pattern=r"^#[0-9a-fA-F]{6}$",
    )  # fmt: skip
    brand_footer: str = _option("Branding", "", "Text at the foot of every page.", max_length=500)

    system_prompt: str = _option("Answers", "", "Instruction to the model before every conversation.", max_length=10000)
    temperature: float = _sampling_option("temperature")
    top_p: float = _sampling_option("top_p")
    top_k: int = _sampling_option("top_k")
    max_tokens: int = _sampling_option("max_tokens")

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        return parse_value(name, cls.model_fields[name].annotation, value)

    @property
    def neuron(self) -> NeuronOptions:
        """The options that a Neuron engine is compiled for, with their defaults filled in."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(NeuronOptions)}
        for name in ("context_encoding_buckets", "token_generation_buckets"):
            values[name] = default_buckets(self.seq_len) if values[name] is None else tuple(values[name])
        values["dtype"] = "bfloat16" if self.dtype == "auto" else self.dtype
        return NeuronOptions(**values)

    @property
    def sampling(self) -> SamplingParams:
        """The sampling values to start with."""
        return SamplingParams(self.temperature, self.top_p, self.top_k, self.max_tokens)

    @property
    def image_limits(self) -> ImageLimits:
        """The largest image that is accepted."""
        memory = self.image_memory_mb * 2**20
        return ImageLimits(self.max_image_bytes, self.max_image_pixels, self.max_image_aspect_ratio, memory)

    @property
    def embedded(self) -> bool:
        """Whether the model is the small checkpoint that comes with the program."""
        return self.backend != "openai" and self.model_path.resolve() == EMBEDDED_CHECKPOINT

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the database that keeps conversations."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'conversations.sqlite3').as_posix()}"
