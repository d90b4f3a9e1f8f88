"""One file a stage, named like it: its key, its task, and what it makes."""
