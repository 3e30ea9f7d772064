"""Pipeline around the library: files, DVC and Prefect; imports `melodac`, never the reverse."""
