"""The name of the checkpoint is all that is kept of its configuration."""


def load_pretrained_config(model_path_or_name=None, hf_config=None):
    def load_config(self):
        self._name_or_path = model_path_or_name

    return load_config
