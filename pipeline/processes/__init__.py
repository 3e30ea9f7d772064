"""Execution of work: worker processes, data-parallel processes, stop signals, the device."""
