"""How work is run: worker processes, several training processes, stop signals, the device."""
