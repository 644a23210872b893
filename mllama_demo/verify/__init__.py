"""The command `verify`: proves on a device that the configured engine computes what a reference on the CPU computes."""
