"""Commands that are no stage of the DAG: the `melodac` command and `codec.py`."""
