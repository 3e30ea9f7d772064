"""The `melodac` command and `codec.py`: what a person starts that is no stage of the DAG."""
