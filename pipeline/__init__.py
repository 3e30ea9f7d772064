"""Everything that touches files, DVC or Prefect; imports `melodac`, never the reverse."""
