"""What lies where: artifacts, runs and decisions, in a folder or behind a URL. Nobody else builds a path in a store."""
