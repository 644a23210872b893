"""Configuration objects that keep what they are given."""


class OnDeviceSamplingConfig:
    def __init__(self, **kwargs):
        vars(self).update(kwargs)


class MultimodalVisionNeuronConfig:
    def __init__(self, **kwargs):
        self.scratchpad_page_size = None
        vars(self).update(kwargs)
