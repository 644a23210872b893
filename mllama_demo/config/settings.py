"""Every option of the demo once: its default, its bounds, its meaning. config.py finds out what is given for them.

Knows nothing of what the options do: importing it loads no torch, transformers, gradio or SQLAlchemy.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from mllama_demo.config.neuron import InstanceType, NeuronOptions, OnDeviceSampling, default_buckets
from mllama_demo.config.passwords import USER, is_hash
from mllama_demo.images.loading import ImageLimits
from mllama_demo.sampling import BOUNDS, SamplingParams

_PACKAGE = Path(__file__).resolve().parents[1]
SCENARIOS = _PACKAGE / "present" / "scenarios"
EMBEDDED_CHECKPOINT = _PACKAGE / "embedded"
_DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"
_HOST = re.compile(r"[^\s/@,]+")
_LENGTHS = "lengths in tokens, ascending (in YAML a list)"
_REMOTE_URL = re.compile(r"https?://[^\s/@?#]+(/[^\s?#]*)?")
_ADDRESS = "an address such as http://127.0.0.1:8000/v1, without user name and query"
_KEY = "printable ASCII without spaces"
_ON_DEVICE = (
    "none, or a mapping of global_topk (a whole number from 1), dynamic (true or false) and deterministic (true or false; a "
    "mapping is JSON outside of YAML)"
)
_YES_NO = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _option(group: str, default: Any, meaning: str, allowed: str | None = None, **constraints: Any) -> Any:
    """A field of Settings. group: its heading in --help. allowed: in words, where type and bounds do not say it."""
    return Field(default, description=meaning, json_schema_extra={"group": group, "allowed": allowed}, **constraints)


def _sampling_option(name: str) -> Any:
    bound = BOUNDS[name]
    default = int(bound.default) if bound.step >= 1 else bound.default
    return _option("Answers", default, f"{bound.label} to start with: {bound.help}.", ge=bound.minimum, le=bound.maximum)


def expand_home(path: str | Path) -> Path:
    """`~` and `~user` at the beginning as the home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - unlike Path.expanduser it leaves an unknown ~user alone


HomePath = Annotated[Path, AfterValidator(expand_home)]
Name = Annotated[str, Field(min_length=1, max_length=255)]
Key = Annotated[str, Field(pattern=r"^[!-+\--~]{8,200}$")]


class Settings(BaseModel):
    """What one deployment looks like, checked. load_settings makes it; a test may make one from keywords alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    host: str = _option("Server", "127.0.0.1", "Address to listen on; 0.0.0.0 for every interface.", min_length=1, max_length=255)
    port: int = _option("Server", 7860, "Port to listen on.", ge=1, le=65535)
    title: str = _option("Server", "Llama 3.2 Vision", "Title of the page.", min_length=1, max_length=120)
    data_dir: HomePath = _option("Server", Path("data"), "Folder where conversations are kept.")
    database_url: str | None = _option(
        "Server", None, "Database for conversations, instead of an SQLite file in data_dir.", "a SQLAlchemy URL", repr=False
    )

    model_path: HomePath = _option("Model", EMBEDDED_CHECKPOINT, "Folder of the checkpoint, in the Hugging Face layout.")
    backend: Literal["torch", "neuron", "vllm", "openai"] = _option(
        "Model",
        "torch",
        "What runs the model: PyTorch on a CPU or GPU, an AWS Neuron instance, vLLM on such a one, or a server at remote_url.",
    )
    device: str = _option("Model", "auto", "auto takes a GPU if there is one.", "auto, cpu, cuda or cuda:N", pattern=_DEVICE)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _option("Model", "auto", "Number format of the weights.")
    threads: int = _option("Model", 0, "CPU threads for the model; 0 chooses by its size.", ge=0, le=1024)
    batch_size: int = _option("Model", 4, "Slots: how many requests are answered at the same time.", ge=1, le=64)
    seq_len: int = _option("Model", 2048, "Context length in tokens, prompt and answer together.", ge=128, le=131072)
    vision_cache_size: int = _option("Model", 16, "Encoded images kept for follow-up questions.", ge=0, le=10000)

    instance_type: InstanceType = _option("Neuron", "trn1.32xlarge", "The instance that the model is compiled for.")
    tensor_parallel_size: int = _option("Neuron", 32, "NeuronCores that share the model.", ge=1, le=128)
    context_encoding_buckets: list[int] | None = _option(
        "Neuron", None, "Prompt lengths to compile for; not set: 1024, 2048 and seq_len.", _LENGTHS
    )
    token_generation_buckets: list[int] | None = _option(
        "Neuron", None, "Lengths of prompt and answer to compile for; not set: 1024, 2048 and seq_len.", _LENGTHS
    )
    sequence_parallel_enabled: bool = _option("Neuron", False, "Cut long prompts across the cores; worth it from 2k tokens.")
    is_continuous_batching: bool = _option("Neuron", True, "Let new requests join while others are being answered.")
    on_device_sampling_config: OnDeviceSampling | None = _option(
        "Neuron", OnDeviceSampling(), "Sample on the device: fast, without probabilities; none: on the host.", _ON_DEVICE
    )
    scratchpad_page_size: int = _option("Neuron", 1024, "MiB of a page of the device's scratchpad.", ge=1, le=65536)
    compiled_artifacts: HomePath | None = _option(
        "Neuron", None, "Folder for what is compiled; not set: neuron-compiled-artifacts in model_path.", "a path"
    )

    remote_url: str = _option(
        "Remote server", "http://127.0.0.1:8000/v1", "Server of the OpenAI protocol that runs the model.", _ADDRESS
    )
    remote_api_key: str | None = _option(
        "Remote server", None, "Its key; better in the environment, where nobody reads along.", _KEY, repr=False
    )
    remote_model: str | None = _option("Remote server", None, "Its model; not set: the first that it names.", "a name")
    remote_kind: Literal["auto", "vllm_neuron", "vllm", "mllama_demo", "other"] = _option(
        "Remote server", "auto", "Which program it is, since each ignores other values; auto cannot see the Neuron fork of vLLM."
    )
    remote_concurrency: int = _option(
        "Remote server", 0, "Requests sent to it at the same time; 0 chooses by its kind.", ge=0, le=1024
    )
    remote_connect_timeout_s: float = _option("Remote server", 5.0, "Seconds to connect.", ge=0.1, le=600)
    remote_silence_timeout_s: float = _option(
        "Remote server", 60.0, "Seconds until its first token, and from one to the next.", ge=1, le=86400
    )

    max_waiting: int = _option("Queue", 64, "How many requests may wait for a slot; more are refused.", ge=0, le=10000)
    request_time_limit_s: float = _option("Queue", 120.0, "Seconds from sending a request to its last token.", ge=1, le=86400)

    allowed_media_hosts: list[str] | None = _option(
        "Images", None, "Hosts to fetch images from; not set: any public one; empty: none.", "host names (in YAML a list)"
    )
    max_image_bytes: int = _option("Images", ImageLimits.max_bytes, "Largest image file.", ge=1024, le=2**30)
    max_image_pixels: int = _option("Images", ImageLimits.max_pixels, "Largest width times height.", ge=1024, le=10**9)
    max_image_aspect_ratio: float = _option("Images", ImageLimits.max_aspect_ratio, "Long side over short side.", ge=1, le=10000)

    api_only: bool = _option("API", False, "Serve the API without the page.")
    served_model_name: list[Name] | None = _option(
        "API", None, "Names of the model in the API; not set: that of its folder.", "names (in YAML a list)", min_length=1
    )
    api_keys: list[Key] | None = _option(
        "API",
        None,
        "Keys, one of which a request to the API must bring; not set: none is asked for.",
        "words of 8 to 200 visible ASCII characters without commas (in YAML a list)",
        min_length=1,
        repr=False,
    )
    max_request_bytes: int = _option("API", 64 * 2**20, "Largest request to the API.", ge=1024, le=2**30)

    scenarios_dir: HomePath = _option("Demos", SCENARIOS, "Folder of the scripted demos.", "a path")
    kiosk: bool = _option("Demos", False, "For a screen that passers-by use: no settings, and a fresh start when idle.")
    kiosk_idle_s: float = _option("Demos", 90.0, "Seconds without a touch until a kiosk begins anew.", ge=5, le=86400)
    kiosk_messages_per_hour: int = _option("Demos", 30, "Questions of one kiosk's visitor within an hour.", ge=1, le=10000)

    max_kept_runs: int = _option("Demos", 200, "Runs of the Explore page kept for each visitor; the oldest go.", ge=1, le=10000)

    users: list[str] | None = _option(
        "People",
        None,
        "Who may use the page, after signing in; not set: everybody.",
        "entries as hash-password prints them, each name once (in YAML a list)",
        min_length=1,
        repr=False,
    )
    admins: list[Name] | None = _option("People", None, "Users who see the page /admin.", "names out of users (in YAML a list)")
    admin_key: Key | None = _option(
        "People",
        None,
        "Opens the page /admin to everybody who knows it; better in the environment.",
        "8 to 200 visible ASCII characters without commas",
        repr=False,
    )

    brand_logo: HomePath | None = _option(
        "Brand", None, "Logo beside the title.", "the path of a PNG, JPEG, WebP or SVG file of at most 256 KiB"
    )
    brand_color: str | None = _option(
        "Brand", None, "Accent colour; darker or lighter where text in it could not be read.", "a colour such as #c2410c",
        pattern=r"^#[0-9a-fA-F]{6}$",
    )  # fmt: skip
    brand_footer: str = _option("Brand", "", "Text at the foot of every page.", max_length=500)

    system_prompt: str = _option("Answers", "", "What the model is told before every conversation.", max_length=10000)
    temperature: float = _sampling_option("temperature")
    top_p: float = _sampling_option("top_p")
    top_k: int = _sampling_option("top_k")
    max_tokens: int = _sampling_option("max_tokens")

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        """The value that a text from outside of YAML stands for; refuses what pydantic's own conversions would let pass."""
        name = info.field_name or ""
        kind = cls.model_fields[name].annotation
        if isinstance(value, str):  # from the environment or the command line, or put in quotes
            value = _parse(name, kind, value)
        elements = value if isinstance(value, list) else [value]
        if kind is not bool and any(isinstance(element, bool) for element in elements):
            raise ValueError("YAML's `yes` would count as 1")
        if kind is bool and not isinstance(value, bool):
            raise ValueError("1 and 0 are no yes and no")
        if name == "allowed_media_hosts" and isinstance(value, list) and not all(_HOST.fullmatch(str(host)) for host in value):
            raise ValueError("a host name has no scheme and no path")
        if name == "remote_api_key" and isinstance(value, str) and not re.fullmatch(r"[\x21-\x7e]+", value):
            raise ValueError("an HTTP header cannot carry it")
        if name == "users" and isinstance(value, list):
            _check_users(value)
        return _with_path(value) if name == "remote_url" and isinstance(value, str) else value

    @property
    def neuron(self) -> NeuronOptions:
        """What a Neuron engine is compiled for, with nothing left open."""
        buckets = list(default_buckets(self.seq_len))
        return NeuronOptions(
            instance_type=self.instance_type,
            tensor_parallel_size=self.tensor_parallel_size,
            batch_size=self.batch_size,
            seq_len=self.seq_len,
            context_encoding_buckets=tuple(buckets if self.context_encoding_buckets is None else self.context_encoding_buckets),
            token_generation_buckets=tuple(buckets if self.token_generation_buckets is None else self.token_generation_buckets),
            sequence_parallel_enabled=self.sequence_parallel_enabled,
            is_continuous_batching=self.is_continuous_batching,
            on_device_sampling_config=self.on_device_sampling_config,
            scratchpad_page_size=self.scratchpad_page_size,
            dtype="bfloat16" if self.dtype == "auto" else self.dtype,
            device=self.device,
        )

    @property
    def sampling(self) -> SamplingParams:
        """The sampling values to start with."""
        return SamplingParams(self.temperature, self.top_p, self.top_k, self.max_tokens)

    @property
    def image_limits(self) -> ImageLimits:
        """What an image may cost."""
        return ImageLimits(self.max_image_bytes, self.max_image_pixels, self.max_image_aspect_ratio)

    @property
    def embedded(self) -> bool:
        """Whether the small checkpoint that comes with the program answers."""
        return self.backend != "openai" and self.model_path.resolve() == EMBEDDED_CHECKPOINT

    @property
    def store_url(self) -> str:
        """Where conversations are kept, as a SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'conversations.sqlite3').as_posix()}"


def allowed_values(name: str) -> str:
    """What the option `name` takes, in words: "a whole number from 1 to 64"."""
    field = Settings.model_fields[name]
    limits = {key: getattr(m, key) for m in field.metadata for key in ("ge", "le", "min_length", "max_length") if hasattr(m, key)}
    if words := _extra(name)["allowed"]:
        return words
    if field.annotation is bool:
        return "true or false"
    if get_origin(field.annotation) is Literal:
        return " or ".join(get_args(field.annotation))
    if field.annotation is Path:
        return "a path"
    if field.annotation is str:
        return f"text of {limits.get('min_length', 0)} to {limits['max_length']} characters"
    low, high = (int(x) if x == int(x) else x for x in (limits["ge"], limits["le"]))
    return f"{'a whole number' if field.annotation is int else 'a number'} from {low} to {high}"


def group(name: str) -> str:
    """The heading that the option `name` has in --help."""
    return _extra(name)["group"]


def _extra(name: str) -> dict[str, Any]:
    return cast("dict[str, Any]", Settings.model_fields[name].json_schema_extra)


def _parse(name: str, kind: Any, text: str) -> Any:
    """The value that a text stands for, where that is no text and no number."""
    if kind is bool:
        return _YES_NO.get(text.strip().lower(), text)
    if name == "on_device_sampling_config":
        return None if text.strip().lower() in ("none", "null") else json.loads(text)
    if kind is not None and list in {get_origin(part) for part in get_args(kind)}:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _check_users(entries: list[Any]) -> None:
    found = [USER.match(str(entry)) for entry in entries]
    if not all(match is not None and is_hash(match[2]) for match in found):
        raise ValueError("an entry is a name, a colon and a hash")
    if len({match[1] for match in found if match}) < len(entries):
        raise ValueError("a name is there twice")


def _with_path(url: str) -> str:
    """Without a slash at the end; where there is no path, with the one of the protocol."""
    if not _REMOTE_URL.fullmatch(url):
        raise ValueError("no plain address")
    url = url.rstrip("/")
    return url if "/" in url.partition("://")[2] else url + "/v1"
