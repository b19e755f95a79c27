"""What TensorRT itself makes of our graphs, against what the backend binds.

Without a GPU no engine can be read back. What is asked instead is what TensorRT built it of: its
own network and profiles.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.engines import require_engine_builder
from support.makers import MakeFamily

from rbee_export import Options, digest, export, open_checkpoint
from rbee_export.export import TensorRtTarget
from rbee_runtime.artifact import Artifact, Manifest
from rbee_runtime.backend.tensorrt_library import Errors, TensorRt
from rbee_runtime.backend.tensorrt_tensors import check_tensors
from rbee_runtime.errors import ArtifactError

Built = Callable[[str, Any], tuple[Artifact, "Network"]]


class Network:
    """A network and its profiles, answering as the engine made of them does."""

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self.profiles: list[Any] = []
        self.network: Any = None

    def read(self) -> None:
        network = self.network
        inputs = [network.get_input(n) for n in range(network.num_inputs)]
        outputs = [network.get_output(n) for n in range(network.num_outputs)]
        self._inputs = {tensor.name for tensor in inputs}
        self._tensors = {tensor.name: tensor for tensor in (*inputs, *outputs)}
        self._names = list(self._tensors)
        self.num_io_tensors = len(self._names)
        self.num_optimization_profiles = len(self.profiles)
        layers = [network.get_layer(n) for n in range(network.num_layers)]
        self._aliases = {
            layer.get_output(0).name: layer.get_input(0).name
            for layer in layers
            if layer.type == self._trt.LayerType.KV_CACHE_UPDATE
        }

    def get_tensor_name(self, number: int) -> str:
        return self._names[number]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors[name].dtype

    def get_tensor_location(self, name: str) -> Any:
        # What sizes follow from is read on the host.
        places = self._trt.TensorLocation
        return places.HOST if self._tensors[name].is_shape_tensor else places.DEVICE

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name in self._inputs else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> Any:
        return self._tensors[name].shape

    def get_aliased_input_tensor(self, name: str) -> str | None:
        return self._aliases.get(name)

    def get_tensor_profile_shape(self, name: str, number: int) -> Any:
        return self.profiles[number].get_shape(name)


@pytest.fixture
def built(make_family: MakeFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    """``built(family, precision)``: an artifact, and what its engine was built of."""
    require_engine_builder()
    import tensorrt_rtx as trt

    def make(family: str, precision: Any) -> tuple[Artifact, Network]:
        seen = Network(trt)

        class Builder(trt.Builder):
            def create_network(self, flags: int) -> Any:
                seen.network = super().create_network(flags)
                return seen.network

            def create_optimization_profile(self) -> Any:
                seen.profiles.append(super().create_optimization_profile())
                return seen.profiles[-1]

            def build_serialized_network_to_stream(self, *arguments: Any) -> Any:
                done = super().build_serialized_network_to_stream(*arguments)
                seen.read()
                return done

        recording = SimpleNamespace(**{**vars(trt), "Builder": Builder})
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", recording)
        checkpoint = open_checkpoint(make_family(family))
        options = Options(precision, target=TensorRtTarget(("SM89",), 3, 96))
        export(checkpoint, tmp_path / family, options, digest(checkpoint.files))
        return Artifact.open(tmp_path / family), seen

    return make


def check(artifact: Artifact, network: Network, manifest: Manifest | None = None) -> None:
    import tensorrt_rtx as trt

    manifest = manifest or artifact.manifest
    entry = manifest.engines[0]
    check_tensors(network, trt, entry, manifest, artifact.engine_file(entry))


@pytest.mark.parametrize(
    ("family", "precision", "profiles"),
    [
        ("llama", "fp16", [((1, 1), (1, 96)), ((1, 3), (1, 1))]),
        ("gemma2", "bf16", [((1, 1), (1, 96)), ((1, 3), (1, 1))]),
        ("phi3-longrope", "fp32", [((1, 1), (1, 96)), ((1, 3), (1, 1))]),
        ("qwen3", "int8", [((1, 3), (1, 96))]),
    ],
)
def test_it_takes_what_the_backend_binds(
    family: str, precision: str, profiles: list[Any], built: Built
) -> None:
    artifact, network = built(family, precision)
    (entry,) = artifact.manifest.engines
    assert [(profile.batch, profile.sequence) for profile in entry.profiles] == profiles
    check(artifact, network)


def test_another_models_engine_is_not_taken(built: Built) -> None:
    artifact, network = built("llama", "fp16")
    manifest = artifact.manifest
    wider = manifest.cache.model_copy(update={"head_dim": 2 * manifest.cache.head_dim})
    with pytest.raises(ArtifactError, match=r"SM89.engine: the engine has past_key.0 of \(-1,"):
        check(artifact, network, manifest.model_copy(update={"cache": wider}))
    longer = manifest.engines[0].model_copy(update={"max_length": 104})
    with pytest.raises(ArtifactError, match=r"past_key.0 of \(-1, \d+, 96, \d+\)"):
        check(artifact, network, manifest.model_copy(update={"engines": (longer,)}))


def test_a_logger_of_its_own_is_taken() -> None:
    """Its classes cannot be made up: what derives from them is tried on the real ones."""
    require_engine_builder()
    library = TensorRt.load("tensorrt_rtx")
    assert library is not None
    errors = Errors()
    logger = library.logger(errors)
    runtime = library.module.Runtime(logger)
    assert runtime.deserialize_cuda_engine(b"this is no engine" * 100) is None
    fault = errors.fault("loading the engine")
    assert str(fault).startswith("loading the engine failed in TensorRT: ")
    assert not str(fault).endswith("it does not say why")
    assert "\n" not in str(fault)


def test_what_is_called_of_it_is_there() -> None:
    """The stand-in of other tests answers to nothing that the real one has not."""
    require_engine_builder()
    import tensorrt_rtx as trt
    from support.fake_tensorrt import FakeContext, FakeEngine, FakeTensorRt

    for fake, real in ((FakeContext, trt.IExecutionContext), (FakeEngine, trt.ICudaEngine)):
        calls = {name for name in vars(fake) if name.startswith(("get_", "set_", "create", "exec"))}
        assert calls <= set(dir(real))
    for enum in (
        "TensorIOMode",
        "TensorLocation",
        "ExecutionContextAllocationStrategy",
        "DynamicShapesKernelSpecializationStrategy",
        "EngineStat",
        "DataType",
    ):
        members = getattr(FakeTensorRt, enum).__members__
        assert set(members) <= set(getattr(trt, enum).__members__)
    settings = {
        "set_execution_context_allocation_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
    }
    assert settings <= set(dir(trt.IRuntimeConfig))
