"""Configuration objects that keep what they are given."""


class OnDeviceSamplingConfig:
    def __init__(self, **kwargs):
        vars(self).update(kwargs)


class MultimodalVisionNeuronConfig:
    def __init__(self, **kwargs):
        vars(self).update(kwargs)
