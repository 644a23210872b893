"""Stand-ins for the wheels that exist on Neuron instances only, enough to import NxD and NxDI beside a plain PyTorch.

Nothing here emulates Neuron: a stand-in gives more of its kind whatever it is asked, and computes nothing. The two exceptions are
attention_kernel and RmsNorm, which say in PyTorch what an NKI kernel and an instruction of the compiler compute.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

import torch

ROOTS = ("torch_xla", "torch_neuronx", "neuronxcc", "nki", "nkilib", "libneuronxla", "boto3", "botocore")
PLATFORM = "trn1"


class Stub(type):
    """A class whose attributes are more such classes; stands where a decorator, a base class or an annotation is wanted."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(cls, name, Stub(name, (), {"__module__": f"{cls.__module__}.{cls.__name__}"}))
        return cls.__dict__[name]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.__bases__ != (object,):  # a real class that was given a stand-in as its base
            return super().__call__(*args, **kwargs)
        decorates = len(args) == 1 and not kwargs and callable(args[0]) and not isinstance(args[0], Stub)
        return args[0] if decorates else cls

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __or__


kernel_calls: list[tuple[int, ...]] = []  # the shape of the queries of each call of attention_kernel


def attention_kernel(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, output: torch.Tensor, kernel_name: str
) -> None:
    """What the kernel of that name computes for the vision encoder of NxDI up to 0.8: attention without a mask.

    Args:
        queries, keys: [heads, width, rows].
        values: [heads, rows, width].
        output: [heads, width, rows]; written to.
    """
    if kernel_name != "AttentionMMSoftmaxMMWithoutSwap":
        raise NotImplementedError(kernel_name)
    kernel_calls.append(tuple(queries.shape))
    weights = (queries.transpose(1, 2) @ keys * scale).softmax(-1)
    output.copy_((weights @ values).transpose(1, 2))


class RmsNorm:
    """The compiler's RMSNorm, which NxDI takes for this model from two cores on."""

    @staticmethod
    def apply(states: torch.Tensor, weight: torch.Tensor, eps: float, dim: int) -> torch.Tensor:
        return states * torch.rsqrt(states.square().mean(dim, keepdim=True) + eps) * weight


class StubModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, Stub(name, (), {"__module__": self.__name__}))
        return self.__dict__[name]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None) -> Any:
        if fullname.partition(".")[0] in ROOTS:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = StubModule(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        # The few names whose value decides what NxD and NxDI do while they are imported.
        if module.__name__ in ("torch_neuronx.utils", "torch_neuronx.utils.utils"):
            vars(module)["get_platform_target"] = lambda *args, **kwargs: PLATFORM
        if module.__name__ in ("neuronxcc.nki._private_kernels.attention", "neuronxcc.nki.kernels.attention"):
            vars(module)["attention_isa_kernel"] = attention_kernel
        if module.__name__ == "torch_neuronx.xla_impl.ops":
            vars(module)["RmsNorm"] = RmsNorm
        if module.__name__ in ("torch_xla", "torch_neuronx"):
            vars(module)["__version__"] = "2.9.0"


def install() -> None:
    """Before the first import of NxD or NxDI. Raises RuntimeError where the real wheels are: these tests are not for there."""
    real = [root for root in ROOTS[:-2] if root in sys.modules or importlib.machinery.PathFinder.find_spec(root)]
    if real:
        raise RuntimeError(f"{', '.join(real)} is really installed; these tests need an environment without the Neuron SDK")
    sys.meta_path.insert(0, _Finder())
    torch.classes.neuron = StubModule("torch.classes.neuron")
    _import_torchvision()


def _import_torchvision() -> None:
    """NxDI uses torchvision's transforms of PIL images only. A torchvision built for CUDA does not import beside a PyTorch that
    is not, for want of two compiled operators; declared, they are never missed."""
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        vars(sys.modules[__name__])["torchvision_operators"] = library  # declared as long as somebody holds it
        import torchvision  # noqa: F401
