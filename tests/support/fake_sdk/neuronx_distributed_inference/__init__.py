"""In the place of NxDI where it is not installed: the few names that compiling touches, with the signatures of the real ones.

tests/contract/engine/nxdi/test_neuron_compile.py holds these to NxDI's source. FAKE_COMPILE chooses what compiling does here, see
models/mllama/modeling_mllama.py.
"""
