"""Stages, commands, DVC and Prefect around the library `melodac`, which never imports it."""
