"""The training makes checkpoints with transformers 5. An instance of the Neuron SDK, with transformers 4, trains nothing."""

from __future__ import annotations

import pytest
import transformers


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    if int(transformers.__version__.partition(".")[0]) < 5:
        pytest.skip(f"the training needs transformers 5, and {transformers.__version__} is installed")
