"""The Prefect glue, once: a stage's task, where it runs, its retries, its turn on the device, its progress."""
