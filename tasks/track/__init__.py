"""Finished runs, logged to MLflow."""
