"""A browser demo of Llama 3.2 Vision on AWS Neuron that also runs, whole, on a laptop."""

__version__ = "0.1.0"
