"""The sampling controls in the right sidebar: the components, how they follow the backend, and their values.

The values survive a reload: the browser keeps them, see static/sampling_values.js. The preset always says which values the
sliders have; values of no preset are called Custom.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendInfo
from mllama_demo.errors import BadRequest
from mllama_demo.sampling import BOUNDS, PRESETS, SamplingParams
from mllama_demo.ui.event_scripts import STORED_VALUES

CUSTOM = "Custom"
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
        preset = next((p.name for p in PRESETS if (p.temperature, p.top_p, p.top_k) == values), CUSTOM)
        names = [*(preset.name for preset in PRESETS), CUSTOM]
        self.preset = gr.Dropdown(names, value=preset, label="Preset", elem_id="preset", filterable=False)
        self.stored = gr.Textbox("", visible=False)
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
        fitted.then(self._initial_values, self.stored, self.values, js=STORED_VALUES, queue=False, **silent_event)
        sliders = [self.temperature, self.top_p, self.top_k]
        # Not `input`: a Dropdown fires it also for a list that is opened and left.
        self.preset.select(self._apply_preset, self.preset, [self.greedy, *sliders], queue=False, **silent_event)
        self.greedy.change(self.grey_out, self.greedy, sliders, queue=False, **silent_event)
        names = [[p.name, p.temperature, p.top_p, p.top_k] for p in PRESETS]
        name_of = f"(...values) => window.mllamaPresetName({json.dumps(names)}, {json.dumps(CUSTOM)}, values)"
        for control in (self.greedy, *sliders):
            control.change(None, [self.greedy, *sliders], self.preset, js=name_of, api_visibility="private")
        store = f"(...values) => window.mllamaStoreValues(values, {json.dumps(self._defaults())})"
        for control in self.values:
            control.change(None, self.values, None, js=store, api_visibility="private")

    def _defaults(self) -> list[Any]:
        """The values of a page that stores none."""
        settings = self._settings
        most = min(BOUNDS["max_tokens"].maximum, self._info().context_length)
        max_tokens = min(settings.max_tokens, most)
        return [False, settings.temperature, settings.top_p, settings.top_k, max_tokens, "", False]

    def values_of(self, sampling: dict[str, Any]) -> list[Any]:
        """The values of the controls that repeat an answer.

        Args:
            sampling: the sampling values in the metadata of an answer.
        """
        greedy = sampling["temperature"] == 0
        drawn = [gr.skip()] * 3 if greedy else [sampling[name] for name in ("temperature", "top_p", "top_k")]
        seed = "" if sampling.get("seed") is None else str(sampling["seed"])
        most = min(BOUNDS["max_tokens"].maximum, self._info().context_length)
        return [greedy, *drawn, min(sampling["max_tokens"], most), seed, bool(sampling.get("ignore_eos"))]

    def adapt_to_backend(self, max_tokens: float) -> list[Any]:
        """Updates of the controls for what the backend supports."""
        info = self._info()
        most = min(BOUNDS["max_tokens"].maximum, info.context_length)
        # Without a value where it fits: the visitor may have changed it since the page asked.
        length = gr.update(maximum=most) if max_tokens <= most else gr.update(maximum=most, value=most)
        ignore_eos = _updated("ignore_eos", info, IGNORE_EOS_HINT)
        return [_updated("top_k", info), length, _updated("seed", info), ignore_eos]

    def _initial_values(self, stored: str, request: gr.Request) -> list[Any]:
        """The values in the page's address, from a link of the Explore page, and else those that the browser keeps.

        A value that is missing or wrong changes nothing.
        """
        try:
            found = json.loads(stored or "{}")
        except ValueError:
            found = {}
        found = found if isinstance(found, dict) else {}
        found = {**found, **{name: request.query_params[name] for name in BOUNDS if name in request.query_params}}
        greedy = found.get("greedy") is True and "temperature" not in request.query_params
        values: list[Any] = [greedy or gr.skip()]
        for name in ("temperature", "top_p", "top_k", "max_tokens", "seed"):
            values.append(_checked(name, found.get(name), self._info().context_length))
        return [*values, True if found.get("ignore_eos") is True else gr.skip()]

    def _apply_preset(self, name: str | None) -> list[Any]:
        preset = next((p for p in PRESETS if p.name == name), None)
        if preset is None:
            return [gr.skip()] * 4
        return [False, preset.temperature, preset.top_p, preset.top_k]

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
    """The sampling parameters. Raises BadRequest for the first value out of bounds, which it calls by its label."""
    number: Any = (seed or "").strip() or None
    if number is not None and number.isdecimal() and len(number) < 20:
        number = int(number)
    values = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens}
    for name, value in {**values, **({} if number is None else {"seed": number})}.items():
        BOUNDS[name].check(BOUNDS[name].label, value)  # SamplingParams would name the field of the API
    params = SamplingParams(temperature, top_p, int(top_k), int(max_tokens), number, ignore_eos=bool(ignore_eos))
    return params.as_greedy() if greedy else params


def _checked(name: str, value: Any, context_length: int) -> Any:
    """A value for the control of this name; no change for a value that is missing or out of bounds."""
    try:
        number = float(value)
        BOUNDS[name].check(name, number)
    except (TypeError, ValueError, BadRequest):
        return gr.skip()
    if name == "seed":
        return f"{number:.0f}"
    return min(number, context_length) if name == "max_tokens" else number


def _updated(name: str, info: BackendInfo, hint: str = "") -> Any:
    """The update of one control. A control without effect shows the reason. hint: for a name that is not in BOUNDS."""
    reason = info.ignored.get(name)
    return gr.update(interactive=reason is None, info=reason or hint or BOUNDS[name].hint)
