"""Every option of the demo, once: its default, its bounds and its meaning. loader.py finds the values that are given for them.

Does not know what the options do, and imports no torch, transformers, gradio or SQLAlchemy.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
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
    """A field of Settings.

    Args:
        group: the heading of the option in --help.
        default: its default.
        meaning: its help text.
        allowed: what it takes, in words; None where allowed_values derives them from the type and the bounds.
        constraints: those of pydantic, such as ge and le.
    """
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
Host = Annotated[str, Field(pattern=r"^[^\s/@,]+$")]
Key = Annotated[str, Field(pattern=r"^[!-+\--~]{8,200}$")]


def _check_users(entries: list[str] | None) -> list[str] | None:
    found = [USER.match(entry) for entry in entries or ()]
    if not all(match is not None and is_hash(match[2]) for match in found):
        raise ValueError("an entry is a name, a colon and a hash")
    if len({match[1] for match in found if match}) < len(found):
        raise ValueError("a name is there twice")
    return entries


def _with_path(url: str) -> str:
    """The URL without a slash at the end; a URL without a path gets the path of the OpenAI protocol."""
    if not _REMOTE_URL.fullmatch(url):
        raise ValueError("no plain address")
    url = url.rstrip("/")
    return url if "/" in url.partition("://")[2] else url + "/v1"


class Settings(BaseModel):
    """The checked options of one deployment. load_settings makes them; a test may make them from keywords."""

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
        "What runs the model: PyTorch on a CPU or GPU (torch), an AWS Neuron instance, vLLM on a Neuron instance, or the server "
        "at remote_url (openai).",
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
    sequence_parallel_enabled: bool = _option("Neuron", False, "Divide long prompts among the cores; useful from 2000 tokens.")
    is_continuous_batching: bool = _option("Neuron", True, "Start a new request while others are being answered.")
    on_device_sampling_config: OnDeviceSampling | None = _option(
        "Neuron", OnDeviceSampling(), "Sample on the device: fast, without probabilities; none: on the host.", _ON_DEVICE
    )
    scratchpad_page_size: int = _option("Neuron", 1024, "MiB of a page of the device's scratchpad.", ge=1, le=65536)
    compiled_artifacts: HomePath | None = _option(
        "Neuron", None, "Folder of compiled models; not set: neuron-compiled-artifacts in model_path.", "a path"
    )

    remote_url: Annotated[str, AfterValidator(_with_path)] = _option(
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

    max_waiting: int = _option("Queue", 64, "How many requests may wait for a slot; more are refused.", ge=0, le=10000)
    request_time_limit_s: float = _option("Queue", 120.0, "Seconds from sending a request to its last token.", ge=1, le=86400)

    allowed_media_hosts: list[Host] | None = _option(
        "Images", None, "Hosts to fetch images from; not set: any public host; empty: no host.", "host names (in YAML a list)"
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
        "Keys of the API. A request must bring one of them; not set: no key is needed.",
        "words of 8 to 200 visible ASCII characters without commas (in YAML a list)",
        min_length=1,
        repr=False,
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

    users: Annotated[list[str] | None, AfterValidator(_check_users)] = _option(
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
        """Converts a text from outside of YAML, and refuses what pydantic's own conversions would accept."""
        name = info.field_name or ""
        kind = cls.model_fields[name].annotation
        if isinstance(value, str):  # from the environment or the command line, or put in quotes
            value = _parse(name, kind, value)
        elements = value if isinstance(value, list) else [value]
        if kind is not bool and any(isinstance(element, bool) for element in elements):
            raise ValueError("YAML's `yes` would count as 1")
        if kind is bool and not isinstance(value, bool):
            raise ValueError("1 and 0 are no yes and no")
        return value

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
        return ImageLimits(self.max_image_bytes, self.max_image_pixels, self.max_image_aspect_ratio)

    @property
    def embedded(self) -> bool:
        """Whether the model is the small checkpoint that comes with the program."""
        return self.backend != "openai" and self.model_path.resolve() == EMBEDDED_CHECKPOINT

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the database that keeps conversations."""
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
    """Converts a text for a bool, a list or a mapping; pydantic converts numbers."""
    if kind is bool:
        return _YES_NO.get(text.strip().lower(), text)
    if name == "on_device_sampling_config":
        return None if text.strip().lower() in ("none", "null") else json.loads(text)
    if kind is not None and list in {get_origin(part) for part in get_args(kind)}:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
