"""A model that compiles in no time, and tells the story of it as NxD 0.18 and NxDI 0.9 do.

FAKE_COMPILE: fail, full (the disk), no-room (the same, as safetensors says it), stop (half-way), exit, killed (by the system) or
compiler-killed (a process that NxDI started); anything else: all is well.
"""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import modeling_mllama_vision

logger = logging.getLogger("Neuron")


class MllamaInferenceConfig:
    def __init__(self, neuron_config, fused_spec_config=None, load_config=None, metadata=None, **kwargs):
        self.neuron_config = neuron_config
        load_config(self)

    def save(self, model_path):
        folder = Path(model_path)
        folder.mkdir(parents=True, exist_ok=True)
        values = dict(vars(self.neuron_config))
        if values["on_device_sampling_config"] is not None:
            values["on_device_sampling_config"] = vars(values["on_device_sampling_config"])
        (folder / "neuron_config.json").write_text(json.dumps({"_name_or_path": self._name_or_path, "neuron_config": values}))


class NeuronMllamaForCausalLM:
    def __init__(self, model_path, config=None, neuron_config=None):
        assert modeling_mllama_vision.convert_aspect_ratios_to_ids is not None, "the ids must be corrected before compiling"
        self.config = config

    def compile(self, compiled_model_path, debug=False, pre_shard_weights_hook=None, dry_run=False):
        wanted = os.environ.get("FAKE_COMPILE", "")
        print("Compiler status PASS")  # as compilers do, between the events
        values = self.config.neuron_config
        work, folder = Path(os.environ["BASE_COMPILE_WORK_DIR"]), Path(compiled_model_path)
        context, token = values.context_encoding_buckets, values.token_generation_buckets
        models = {"context_encoding_model": context, "token_generation_model": token}
        self.config.save(compiled_model_path)
        logger.info(f"Saving the neuron_config to {compiled_model_path}/")
        logger.info(f"Generating HLOs for the following models: {list(models)}")
        for key, buckets in models.items():
            logger.info(f"Generating {len(buckets)} hlos for key: {key}")
            for length in buckets:
                logger.info(f"generating HLO: {key}, input example shape = torch.Size([1, {length}])")
                logger.info(f"Finished generating HLO for {key} in 1.5 seconds, input example shape = torch.Size([1, {length}])")
        logger.info("Generated all HLOs in 6.0 seconds")
        logger.info("Starting compilation for the priority HLO")
        self._write(work / "token_generation_model" / "_tp0_bk0" / "graph.neff")
        logger.info("Done compilation for the priority HLO in 70.1 seconds")
        logger.info("Starting compilation for all HLOs")
        if wanted == "stop":
            compiler = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
            logger.info(f"Neuron compiler flags: {compiler.pid}")
            time.sleep(300)
        if wanted == "exit":
            os._exit(3)
        if wanted == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if wanted == "compiler-killed":
            subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], check=True)
        if wanted == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work / "graph.hlo"))
        if wanted == "no-room":
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
        if wanted == "fail":
            raise RuntimeError("neuronx-cc failed with 70\nand much more")
        logger.info("Finished Compilation for all HLOs in 1800.2 seconds")
        logger.info("Finished building model in 1900.5 seconds")
        self._write(folder / "model.pt")
        logger.info("Pre-sharding checkpoints.")
        logger.info(f"Sharding weights for ranks: 0...{values.tp_degree - 1}")
        for rank in range(values.tp_degree):
            self._write(folder / "weights" / f"tp{rank}_sharded_checkpoint.safetensors")
        logger.info("Done Sharding weights in 200.1")

    def _write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.name} of {self.config._name_or_path}")
