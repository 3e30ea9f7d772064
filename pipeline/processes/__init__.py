"""Process management: worker pool, several training processes, stop signals, the device."""
