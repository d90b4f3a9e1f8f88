"""Prefect tasks: one file a stage, around the two libraries."""
