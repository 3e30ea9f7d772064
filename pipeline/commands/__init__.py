"""Command-line programs outside the DAG: the `melodac` command and `codec.py`."""
