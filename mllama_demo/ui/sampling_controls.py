"""The sampling controls in the right sidebar: the components, how they follow the backend, and their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendInfo
from mllama_demo.errors import BadRequest
from mllama_demo.sampling import BOUNDS, PRESETS, SamplingParams

IGNORE_EOS_HINT = "go on past the model's own end, to max tokens"


def slider(name: str, value: float, **kwargs: Any) -> gr.Slider:
    """A slider whose range, step and hint come from sampling.BOUNDS."""
    bound = BOUNDS[name]
    maximum = kwargs.pop("maximum", bound.maximum)
    return gr.Slider(
        bound.minimum, maximum, value=value, step=bound.step, label=bound.label, info=bound.hint,
        elem_id=name.replace("_", "-"), **kwargs,
    )  # fmt: skip


class SamplingControls:
    """The components and their handlers. `values` are the inputs of handlers that call sampling_from.

    info: returns what the backend offers at this moment: another server may answer at the same address by now.
    """

    def __init__(self, settings: Settings, info: Callable[[], BackendInfo]) -> None:
        self._settings, self._info = settings, info

    def lay_out(self) -> None:
        settings = self._settings
        values = (settings.temperature, settings.top_p, settings.top_k)
        preset = next((p.name for p in PRESETS if (p.temperature, p.top_p, p.top_k) == values), None)
        self.preset = gr.Dropdown(
            [preset.name for preset in PRESETS], value=preset, label="Preset", elem_id="preset", filterable=False
        )
        self.greedy = gr.Checkbox(False, label="Greedy: always the likeliest token", elem_id="greedy")
        self.temperature = slider("temperature", settings.temperature)
        self.top_p = slider("top_p", settings.top_p)
        self.top_k = slider("top_k", settings.top_k)
        most = min(BOUNDS["max_tokens"].maximum, self._info().context_length)
        self.max_tokens = slider("max_tokens", min(settings.max_tokens, most), maximum=most)
        seed = BOUNDS["seed"]
        self.seed = gr.Textbox("", label=seed.label, info=seed.hint, max_lines=1, elem_id="seed")
        self.ignore_eos = gr.Checkbox(False, label="Ignore the end", info=IGNORE_EOS_HINT, elem_id="ignore-eos")

    @property
    def values(self) -> list[Any]:
        return [self.greedy, self.temperature, self.top_p, self.top_k, self.max_tokens, self.seed, self.ignore_eos]

    def wire(self, demo: gr.Blocks, silent_event: dict[str, Any]) -> None:
        adapted = [self.top_k, self.max_tokens, self.seed, self.ignore_eos]
        fitted = demo.load(self.adapt_to_backend, self.max_tokens, adapted, queue=False, **silent_event)
        in_address = [self.temperature, self.top_p, self.top_k, self.seed, self.max_tokens]
        fitted.then(_values_in_address, None, in_address, queue=False, **silent_event)
        sliders = [self.temperature, self.top_p, self.top_k]
        self.preset.input(_apply_preset, self.preset, [self.greedy, *sliders], queue=False, **silent_event)
        self.greedy.change(self.grey_out, self.greedy, sliders, queue=False, **silent_event)

    def adapt_to_backend(self, max_tokens: float) -> list[Any]:
        """Updates of the controls for what the backend supports."""
        info = self._info()
        most = min(BOUNDS["max_tokens"].maximum, info.context_length)
        length = gr.update(maximum=most, value=min(max_tokens, most))
        ignore_eos = _updated("ignore_eos", info, IGNORE_EOS_HINT)
        return [_updated("top_k", info), length, _updated("seed", info), ignore_eos]

    def grey_out(self, greedy: bool) -> list[Any]:
        """Updates of the sliders: greedy decoding does not use them."""
        top_k = gr.update(interactive=not greedy and "top_k" not in self._info().ignored)
        return [gr.update(interactive=not greedy)] * 2 + [top_k]


def sampling_from(
    greedy: bool,
    temperature: float,
    top_p: float,
    top_k: float,
    max_tokens: float,
    seed: str | None,
    ignore_eos: bool = False,
) -> SamplingParams:
    """The sampling parameters. Raises BadRequest for the first value out of bounds."""
    seed = (seed or "").strip()
    if seed and not seed.isdecimal():
        BOUNDS["seed"].check("seed", seed)
    number = int(seed) if seed else None
    params = SamplingParams(temperature, top_p, int(top_k), int(max_tokens), number, ignore_eos=bool(ignore_eos))
    return params.as_greedy() if greedy else params


def _values_in_address(request: gr.Request) -> list[Any]:
    """The values in the page's address, from a link of the Explore page. A value that is missing or wrong changes nothing."""

    def value_of(name: str) -> Any:
        try:
            value = float(request.query_params.get(name) or "")
            BOUNDS[name].check(name, value)
        except (ValueError, BadRequest):
            return gr.skip()
        return f"{value:.0f}" if name == "seed" else value

    return [value_of(name) for name in ("temperature", "top_p", "top_k", "seed", "max_tokens")]


def _apply_preset(name: str | None) -> list[Any]:
    preset = next((p for p in PRESETS if p.name == name), None)
    if preset is None:
        return [gr.skip()] * 4
    return [False, preset.temperature, preset.top_p, preset.top_k]


def _updated(name: str, info: BackendInfo, hint: str = "") -> Any:
    """The update of one control. A control without effect shows the reason. hint: for a name that is not in BOUNDS."""
    reason = info.ignored.get(name)
    return gr.update(interactive=reason is None, info=reason or hint or BOUNDS[name].hint)
