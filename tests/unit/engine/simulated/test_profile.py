"""Device profiles: the values between the measured ones, and files that are not right."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama_demo.engine.simulated.profile import DeviceProfile, interpolated, read_profile
from mllama_demo.errors import ConfigError

RIGHT = "name: a\nsource: b\nestimated: true\nprefill_s: {10: 1.0}\ndecode_s: {1: 0.1}\n"


@pytest.mark.parametrize(("at", "value"), [(1, 1.0), (10, 1.0), (15, 1.5), (20, 2.0), (30, 3.0), (40, 5.0), (50, 7.0)])
def test_values_between_and_beyond_the_measured_ones(at: int, value: float) -> None:
    assert interpolated({10: 1.0, 20: 2.0, 30: 3.0, 35: 4.0}, at) == pytest.approx(value)


def test_a_device_with_a_fixed_batch_takes_the_same_time_for_every_number_of_slots() -> None:
    assert [interpolated({4: 0.04}, slots) for slots in (1, 2, 4)] == [0.04, 0.04, 0.04]


def test_what_a_step_takes_longer_for() -> None:
    device = DeviceProfile(
        "a", "b", True, {10: 1.0}, {1: 0.1, 4: 0.4}, image_step_s={1: 0.01, 4: 0.04}, context_step_s=0.001, overhead_s=0.005
    )
    assert device.step_s(2) == pytest.approx(0.2 + 2 * 0.005)
    assert device.step_s(2, longest=30) == pytest.approx(0.2 + 2 * (0.005 + 0.03))
    assert device.step_s(2, longest=30, has_image=True) == pytest.approx(0.2 + 2 * (0.005 + 0.03) + 0.02)


def test_a_device_without_times_for_images_and_lengths_has_the_same_steps_for_all() -> None:
    device = DeviceProfile("a", "b", True, {10: 1.0}, {4: 0.04})
    assert device.step_s(4, longest=2000, has_image=True) == device.step_s(1) == 0.04
    assert device.reading_s(10, has_image=True) == 1.0


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("name: a\n", "", "lacks name"),
        ("name: a", "name: a\nspeed: 3", "has 'speed', which is none of"),
        ("estimated: true", "estimated: perhaps", "estimated must be true or false, got 'perhaps'"),
        ("{10: 1.0}", "{}", "prefill_s must map whole numbers from 1 to seconds"),
        ("{10: 1.0}", "{0: 1.0}", "prefill_s must map"),
        ("{10: 1.0}", "{10: fast}", "prefill_s must map"),
        ("{1: 0.1}", "0.1", "decode_s must map"),
        ("{1: 0.1}", "{1: 0.1}\nimage_s: -1", "image_s must be a number from 0, got -1"),
        ("{1: 0.1}", "{1: 0.1}\nimage_s: null", "image_s must be a number from 0, got None"),
        ("{1: 0.1}", "{1: 0.1}\nimage_step_s: 0.5", "image_step_s must map whole numbers from 1 to seconds, got 0.5"),
        ("{1: 0.1}", "{1: 0.1}\nimage_step_s: {}", "image_step_s must map whole numbers from 1 to seconds, got {}"),
        ("{1: 0.1}", "{1: 0.1}\nimage_step_s: {1: 0.2, 4: 0.1}", "image_step_s must not fall"),
        ("{1: 0.1}", "{1: 0.1}\nimage_token_s: -1", "image_token_s must be a number from 0, got -1"),
        ("{1: 0.1}", "{1: 0.1}\ncontext_step_s: fast", "context_step_s must be a number from 0, got 'fast'"),
        ("{1: 0.1}", "{1: 0.04, 2: 0.01}", "decode_s must not fall, got {1: 0.04, 2: 0.01}"),
        ("{1: 0.1}", "{1: 0, 4: 0.1}", "decode_s must be above 0"),
        ("{1: 0.1}", "{1: 0.1}\npiece_tokens: 0.5", "piece_tokens must be a whole number from 0"),
        ("{1: 0.1}", "{1: 0.1}\nslowness: 1.5", "slowness must be a list of numbers above 0, got 1.5"),
        ("{1: 0.1}", "{1: 0.1}\nslowness: [1.0, 0]", r"slowness must be a list of numbers above 0, got \[1.0, 0\]"),
        ("{1: 0.1}", "{1: [", "is not valid YAML, line"),
        (RIGHT, "- a list", "must be a mapping"),
    ],
)
def test_a_file_that_is_not_right_is_refused(tmp_path: Path, before: str, after: str, words: str) -> None:
    file = tmp_path / "device.yaml"
    file.write_text(RIGHT)
    assert read_profile(str(file)).decode_s == {1: 0.1}
    file.write_text(RIGHT.replace(before, after))
    with pytest.raises(ConfigError, match=words):
        read_profile(str(file))
